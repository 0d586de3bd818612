"""The matrix products of a graph whose right side is stored: which they are, and which of them are heads."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from workers.formats.onnx.graph import bodies_of
from workers.quantization.graph import captured

FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16})
"""Types of weights that are quantized."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A stored matrix: the graph it lies in and its tensor; `flipped` says that a Transpose is between it and use."""

    graph: GraphProto
    tensor: TensorProto
    flipped: bool = False


@dataclass(frozen=True, slots=True)
class Product:
    """A MatMul or Gemm with stored weights, which lie in the graph `home`.

    `rows_stored` says that the weights lie as [outputs, inputs]; `factor` is Gemm's alpha, `nested` whether the node
    is in a body.
    """

    graph: GraphProto
    home: GraphProto
    node: NodeProto
    weight: TensorProto
    rows_stored: bool
    factor: float
    nested: bool

    @property
    def inputs(self) -> int:
        """Length of the summed axis."""
        return int(self.weight.dims[1 if self.rows_stored else 0])

    @property
    def outputs(self) -> int:
        """Columns of the result."""
        return int(self.weight.dims[0 if self.rows_stored else 1])


@dataclass(frozen=True, slots=True)
class Table:
    """A Gather of rows out of a stored matrix, which lies in the graph `home`."""

    home: GraphProto
    node: NodeProto
    weight: TensorProto


def find_products(model: ModelProto) -> list[Product]:
    """Every product with a stored float32 or float16 matrix on its right, nested bodies included."""
    return [
        product
        for graph, scope, nested in _scopes(model.graph, {}, nested=False)
        for node in graph.node
        if (product := _product(graph, node, scope, nested)) is not None
    ]


def find_tables(model: ModelProto) -> list[Table]:
    """Every Gather along the first axis of a stored float32 or float16 matrix, nested bodies included."""
    tables = []
    for graph, scope, _nested in _scopes(model.graph, {}, nested=False):
        for node in graph.node:
            stored = scope.get(node.input[0]) if node.op_type == "Gather" and not node.domain else None
            if stored and not stored.flipped and _is_matrix(stored.tensor) and _attribute(node, "axis", 0) in (0, -2):
                tables.append(Table(stored.graph, node, stored.tensor))
    return tables


def heads(model: ModelProto, products: list[Product]) -> set[str]:
    """The names of those products of the main graph after which no other one comes on the way to an output."""
    nodes = {product.node.name for product in products if not product.nested}
    before_others: set[str] = set()
    tainted: set[str] = set()
    for node in reversed(model.graph.node):
        if node.name in nodes:
            if any(name in tainted for name in node.output):
                before_others.add(node.name)
            tainted.update(node.input)
        elif any(name in tainted for name in node.output):
            tainted.update(node.input)
            tainted.update(captured(node))
    return nodes - before_others


def _scopes(
    graph: GraphProto, outer: Mapping[str, Stored], *, nested: bool
) -> Iterator[tuple[GraphProto, Mapping[str, Stored], bool]]:
    """Each graph with the stored tensors that its nodes can see."""
    scope = dict(outer)
    scope.update({tensor.name: Stored(graph, tensor) for tensor in graph.initializer})
    for value in graph.input:  # what a caller can set is not stored
        scope.pop(value.name, None)
    for node in graph.node:
        found = scope.get(node.input[0]) if len(node.input) == 1 and not node.domain else None
        if found and node.op_type == "Identity":
            scope[node.output[0]] = found
        elif found and node.op_type == "Transpose" and len(found.tensor.dims) == 2 and _swaps(node):
            scope[node.output[0]] = Stored(found.graph, found.tensor, not found.flipped)
    yield graph, scope, nested
    for node in graph.node:
        for body in bodies_of(node.attribute):
            yield from _scopes(body, scope, nested=True)


def _product(graph: GraphProto, node: NodeProto, scope: Mapping[str, Stored], nested: bool) -> Product | None:
    if node.domain or node.op_type not in ("MatMul", "Gemm") or len(node.input) < 2:
        return None
    stored = scope.get(node.input[1])
    if stored is None or not _is_matrix(stored.tensor) or node.input[0] in scope:
        return None
    rows_stored = stored.flipped
    factor = 1.0
    if node.op_type == "Gemm":
        if _attribute(node, "transA", 0):
            return None
        rows_stored ^= bool(_attribute(node, "transB", 0))
        factor = float(_attribute(node, "alpha", 1.0))
    return Product(graph, stored.graph, node, stored.tensor, rows_stored, factor, nested)


def _is_matrix(tensor: TensorProto) -> bool:
    return tensor.data_type in FLOATS and len(tensor.dims) == 2 and min(tensor.dims) > 0


def _swaps(node: NodeProto) -> bool:
    return list(_attribute(node, "perm", [1, 0])) == [1, 0]


def _attribute(node: NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(entry) for entry in node.attribute if entry.name == name), default)
