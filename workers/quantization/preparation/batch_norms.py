"""Fold batch normalization into the product before it."""

from collections import Counter
from collections.abc import Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, numpy_helper

from workers.quantization.graph import attribute, captured, defined, drop_nodes, fresh

Floats = NDArray[np.float64]

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})


def fold_batch_norms(graph: GraphProto, kept: Collection[str]) -> int:
    """Fold each BatchNormalization into the product before it, where nothing else reads that; returns how many.

    W' = W·γ/√(σ²+ε) and b' = (b − μ)·γ/√(σ²+ε) + β, computed in float64 (Jacob et al. 2018, §3.2). A MatMul of matrices
    becomes a Gemm, which has a place for the bias. What would not be finite is left as it is.
    """
    folding = _Folding(graph, kept)
    dropped = [index for index, node in enumerate(graph.node) if folding.fold(node)]
    drop_nodes(graph, dropped)
    return len(dropped)


class _Folding:
    def __init__(self, graph: GraphProto, kept: Collection[str]) -> None:
        self._graph = graph
        self._kept = kept
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._readers = Counter(name for node in graph.node for name in node.input)
        self._fixed = {value.name for value in graph.output}
        for node in graph.node:
            self._fixed |= captured(node)
        self._producers = {node.output[0]: node for node in graph.node if node.op_type in _PRODUCTS and not node.domain}
        self._ranks = {
            value.name: len(value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
            if value.type.tensor_type.HasField("shape")
        }
        self._taken = defined(graph)

    def fold(self, node: NodeProto) -> bool:
        """Fold one node if it is a batch norm that can be, and say whether it was."""
        product = self._producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if product is None or not self._can_fold(node, product):
            return False
        gamma, beta, mean, variance = (self._values(name) for name in node.input[1:5])
        with np.errstate(all="ignore"):
            factor = gamma / np.sqrt(variance + attribute(node, "epsilon", 1e-5))
            has_bias = len(product.input) > 2 and product.input[2]
            bias: Any = self._values(product.input[2]).reshape(-1) if has_bias else 0.0
            weight = self._scaled(product, factor).astype(np.float32)
            shift = np.asarray((bias - mean) * factor + beta).astype(np.float32)
        if not (np.isfinite(weight).all() and np.isfinite(shift).all()):
            return False
        if product.op_type == "MatMul":
            product.op_type = "Gemm"
        product.input[:] = [
            product.input[0],
            self._store(weight, f"{product.name}_folded_weight"),
            self._store(shift, f"{product.name}_folded_bias"),
        ]
        product.output[0] = node.output[0]
        # Two batch norms, one after the other, are folded both.
        self._producers[node.output[0]] = product
        return True

    def _can_fold(self, node: NodeProto, product: NodeProto) -> bool:
        between = node.input[0]
        operands = [*node.input[1:5], *[name for name in product.input[1:] if name]]
        return (
            node.name not in self._kept
            and product.name not in self._kept
            and self._readers[between] == 1
            and between not in self._fixed
            and len([name for name in node.output if name]) == 1
            and attribute(node, "training_mode", 0) == 0
            and attribute(node, "spatial", 1) == 1
            and all(name in self._stored and self._stored[name].data_type == TensorProto.FLOAT for name in operands)
            and (product.op_type.startswith("Conv") or self._is_plain(product, len(self._values(node.input[1]))))
        )

    def _is_plain(self, product: NodeProto, channels: int) -> bool:
        """Whether a matrix product makes a matrix whose columns are the channels, with a bias a column if any."""
        if product.op_type == "MatMul":
            return self._ranks.get(product.input[0]) == 2 and len(self._stored[product.input[1]].dims) == 2
        has_bias = len(product.input) > 2 and product.input[2]
        return (
            attribute(product, "alpha", 1.0) == 1.0
            and attribute(product, "beta", 1.0) == 1.0
            and (not has_bias or list(self._stored[product.input[2]].dims) in ([channels], [1, channels]))
        )

    def _scaled(self, product: NodeProto, factor: Floats) -> Floats:
        """The product's weights, each output channel multiplied by its factor."""
        weight = self._values(product.input[1])
        if product.op_type == "Conv" or (product.op_type == "Gemm" and attribute(product, "transB", 0)):
            return np.asarray(weight * factor.reshape(-1, *[1] * (weight.ndim - 1)))
        if product.op_type != "ConvTranspose":
            return np.asarray(weight * factor)
        # [inputs, outputs of a group, …]: which channels an input makes depends on the group it is in.
        groups = int(attribute(product, "group", 1))
        by_input = np.repeat(factor.reshape(groups, -1), len(weight) // groups, axis=0)
        return np.asarray(weight * by_input.reshape(*by_input.shape, *[1] * (weight.ndim - 2)))

    def _values(self, name: str) -> Floats:
        return np.asarray(numpy_helper.to_array(self._stored[name]), np.float64)

    def _store(self, values: NDArray[np.float32], name: str) -> str:
        tensor = numpy_helper.from_array(values, fresh(name, self._taken))
        self._graph.initializer.append(tensor)
        self._stored[tensor.name] = tensor
        return str(tensor.name)
