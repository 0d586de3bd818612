"""Smoothing: divide channels of an activation that are hard to round, and multiply what reads them.

Dividing channel j of an activation by s_j and multiplying row j of the weights by it changes nothing in float; with
s_j = max|X_j|^α / max|W_j|^(1−α) both are easier to quantize (Xiao et al. 2023, "SmoothQuant", eq. 4). The division is
folded into a LayerNormalization where only these products read what it makes, else it is a multiplication.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from workers.quantization.affine import Array
from workers.quantization.graph import attribute, captured, fresh, store, stored

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LEAST_GAIN = 0.9
"""A share of the error that has to be left at most: smoothing that leaves more is not worth a changed model."""
_LEAST_PEAK = 0.02
"""Of the median above zero: a channel that hardly fires on the rows at hand may on others, and would be blown up."""
_TINY = 1e-5


@dataclass(frozen=True, slots=True)
class Shared:
    """An activation, and the products that read it quantized: their nodes, and weights as float32 [inputs, outputs]."""

    tensor: str
    readers: tuple[NodeProto, ...]
    weights: tuple[Array, ...]


def shared(tensor: str, readers: Sequence[NodeProto], weights: Sequence[Array]) -> Shared | None:
    """An activation with its readers, MatMul or Gemm, and their weights as they are stored; None unless matrices."""
    if not readers or any(values.ndim != 2 for values in weights):
        return None
    turned = [
        values.T if attribute(node, "transB", 0) else values for node, values in zip(readers, weights, strict=True)
    ]
    return Shared(tensor, tuple(readers), tuple(values.astype(np.float32) for values in turned))


def divisors(peaks: Array, weights: Sequence[Array]) -> Iterator[Array]:
    """For each α the divisor of every channel, float64 [channels] of geometric mean 1; `peaks` are its magnitudes."""
    least = _LEAST_PEAK * float(np.median(peaks[peaks > 0])) if peaks.any() else 0.0
    peaks = np.maximum(peaks, max(least, _TINY))
    needed = np.maximum(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), _TINY)
    for alpha in ALPHAS:
        scale = peaks**alpha / needed ** (1 - alpha)
        yield scale / np.exp(np.mean(np.log(scale)))


def multiply_weights(model: ModelProto, each: Shared, factors: Array, taken: set[str]) -> None:
    """Multiply the rows of the products' weights, which become their own where others read them too.

    `taken` are names that are not free, here as below.
    """
    kinds: dict[tuple[str, bool], list[NodeProto]] = {}
    weights = {}
    for node, weight in zip(each.readers, each.weights, strict=True):
        kind = (node.input[1], bool(attribute(node, "transB", 0)))
        kinds.setdefault(kind, []).append(node)
        weights[kind] = (weight * factors[:, np.newaxis]).astype(np.float32)
    for (name, flipped), nodes in kinds.items():
        harder = weights[name, flipped]
        store(model, _own(model, name, nodes, 1, taken), harder.T if flipped else harder)


def divide(model: ModelProto, each: Shared, divisor: Array, taken: set[str]) -> str:
    """Divide an activation's channels on the way to its products; returns the name of what they read then."""
    producer = folding(model.graph, each)
    if producer is None:
        return multiply(model, each, 1 / divisor, taken)
    for place in (1, 2):
        if len(producer.input) > place and producer.input[place]:
            name = _own(model, producer.input[place], [producer], place, taken)
            store(model, name, stored(model, name) / divisor)
    return each.tensor


def multiply(model: ModelProto, each: Shared, factors: Array, taken: set[str]) -> str:
    """Multiply an activation's channels in a node of its own; returns the name of what the products read then."""
    graph = model.graph
    smooth, factor = (fresh(f"{each.tensor}_{part}", taken) for part in ("smooth", "smoothing"))
    graph.initializer.append(numpy_helper.from_array(factors.astype(np.float32), factor))
    graph.node.append(helper.make_node("Mul", [each.tensor, factor], [smooth], name=smooth))
    graph.value_info.append(helper.make_tensor_value_info(smooth, TensorProto.FLOAT, None))
    for node in each.readers:
        node.input[0] = smooth
    return smooth


def folding(graph: GraphProto, each: Shared) -> NodeProto | None:
    """The LayerNormalization that could divide an activation's channels by itself; None where there is none."""
    producer: NodeProto | None = next((node for node in graph.node if each.tensor in node.output), None)
    if producer is None or producer.op_type != "LayerNormalization" or attribute(producer, "axis", -1) != -1:
        return None
    names = {tensor.name for tensor in graph.initializer}
    products = {node.name for node in each.readers}  # which may read it a second time, as what they add
    others = {name for node in graph.node for name in (*node.input[int(node.name in products) :], *captured(node))}
    others.update(value.name for value in graph.output)
    if each.tensor in others or any(name not in names for name in producer.input[1:3] if name):
        return None
    return producer


def reads(graph: GraphProto) -> Counter[str]:
    """How often a graph's nodes read each tensor, their nested bodies included."""
    return Counter(name for node in graph.node for name in (*node.input, *captured(node)))


def _own(model: ModelProto, name: str, nodes: Sequence[NodeProto], place: int, taken: set[str]) -> str:
    """Let these nodes read a stored tensor that nothing else reads, a copy if need be; returns its name."""
    if reads(model.graph)[name] == len(nodes):
        return name
    copy: str = fresh(f"{name}_own", taken)
    model.graph.initializer.append(numpy_helper.from_array(stored(model, name), copy))
    for node in nodes:
        node.input[place] = copy
    return copy
