"""Where a factor of an activation's channels can go without a node of its own: into the operator that makes it.

That is a norm's stored scale (LayerNormalization, or the Mul by a stored vector that ends an RMS norm), or the outputs
of an earlier product that a Mul gates (the up projection before the down projection of a gated feed-forward layer).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from workers.quantization.graph import captured
from workers.quantization.weight_only.blocks import Floats
from workers.quantization.weight_only.products import FLOATS, Product
from workers.quantization.weight_only.storage import Mapped


@dataclass(frozen=True, slots=True)
class Fold:
    """Where the factor of one activation goes.

    `vectors` are inputs of `node` that hold stored vectors to multiply, by position; `product` is the name of the
    product whose outputs to multiply, or "".
    """

    graph: GraphProto
    node: NodeProto
    vectors: tuple[int, ...]
    product: str

    def apply(self, factor: Floats, folder: Path) -> None:
        """Multiply the stored vectors, whose external data lie in `folder`; others that read them keep theirs.

        Nothing to do for a product's outputs.
        """
        stored = {tensor.name: tensor for tensor in self.graph.initializer}
        for position in self.vectors:
            before = stored[self.node.input[position]]
            with Mapped(before, folder) as mapped:
                values = mapped.values.copy()
            name = f"{before.name}_for_{self.node.output[0]}"
            self.graph.initializer.append(numpy_helper.from_array((values * factor).astype(values.dtype), name))
            self.node.input[position] = name


def find_folds(model: ModelProto, products: Sequence[Product]) -> dict[str, Fold]:
    """For each activation that only these products read: where its factor can go, if anywhere."""
    graph = model.graph
    readers: dict[str, list[str]] = {}
    for node in graph.node:
        for name in (*node.input, *captured(node)):
            readers.setdefault(name, []).append(node.name)
    for value in graph.output:
        readers.setdefault(value.name, []).append("")
    chosen = {product.node.name: product for product in products if not product.nested}
    producers = {name: node for node in graph.node for name in node.output}
    vectors = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type in FLOATS}
    # Weights that two products read cannot have the factor of one.
    weights = [(product.weight.name, id(product.home)) for product in products]
    once = {
        name: product for name, product in chosen.items() if weights.count((product.weight.name, id(product.home))) == 1
    }
    folds: dict[str, Fold] = {}
    for activation in {product.node.input[0]: product for product in chosen.values()}:
        node = producers.get(activation)
        if node is None or any(name not in once for name in readers.get(activation, [])):
            continue
        size = next(product.inputs for product in chosen.values() if product.node.input[0] == activation)
        fold = _fold(graph, node, size, vectors, producers, readers, once)
        if fold is not None:
            folds[activation] = fold
    return folds


def _fold(
    graph: GraphProto,
    node: NodeProto,
    size: int,
    vectors: dict[str, TensorProto],
    producers: dict[str, NodeProto],
    readers: dict[str, list[str]],
    chosen: dict[str, Product],
) -> Fold | None:
    def is_vector(name: str) -> bool:
        return name in vectors and list(vectors[name].dims) == [size]

    if node.domain:
        return None
    if node.op_type == "LayerNormalization" and len(node.output) == 1:
        wanted = [position for position in (1, 2) if position < len(node.input) and node.input[position]]
        return Fold(graph, node, tuple(wanted), "") if all(is_vector(node.input[at]) for at in wanted) else None
    if node.op_type != "Mul":
        return None
    for position, name in enumerate(node.input):
        if is_vector(name):
            return Fold(graph, node, (position,), "")
    for name in node.input:
        maker = producers.get(name)
        if maker is not None and maker.name in chosen and maker.op_type == "MatMul" and readers[name] == [node.name]:
            return Fold(graph, node, (), maker.name) if chosen[maker.name].outputs == size else None
    return None
