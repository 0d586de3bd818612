"""Cross-layer equalization: even out the ranges of a pair of layers' channels, which changes nothing in float.

With f(s·x) = s·f(x), as rectifiers have it, channel i between two layers can be divided by any s_i > 0 in the first and
multiplied by it in the second (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
Correction", §4.1). What there is to even out is whatever has one scale for all channels: always the tensor between, so
s_i follows the largest activation of channel i; the first layer's weights where they have one scale; and the second
one's, but for depthwise convolutions with a scale for each channel.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto

from app.errors import StepError
from workers.quantization.graph import attribute, captured
from workers.quantization.qdq.plan import Array, Plan, make_plan
from workers.quantization.recovery.material import Material
from workers.quantization.recovery.measuring import Judge, observed_session

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu"})
SHARES = (0.25, 0.5, 0.75, 1.0)
"""How far channels are evened out, as exponents of their scales: the largest values are few, and wholly even ones serve
them at the cost of the rest."""
_ROWS = 16
_LEAST_PEAK = 0.02
"""Of the largest one: what hardly ever fires on the rows at hand may on others, and would be cut off."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two products with one tensor between them that nothing else reads; `between` is what the second one reads."""

    first: str
    second: str
    between: str


def equalization(plan: Plan, material: Material) -> Plan:
    """Even out every pair of layers once, in their order, as far as serves the outputs on the first rows.

    Raises StepError `step_not_applicable` where there is no such pair.
    """
    pairs = list(find_pairs(plan))
    if not pairs:
        raise StepError(
            "No two quantized layers follow each other with only a Relu between them.", code="step_not_applicable"
        )
    largest = _largest(plan.model, [pair.between for pair in pairs], material)
    rows = [dict(feed) for feed, _ in islice(material.feeds(), _ROWS)]
    judge = Judge(plan.model, (), rows, material.work, threads=material.threads)
    tried = [_evened(plan, pairs, largest, share, material) for share in SHARES]
    return max(tried, key=lambda each: judge.fidelity(each).output_db)


def _evened(plan: Plan, pairs: list[Pair], largest: list[Array], share: float, material: Material) -> Plan:
    """The plan with every pair evened out so far, from not at all (0) to wholly (1)."""
    changed = plan.copy()
    nodes = {node.name: node for node in changed.model.graph.node}
    for pair, peaks in zip(pairs, largest, strict=True):
        _even_out(changed, nodes[pair.first], nodes[pair.second], peaks, share)
    scaled = {name for pair in pairs for name in (nodes[pair.first].output[0], pair.between)}
    tensors = [name for name in plan.placement.observed() if name in scaled]
    seen = material.observed_anew(plan.seen, changed.model, tensors)
    return make_plan(changed.model, seen, material.setting, plan.placement)


def find_pairs(plan: Plan) -> Iterator[Pair]:
    """Pairs of quantized convolutions, or of Gemms, in the order of computation.

    The first one's bias is stored, if it has one, so that it can be scaled with the weights; and the second multiplies
    what lies between, which a Gemm can also read to add it.
    """
    graph = plan.model.graph
    readers = _readers(graph)
    fixed = {value.name for value in graph.output}
    for node in graph.node:
        fixed |= captured(node)
    products = {weight.node for weight in plan.placement.weights if weight.product}
    biased = {bias.node for bias in plan.placement.biases}
    for node in graph.node:
        if node.name not in products or node.op_type not in ("Conv", "Gemm"):
            continue
        if any(node.input[2:]) and node.name not in biased:
            continue
        name = node.output[0]
        after = readers[name]
        if len(after) == 1 and after[0].op_type in _HOMOGENEOUS and name not in fixed:
            name = after[0].output[0]
            after = readers[name]
        if len(after) != 1 or name in fixed:
            continue
        second = after[0]
        if second.op_type == node.op_type and second.name in products and second.input[0] == name:
            yield Pair(node.name, second.name, name)


def _readers(graph: GraphProto) -> dict[str, list[NodeProto]]:
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in node.input:
            readers[name].append(node)
    return readers


def _largest(model: ModelProto, names: list[str], material: Material) -> list[Array]:
    """The largest magnitude of each channel (axis 1) of these tensors over the rows."""
    session = observed_session(model, names, material.work / "between.onnx", threads=material.threads)
    largest = [np.zeros(1)] * len(names)
    for feed, _ in material.feeds():
        for index, values in enumerate(session.run(feed)):
            if not values.size:
                continue
            axes = tuple(at for at in range(values.ndim) if at != 1)
            largest[index] = np.maximum(largest[index], np.abs(values).max(axis=axes))
    return largest


def _even_out(plan: Plan, first: NodeProto, second: NodeProto, peaks: Array, share: float) -> None:
    """Scale both layers' weights, and the first one's bias, in place."""
    ahead = _Inputs.of(plan.stored(second.input[1]).astype(np.float64), second)
    peaks = np.maximum(peaks.astype(np.float64), _LEAST_PEAK * peaks.max())
    by_channel = plan.weights[(second.name, 1)].axis is not None
    with np.errstate(divide="ignore", invalid="ignore"):
        if plan.weights[(first.name, 1)].axis is None:
            peaks = np.sqrt(_even(peaks) * _even(_reach_of_outputs(plan.stored(first.input[1]), first)))
        scale = peaks if by_channel and ahead.are_alone else np.sqrt(_even(peaks) / _even(ahead.reach()))
        scale = _even(scale) ** share
    scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
    behind = plan.stored(first.input[1]).astype(np.float64)
    outputs = 0 if first.op_type == "Conv" or attribute(first, "transB", 0) else 1
    plan.store(first.input[1], behind / scale.reshape([-1 if at == outputs else 1 for at in range(behind.ndim)]))
    if len(first.input) > 2 and first.input[2]:
        plan.store(first.input[2], plan.stored(first.input[2]) / scale)
    plan.store(second.input[1], ahead.scaled(scale))


def _even(values: Array) -> Array:
    """Values over their geometric mean, of those that have one."""
    known = values[np.isfinite(values) & (values > 0)]
    even: Array = values / np.exp(np.mean(np.log(known))) if known.size else values
    return even


def _reach_of_outputs(weight: Array, node: NodeProto) -> Array:
    """The largest weight of each output channel."""
    axis = 1 if node.op_type == "Gemm" and not attribute(node, "transB", 0) else 0
    reach: Array = np.abs(weight).max(axis=tuple(at for at in range(weight.ndim) if at != axis)).astype(np.float64)
    return reach


@dataclass(frozen=True, slots=True)
class _Inputs:
    """A layer's weights by the channel that they read: `parts` is [groups, outputs, inputs, rest], float64."""

    parts: Array
    shape: tuple[int, ...]
    turned: bool

    @classmethod
    def of(cls, weight: Array, node: NodeProto) -> "_Inputs":
        turned = node.op_type == "Gemm" and not attribute(node, "transB", 0)
        by_output = weight.T if turned else weight
        groups = int(attribute(node, "group", 1)) if node.op_type == "Conv" else 1
        parts = by_output.reshape(groups, by_output.shape[0] // groups, by_output.shape[1], -1)
        return cls(parts, by_output.shape, turned)

    @property
    def are_alone(self) -> bool:
        """Whether every output reads a single channel, as in depthwise convolutions."""
        return bool(self.parts.shape[0] > 1 and self.parts.shape[2] == 1)

    def reach(self) -> Array:
        """The largest weight that reads each input channel [groups · inputs]."""
        return np.asarray(np.abs(self.parts).max(axis=(1, 3))).reshape(-1)

    def scaled(self, scale: Array) -> Array:
        """The weights in their own shape, what reads channel i multiplied by `scale[i]`."""
        groups, _, inputs, _ = self.parts.shape
        scaled: Array = (self.parts * scale.reshape(groups, 1, inputs, 1)).reshape(self.shape)
        own: Array = scaled.T if self.turned else scaled
        return own
