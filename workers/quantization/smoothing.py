"""Smoothing: divide channels of an activation that are hard to round, and multiply what reads them.

Dividing channel j of an activation by s_j and multiplying row j of the weights by it changes nothing in float; with
s_j = max|X_j|^α / max|W_j|^(1−α) both are easier to quantize (Xiao et al. 2023, "SmoothQuant", eq. 4). The division is
folded into a LayerNormalization where only these products read what it makes, else it is a multiplication.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from workers.quantization.affine import Array
from workers.quantization.graph import attribute, captured, defined, fresh, store, stored

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
LEAST_GAIN = 0.9
"""A share of the error that has to be left at most: smoothing that leaves more is not worth a changed model."""
_LEAST_PEAK = 0.02
"""Of the median: a channel that hardly fires on the rows at hand may on others, and would be blown up there."""
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
    peaks = np.maximum(peaks, max(_LEAST_PEAK * float(np.median(peaks)), _TINY))
    needed = np.maximum(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), _TINY)
    for alpha in ALPHAS:
        scale = peaks**alpha / needed ** (1 - alpha)
        yield scale / np.exp(np.mean(np.log(scale)))


def multiply_weights(model: ModelProto, each: Shared, factors: Array) -> None:
    """Multiply the rows of the products' weights, which become their own where others read them too."""
    kinds: dict[tuple[str, bool], list[NodeProto]] = {}
    weights = {}
    for node, weight in zip(each.readers, each.weights, strict=True):
        kind = (node.input[1], bool(attribute(node, "transB", 0)))
        kinds.setdefault(kind, []).append(node)
        weights[kind] = (weight * factors[:, np.newaxis]).astype(np.float32)
    for (name, flipped), nodes in kinds.items():
        harder = weights[name, flipped]
        store(model, _own(model, name, nodes, 1), harder.T if flipped else harder)


def divide(model: ModelProto, each: Shared, divisor: Array) -> str:
    """Divide an activation's channels on the way to its products; returns the name of what they read then."""
    producer = folding(model.graph, each)
    if producer is None:
        return multiply(model, each, 1 / divisor)
    for place in (1, 2):
        if len(producer.input) > place and producer.input[place]:
            name = _own(model, producer.input[place], [producer], place)
            store(model, name, stored(model, name) / divisor)
    return each.tensor


def multiply(model: ModelProto, each: Shared, factors: Array) -> str:
    """Multiply an activation's channels in a node of its own; returns the name of what the products read then."""
    graph = model.graph
    smooth, factor = (fresh(f"{each.tensor}_{part}", defined(graph)) for part in ("smooth", "smoothing"))
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
    others = {name for node in graph.node if node not in each.readers for name in (*node.input, *captured(node))}
    others.update(value.name for value in graph.output)
    if each.tensor in others or any(name not in names for name in producer.input[1:3] if name):
        return None
    return producer


def uses(graph: GraphProto, name: str) -> int:
    """How often a graph's nodes read a tensor, their nested bodies included."""
    return sum(given == name for node in graph.node for given in (*node.input, *captured(node)))


def _own(model: ModelProto, name: str, nodes: Sequence[NodeProto], place: int) -> str:
    """Let these nodes read a stored tensor that nothing else reads, a copy if need be; returns its name."""
    if uses(model.graph, name) == len(nodes):
        return name
    copy: str = fresh(f"{name}_own", defined(model.graph))
    model.graph.initializer.append(numpy_helper.from_array(stored(model, name), copy))
    for node in nodes:
        node.input[place] = copy
    return copy
