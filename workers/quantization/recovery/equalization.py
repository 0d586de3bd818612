"""Cross-layer equalization: even out the ranges of a pair of layers' channels, which changes nothing in float.

With f(s·x) = s·f(x), as rectifiers have it, channel i between two layers can be divided by any s_i > 0 in the first and
multiplied by it in the second (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
Correction", §4.1). Where weights have a scale for each output channel, what is left to even out is the second layer's
weights, and the range of what lies between, which has one scale for all channels: so s_i follows the largest activation
of channel i instead of the first layer's weights.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto

from app.errors import StepError
from workers.quantization.graph import attribute, captured
from workers.quantization.qdq.plan import Array, Plan, make_plan
from workers.quantization.recovery.material import Material
from workers.quantization.recovery.measuring import observed_session

_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu"})
_MOST = 1e3
"""Channels that never fire would be scaled without end."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two products with one tensor between them that nothing else reads; `between` is what the second one reads."""

    first: str
    second: str
    between: str


def equalization(plan: Plan, material: Material) -> Plan:
    """Even out every pair of layers once, in their order, and observe anew what lies between them.

    Raises StepError `step_not_applicable` where there is no such pair.
    """
    pairs = list(find_pairs(plan))
    if not pairs:
        raise StepError(
            "No two quantized layers follow each other with only a Relu between them.", code="step_not_applicable"
        )
    changed = plan.copy()
    between = [pair.between for pair in pairs]
    largest = _largest(plan.model, between, material)
    nodes = {node.name: node for node in changed.model.graph.node}
    for pair, peaks in zip(pairs, largest, strict=True):
        _even_out(changed, nodes[pair.first], nodes[pair.second], peaks)
    statistics = material.observed_anew(changed.model, between)
    return make_plan(changed.model, statistics, material.setting, plan.placement)


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


def _even_out(plan: Plan, first: NodeProto, second: NodeProto, peaks: Array) -> None:
    """Scale both layers' weights, and the first one's bias, in place."""
    ahead = _Inputs.of(plan.stored(second.input[1]).astype(np.float64), second)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = np.sqrt(peaks / ahead.reach())
    scale = np.where(np.isfinite(scale) & (scale > 0), scale, 1.0)
    scale = np.clip(scale / np.exp(np.mean(np.log(scale))), 1 / _MOST, _MOST)
    behind = plan.stored(first.input[1]).astype(np.float64)
    outputs = 0 if first.op_type == "Conv" or attribute(first, "transB", 0) else 1
    plan.store(first.input[1], behind / scale.reshape([-1 if at == outputs else 1 for at in range(behind.ndim)]))
    if len(first.input) > 2 and first.input[2]:
        plan.store(first.input[2], plan.stored(first.input[2]) / scale)
    plan.store(second.input[1], ahead.scaled(scale))


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

    def reach(self) -> Array:
        """The largest weight that reads each input channel [groups · inputs]."""
        return np.asarray(np.abs(self.parts).max(axis=(1, 3))).reshape(-1)

    def scaled(self, scale: Array) -> Array:
        """The weights in their own shape, what reads channel i multiplied by `scale[i]`."""
        groups, _, inputs, _ = self.parts.shape
        scaled: Array = (self.parts * scale.reshape(groups, 1, inputs, 1)).reshape(self.shape)
        own: Array = scaled.T if self.turned else scaled
        return own
