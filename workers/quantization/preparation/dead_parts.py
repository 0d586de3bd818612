"""Drop what no output depends on: nodes whose results nobody reads, and tensors that no node reads."""

from onnx import GraphProto

from workers.formats.onnx.graph import bodies_of
from workers.quantization.graph import captured, drop_nodes


def drop_dead_parts(graph: GraphProto) -> tuple[int, int]:
    """Drop dead nodes and unread tensors, in nested bodies too; returns how many of each.

    Nodes are in the order of computation. Inputs and outputs stay, as they are what callers see.
    """
    nodes = tensors = 0
    used = {value.name for value in graph.output}
    dead: list[int] = []
    for index in range(len(graph.node) - 1, -1, -1):
        node = graph.node[index]
        if used.isdisjoint(node.output):
            dead.append(index)
            continue
        for body in bodies_of(node.attribute):
            inner = drop_dead_parts(body)
            nodes, tensors = nodes + inner[0], tensors + inner[1]
        used.update(node.input)
        used |= captured(node)
    drop_nodes(graph, dead)
    # What has a default value is an input as well, and stays one.
    used.update(value.name for value in graph.input)
    for stored in (graph.initializer, graph.sparse_initializer):
        for index in range(len(stored) - 1, -1, -1):
            name = stored[index].name if stored is graph.initializer else stored[index].values.name
            if name not in used:
                del stored[index]
                tensors += 1
    return nodes + len(dead), tensors
