"""A graph cut into regions at named tensors, so that what follows one of them can be run without what came before.

The region of a tensor is what it alone needs: its ancestors that belong to no region before it. So a change of one
tensor makes only those regions run again that depend on it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from onnx import ModelProto, NodeProto, ValueInfoProto, helper
from onnx.helper import np_dtype_to_tensor_dtype

from workers.quantization.graph import captured
from workers.quantization.qdq.plan import Array


@dataclass(slots=True)
class Region:
    """Nodes by their place in the graph, and the tensors that come in and go out."""

    nodes: list[int] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)


def cut(model: ModelProto, tensors: Sequence[str]) -> list[Region]:
    """Regions that end at these tensors and at the model's outputs, in an order in which they can be run.

    The nodes are sorted. What neither a tensor nor an output needs belongs to no region.
    """
    graph = model.graph
    makers = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    wanted = [name for name in dict.fromkeys([*tensors, *(value.name for value in graph.output)]) if name in makers]
    region_of: dict[int, int] = {}
    regions: list[Region] = []
    for name in sorted(wanted, key=lambda name: makers[name]):
        nodes = _ancestors(graph.node, makers, makers[name], region_of)
        if nodes:
            region_of.update(dict.fromkeys(nodes, len(regions)))
            regions.append(Region(sorted(nodes)))
    stored = {tensor.name for tensor in graph.initializer} | {each.values.name for each in graph.sparse_initializer}
    crossing = set(wanted)
    for number, region in enumerate(regions):
        reads = dict.fromkeys(name for index in region.nodes for name in _reads(graph.node[index]))
        inside = {name for index in region.nodes for name in graph.node[index].output}
        region.inputs = [name for name in reads if name not in inside and name not in stored]
        crossing.update(name for name in region.inputs if name in makers and region_of[makers[name]] != number)
    for region in regions:
        region.outputs = [name for index in region.nodes for name in graph.node[index].output if name in crossing]
    return regions


def extract(model: ModelProto, region: Region, values: Mapping[str, Array]) -> ModelProto:
    """A region as a model; `values` are what its inputs hold in some run, which tells their types."""
    graph = model.graph
    nodes = [graph.node[index] for index in region.nodes]
    known = {value.name: value for value in (*graph.input, *graph.output, *graph.value_info)}
    return submodel(
        model,
        nodes,
        [described(name, values, known) for name in region.inputs],
        [helper.make_empty_tensor_value_info(name) for name in region.outputs],
    )


def submodel(
    model: ModelProto, nodes: Iterable[NodeProto], inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]
) -> ModelProto:
    """Some nodes as a model of their own, with the stored tensors that they read."""
    part = ModelProto(ir_version=model.ir_version)
    part.opset_import.extend(model.opset_import)
    part.functions.extend(model.functions)
    part.graph.name = model.graph.name or "graph"
    part.graph.node.extend(nodes)
    read = {name for node in part.graph.node for name in _reads(node)} | {value.name for value in outputs}
    part.graph.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in read)
    part.graph.sparse_initializer.extend(each for each in model.graph.sparse_initializer if each.values.name in read)
    part.graph.input.extend(inputs)
    part.graph.output.extend(outputs)
    return part


def described(
    name: str, values: Mapping[str, Array], known: Mapping[str, ValueInfoProto] | None = None
) -> ValueInfoProto:
    """A tensor's type, without a shape, by its value in some run; else (a sequence, say) as the graph has it."""
    value = values[name]
    if hasattr(value, "dtype") or known is None or name not in known:
        return helper.make_tensor_value_info(name, np_dtype_to_tensor_dtype(value.dtype), None)
    return known[name]


def _reads(node: NodeProto) -> list[str]:
    return [*(name for name in node.input if name), *sorted(captured(node))]


def _ancestors(nodes: Sequence[NodeProto], makers: Mapping[str, int], last: int, taken: Mapping[int, int]) -> set[int]:
    """A node and all that it needs, but for what is taken."""
    found: set[int] = set()
    waiting = [last]
    while waiting:
        index = waiting.pop()
        if index in found or index in taken:
            continue
        found.add(index)
        waiting.extend(makers[name] for name in _reads(nodes[index]) if name in makers)
    return found
