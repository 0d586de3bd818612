"""Which nodes of a model's file an operator stands for, after a runtime has fused, split and renamed them."""

import re
from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path

import onnx
from onnx import ModelProto, NodeProto

from workers.formats.onnx.graph import all_nodes, is_quantized

_LAYOUT = frozenset({"ReorderInput", "ReorderOutput", "Transpose"})
"""Added by onnxruntime around convolutions that want another order of axes, or blocks of channels; what they make has
the name of the convolution's output. The file's own transpositions keep their names."""

# What onnxruntime 1.32 adds to the name of a node or tensor that it puts another node in the place of.
_ADDED = re.compile(r"(?:_nchwc|_token_\d+|/duplicated(?:_\d+)?)+$")


def name_every_node(model: ModelProto) -> bool:
    """Name nodes that have no name of their own by type and place. Whether there was one.

    As the preparation of a model for quantization does (`preparation.naming.name_nodes`), so that the nodes of an
    artifact and of its original are called the same.
    """
    taken = {node.name for node in all_nodes(model) if node.name}
    seen: set[str] = set()
    changed = False
    for index, node in enumerate(all_nodes(model)):
        if not node.name or node.name in seen:
            base, suffix = node.name or node.op_type, index
            while f"{base}_{suffix}" in taken:
                suffix += 1
            node.name = f"{base}_{suffix}"
            taken.add(node.name)
            changed = True
        seen.add(node.name)
    return changed


def labelled_nodes(path: Path) -> dict[str, NodeProto]:
    """The nodes of a model file but its constants, by name, which those that have none are given."""
    model = onnx.load(path, load_external_data=False)
    name_every_node(model)
    return {node.name: node for node in all_nodes(model) if node.op_type != "Constant"}


def with_what_is_read_once(behind: Sequence[Sequence[str]], nodes: Mapping[str, NodeProto]) -> list[tuple[str, ...]]:
    """The nodes behind each operator, and those behind none whose readers all are behind that one operator.

    A runtime that tells the layers of an operator leaves out those that it folded into the weights of another, such
    as a convolution into the batch norm after it.
    """
    found = [dict.fromkeys(names) for names in behind]
    holders: dict[str, set[int]] = defaultdict(set)
    for place, names in enumerate(behind):
        for name in names:
            holders[name].add(place)
    readers: dict[str, list[str]] = defaultdict(list)
    for name, node in nodes.items():
        for given in node.input:
            readers[given].append(name)
    for name, node in reversed(list(nodes.items())):
        if holders[name]:
            continue
        places = [holders[reader] for output in node.output for reader in readers[output]]
        if places and all(place == places[0] and len(place) == 1 for place in places):
            holders[name] = places[0]
            found[next(iter(places[0]))][name] = None
    order = {name: place for place, name in enumerate(nodes)}
    return [tuple(sorted(names, key=order.__getitem__)) for names in found]


def origins(original: ModelProto, rewritten: ModelProto) -> Mapping[str, tuple[str, ...]]:
    """The original nodes behind each node of the rewritten model, by name, in the order of the file.

    An operator stands for what lies between its output, where that kept its name, and the outputs of others. Where
    it did not, the name that onnxruntime made from the old one tells. Constants are left out.
    """
    nodes = {node.name: node for node in all_nodes(original) if node.op_type != "Constant"}
    makers = _makers(nodes.values())
    added = {node.name for node in all_nodes(rewritten) if node.op_type in _LAYOUT and node.name not in nodes}
    now = [node for node in all_nodes(rewritten) if node.name not in added and node.op_type != "Constant"]
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
    _give_to_makers(found, nodes, makers, claimed, rewritten, added)
    order = {name: place for place, name in enumerate(nodes)}
    return {name: tuple(sorted(behind, key=order.__getitem__)) for name, behind in found.items()}


def _makers(nodes: Iterable[NodeProto]) -> dict[str, NodeProto]:
    """Which node makes each tensor; bodies may share names, and then the name tells nothing."""
    found: dict[str, list[NodeProto]] = defaultdict(list)
    for node in nodes:
        for output in filter(None, node.output):
            found[output].append(node)
    return {output: several[0] for output, several in found.items() if len(several) == 1}


def _give_to_makers(
    found: dict[str, set[str]],
    nodes: Mapping[str, NodeProto],
    makers: Mapping[str, NodeProto],
    claimed: Container[str],
    rewritten: ModelProto,
    added: Container[str],
) -> None:
    """Move what was fused into the operator before it, and left no name, to that operator.

    Seen from the outputs it looks like a part of what reads it: the quantization of a result, or an addition that a
    convolution does along the way. What dequantizes is a part of each reader indeed.
    """
    place = {name: index for index, name in enumerate(found)}
    op_types = {node.name: node.op_type for node in all_nodes(rewritten)}
    reads = _reads(rewritten, added)
    holders: dict[str, set[str]] = defaultdict(set)
    for owner, behind in found.items():
        for name in behind:
            holders[name].add(owner)
    for name, node in nodes.items():
        if name in claimed or node.op_type == "DequantizeLinear":
            continue
        before = {owner for given in node.input if given in makers for owner in holders[makers[given].name]}
        before -= holders[name]
        last = max(before, key=place.__getitem__, default=None)
        if last is None:
            continue
        if node.op_type == "QuantizeLinear":
            moves = is_quantized(op_types[last])
        else:  # its reader would read both of its operands, were it a part of the reader
            moves = len(holders[name]) > 1 or any(before - reads[owner] for owner in holders[name])
        if moves:
            for owner in holders[name]:
                found[owner].discard(name)
            found[last].add(name)
            holders[name] = {last}


def _reads(model: ModelProto, added: Container[str]) -> Mapping[str, set[str]]:
    """Which nodes each node reads from; changes of layout between them are looked through."""
    made_by = {output: node for node in all_nodes(model) for output in node.output if output}
    found: dict[str, set[str]] = defaultdict(set)
    for node in all_nodes(model):
        for given in node.input:
            maker = made_by.get(given)
            while maker is not None and maker.name in added:
                maker = made_by.get(maker.input[0])
            if maker is not None:
                found[node.name].add(maker.name)
    return found


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
