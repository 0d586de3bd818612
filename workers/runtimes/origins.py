"""Which nodes of a model's file an operator stands for, after onnxruntime has fused, split and renamed them."""

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping

from onnx import ModelProto, NodeProto

from workers.formats.onnx.graph import all_nodes, is_quantized

_LAYOUT = frozenset({"ReorderInput", "ReorderOutput"})
"""Added by onnxruntime around convolutions in blocks; what they make has the name of the convolution's output."""

# What onnxruntime 1.32 adds to the name of a node or tensor that it puts another node in the place of.
_ADDED = re.compile(r"(?:_nchwc|_token_\d+|/duplicated(?:_\d+)?)+$")


def name_every_node(model: ModelProto) -> bool:
    """Name nodes that have no name of their own by their first output. Whether there was one."""
    seen: set[str] = set()
    changed = False
    for index, node in enumerate(all_nodes(model)):
        if not node.name or node.name in seen:
            name = next((output for output in node.output if output), "") or f"{node.op_type}_{index}"
            node.name = name if name not in seen else f"{name}_{index}"
            changed = True
        seen.add(node.name)
    return changed


def origins(original: ModelProto, rewritten: ModelProto) -> Mapping[str, tuple[str, ...]]:
    """The original nodes behind each node of the rewritten model, by name, in the order of the file.

    An operator stands for what lies between its output, where that kept its name, and the outputs of others. Where
    it did not, the name that onnxruntime made from the old one tells. Constants are left out.
    """
    nodes = {node.name: node for node in all_nodes(original) if node.op_type != "Constant"}
    makers = {output: node for node in nodes.values() for output in node.output if output}
    now = [node for node in all_nodes(rewritten) if node.op_type not in _LAYOUT and node.op_type != "Constant"]
    named: dict[str, str] = {}
    ends: dict[str, str] = {}
    for node in now:
        for output in node.output:
            if output in makers:
                ends.setdefault(output, node.name)
    for node in now:
        base = _ADDED.sub("", node.name)
        if base in nodes:
            named.setdefault(base, node.name)
        if base in makers:  # a convolution in blocks is named after the tensor that it made
            ends.setdefault(base, node.name)
    starts: dict[str, list[NodeProto]] = defaultdict(list)
    for output, owner in ends.items():
        if named.get(makers[output].name, owner) == owner:
            starts[owner].append(makers[output])
    for name, owner in named.items():
        starts[owner].append(nodes[name])
    found = {node.name: _between(node.name, starts[node.name], makers, ends, named) for node in now if node.name}
    claimed = {makers[output].name for output in ends} | set(named)
    _give_to_makers(found, nodes, makers, claimed, {node.name: node.op_type for node in now})
    order = {name: place for place, name in enumerate(nodes)}
    return {name: tuple(sorted(behind, key=order.__getitem__)) for name, behind in found.items()}


def _give_to_makers(
    found: dict[str, set[str]],
    nodes: Mapping[str, NodeProto],
    makers: Mapping[str, NodeProto],
    claimed: Container[str],
    op_types: Mapping[str, str],
) -> None:
    """Move what was fused into the operator before it, and left no name, to that operator.

    Seen from the outputs it looks like a part of what reads it: the quantization of a result, or an addition whose
    sum several operators read. What dequantizes is a part of each reader indeed.
    """
    place = {name: index for index, name in enumerate(found)}
    holders: dict[str, set[str]] = defaultdict(set)
    for owner, behind in found.items():
        for name in behind:
            holders[name].add(owner)
    for name, node in nodes.items():
        quantizes = node.op_type == "QuantizeLinear"
        if name in claimed or node.op_type == "DequantizeLinear" or not (quantizes or len(holders[name]) > 1):
            continue
        before = {owner for given in node.input if given in makers for owner in holders[makers[given].name]}
        last = max(before - holders[name], key=place.__getitem__, default=None)
        if last is None or (quantizes and not is_quantized(op_types[last])):
            continue
        for owner in holders[name]:
            found[owner].discard(name)
        found[last].add(name)
        holders[name] = {last}


def _between(
    owner: str,
    starts: Iterable[NodeProto],
    makers: Mapping[str, NodeProto],
    ends: Mapping[str, str],
    named: Mapping[str, str],
) -> set[str]:
    found: set[str] = set()
    waiting = list(starts)
    while waiting:
        node = waiting.pop()
        if node.name in found:
            continue
        found.add(node.name)
        for tensor in node.input:
            maker = makers.get(tensor)
            if maker is not None and ends.get(tensor, owner) == owner and named.get(maker.name, owner) == owner:
                waiting.append(maker)
    return found
