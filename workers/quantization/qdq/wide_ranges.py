"""Tensors that one scale cannot serve: coordinates beside scores, and what calibration never saw.

A detection head joins boxes in pixels with scores below one, or one convolution makes both. Eight bits over 640 pixels
have steps of 2.5, in which every score is zero. Such a tensor is found by the ranges of its parts, and what makes and
reads it in integers stays in float.
"""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from onnx import ModelProto, NodeProto, numpy_helper

from workers.quantization.affine import LIMITS
from workers.quantization.calibration.statistics import Statistics
from workers.quantization.qdq.placement import MOVES, Placement
from workers.quantization.qdq.plan import Setting, place_for

LEAST_STEPS = 4
"""A part whose whole range is fewer steps of the common scale is taken for erased: at 4, rounding leaves some 15 dB of
evenly spread numbers, and a range of its own 53."""

_JOINS: Mapping[str, int] = {"Concat": 0, "Where": 1}
"""Operators that put parts side by side, and the first of their inputs that is a part."""

_CUTS = frozenset({"Split", "Slice", "Gather"})
"""Operators that hand on parts of what they are given."""

_MOST_NAMED = 5


@dataclass(slots=True)
class Narrowed:
    """What is left to quantize, with statistics of every tensor in it, and notes on what is kept in float."""

    setting: Setting
    placement: Placement
    seen: Statistics
    notes: list[str] = field(default_factory=list)


def probes(model: ModelProto, placement: Placement) -> list[str]:
    """Tensors that calibration has to observe besides `placement.observed()`: parts of what is quantized."""
    parts = _Parts(model)
    observed = set(placement.observed())
    found = {
        part: None for root, group in _groups(placement).items() for part in parts.of(group) if part not in observed
    }
    return [name for name in found if name not in parts.stored]


def keep_wide_ranges(model: ModelProto, setting: Setting, placement: Placement, seen: Statistics) -> Narrowed:
    """Keep in float what makes and reads a quantized tensor that has no range, or parts that its scale would erase.

    A model as `prepare` made it, and statistics of `placement.observed()` and `probes`.
    """
    parts = _Parts(model)
    found = Narrowed(setting, placement, seen)
    while True:
        wide = {}
        for root, group in _groups(found.placement).items():
            why = _fault(root, group, parts, found)
            nodes = parts.around(group, found.placement) if why else set()
            if nodes:
                wide[why] = nodes
        if not wide:
            return found
        found.notes += _notes(wide)
        found.setting = replace(found.setting, kept=found.setting.kept.union(*wide.values()))
        found.placement = place_for(model, found.setting)
        # What had the scale of another tensor needs a range of its own now.
        tensors = dict(found.seen.tensors)
        for name in found.placement.observed():
            source = parts.source(name, tensors)
            if source is not None:
                tensors[name] = tensors[source]
        found.seen = replace(found.seen, tensors=tensors)


def _groups(placement: Placement) -> dict[str, list[str]]:
    """Quantized tensors by the one whose scale they have, it among them."""
    groups: dict[str, list[str]] = {name: [name] for name in placement.observed()}
    for name, root in placement.shares.items():
        groups.setdefault(root, [root]).append(name)
    return groups


def _fault(root: str, group: list[str], parts: "_Parts", found: Narrowed) -> str:
    """Why a tensor cannot have one scale; empty where it can."""
    if root not in found.seen.tensors:
        return f"tensor {root!r} held no number on the calibration rows, so it has no range"
    low, high = _range(found.seen, root)
    least, most = LIMITS[found.setting.activation_dtype]
    step = (high - low) / (most - least)
    for part in parts.of(group):
        ends = parts.stored_range(part) if part in parts.stored else _range(found.seen, part)
        if 0 < ends[1] - ends[0] < LEAST_STEPS * step:
            return (
                f"one scale for tensor {root!r}, which reaches from {low:.4g} to {high:.4g}, would erase its part "
                f"{part!r}, from {ends[0]:.4g} to {ends[1]:.4g}"
            )
    return ""


def _range(seen: Statistics, name: str) -> tuple[float, float]:
    """The ends of what was seen of a tensor, zero included; both zero where nothing was."""
    tensor = seen.tensors.get(name)
    return (0.0, 0.0) if tensor is None else (min(tensor.low, 0.0), max(tensor.high, 0.0))


def _notes(wide: Mapping[str, set[str]]) -> Iterator[str]:
    for number, (why, nodes) in enumerate(wide.items()):
        if number == _MOST_NAMED:
            yield f"{len(wide) - number} more tensors are kept in float for such reasons."
            return
        named = ", ".join(sorted(nodes)[:_MOST_NAMED]) + (" and others" if len(nodes) > _MOST_NAMED else "")
        yield f"Kept in float: {named}; {why}."


class _Parts:
    """What the tensors of a graph are joined from and cut into."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self.stored = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._readers[name].append(node)

    def of(self, group: list[str]) -> list[str]:
        """The parts of tensors that have one scale, stored ones among them, in the order of the graph."""
        found: dict[str, None] = {}
        for name in group:
            found.update(dict.fromkeys(self._joined(name)))
            found.update(dict.fromkeys(self._cut(name)))
        return list(found)

    def stored_range(self, name: str) -> tuple[float, float]:
        """The ends of a stored part, zero included."""
        values = numpy_helper.to_array(self.stored[name])
        return float(values.min(initial=0.0)), float(values.max(initial=0.0))

    def source(self, name: str, known: Collection[str]) -> str | None:
        """The nearest known tensor that one is moved or cut from, or itself: its range is as wide or wider."""
        while name not in known:
            node = self._producers.get(name)
            if node is None or node.op_type not in MOVES or node.domain:
                return None
            name = node.input[0]
        return name

    def around(self, group: list[str], placement: Placement) -> set[str]:
        """The quantized nodes that make a group's tensors in integers or read them; parts stand for themselves."""
        nodes = set()
        apart = {part for name in group for part in self._cut(name)}
        for name in group:
            if self.source(name, apart) is not None:
                continue
            producer = self._producers.get(name)
            if producer is not None and producer.name in placement.absorbed:
                producer = self._producers.get(placement.absorbed[producer.name])
            # A matrix product can leave its output in float as it is.
            if producer is not None and producer.op_type not in ("MatMul", "Gemm"):
                nodes.add(producer.name)
            nodes.update(
                reader.name
                for reader in self._readers[name]
                if any(reader.input[index] == name for index in placement.readers.get(reader.name, []))
            )
        return nodes & placement.nodes

    def _joined(self, name: str) -> Iterator[str]:
        """The innermost operands that a tensor is joined from; none where it is not."""
        node = self._producers.get(name)
        while node is not None and node.op_type in MOVES - _CUTS and not node.domain:
            node = self._producers.get(node.input[0])
        if node is None or node.op_type not in _JOINS or node.domain:
            return
        for operand in node.input[_JOINS[node.op_type] :]:
            inner = list(self._joined(operand))
            yield from inner or [operand]

    def _cut(self, name: str) -> Iterator[str]:
        """The parts that are cut out of a tensor by what reads it, moved before or not."""
        for node in self._readers[name]:
            if node.domain or node.op_type not in MOVES or node.input[0] != name:
                continue
            if node.op_type in _CUTS:
                for output in node.output:
                    yield output
                    yield from self._cut(output)
            else:
                yield from self._cut(node.output[0])
