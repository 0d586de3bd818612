"""Names: one of its own for every node, and for every tensor of every body."""

from onnx import GraphProto, ModelProto, helper

from workers.formats.onnx.graph import all_nodes, bodies_of, graphs
from workers.quantization.graph import defined, fresh


def name_nodes(model: ModelProto) -> None:
    """Give every node a name of its own, from its type and place where it has none."""
    taken = {node.name for node in all_nodes(model) if node.name}
    seen: set[str] = set()
    for index, node in enumerate(all_nodes(model)):
        if not node.name or node.name in seen:
            base = node.name or node.op_type
            suffix = index
            while f"{base}_{suffix}" in taken:
                suffix += 1
            node.name = f"{base}_{suffix}"
            taken.add(node.name)
        seen.add(node.name)


def make_names_unique(model: ModelProto) -> None:
    """Rename what a nested body calls by a name that another graph uses too.

    Sibling bodies may share names; onnxruntime's tools keep one table of names for the whole model.
    """
    taken = set(defined(model.graph))
    for graph in list(graphs(model.graph))[1:]:
        here = defined(graph)
        renamed: dict[str, str] = {}
        for name in sorted(here & taken):
            suffix = 2
            while f"{name}_{suffix}" in taken or f"{name}_{suffix}" in here:
                suffix += 1
            renamed[name] = f"{name}_{suffix}"
        if renamed:
            rename(graph, renamed)
        taken |= {renamed.get(name, name) for name in here}


def rename_inner(model: ModelProto, endings: tuple[str, ...]) -> None:
    """Rename tensors with such endings that are neither inputs nor outputs; names are unique in the whole model."""
    taken = {name for graph in graphs(model.graph) for name in defined(graph)}
    outside = {value.name for value in (*model.graph.input, *model.graph.output)}
    rename(
        model.graph, {name: fresh(f"{name}_own", taken) for name in sorted(taken - outside) if name.endswith(endings)}
    )


def give_outputs_their_names(graph: GraphProto) -> None:
    """Let a node make each output that is a stored tensor: tools convert the tensor, and define its name twice."""
    stored = {tensor.name for tensor in graph.initializer}
    taken = defined(graph)
    for place, name in [(place, value.name) for place, value in enumerate(graph.output) if value.name in stored]:
        own = fresh(f"{name}_stored", taken)
        rename(graph, {name: own})
        graph.output[place].name = name
        graph.node.append(helper.make_node("Identity", [own], [name], name=own))


def rename(graph: GraphProto, renamed: dict[str, str]) -> None:
    """Call tensors otherwise, where they are made and wherever they are read, nested bodies included."""
    for entry in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        entry.name = renamed.get(entry.name, entry.name)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        for body in bodies_of(node.attribute):
            rename(body, renamed)
