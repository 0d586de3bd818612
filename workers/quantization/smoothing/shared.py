"""Activations, and the matrix products that share them."""

from collections.abc import Sequence
from dataclasses import dataclass

from onnx import GraphProto, NodeProto

from workers.quantization.affine import Array
from workers.quantization.graph import attribute, captured


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
    return Shared(tensor, tuple(readers), tuple(values.astype("float32") for values in turned))


def folding(graph: GraphProto, each: Shared) -> NodeProto | None:
    """The LayerNormalization that could divide an activation's channels by itself; None where there is none."""
    producer: NodeProto | None = next((node for node in graph.node if each.tensor in node.output[:1]), None)
    if producer is None or producer.op_type != "LayerNormalization" or attribute(producer, "axis", -1) != -1:
        return None
    names = {tensor.name for tensor in graph.initializer}
    products = {node.name for node in each.readers}  # which may read it a second time, as what they add
    others = {name for node in graph.node for name in (*node.input[int(node.name in products) :], *captured(node))}
    others.update(value.name for value in graph.output)
    if each.tensor in others or any(name not in names for name in producer.input[1:3] if name):
        return None
    return producer
