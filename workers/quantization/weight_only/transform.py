"""Put quantized weights in the place of stored ones, product by product, and write the model that results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from workers.formats.onnx.graph import all_nodes, all_tensors, graphs
from workers.quantization.finishing import finish
from workers.quantization.graph import captured, defined
from workers.quantization.weight_only import forms
from workers.quantization.weight_only.blocks import Grid, Matrix
from workers.quantization.weight_only.forms import CONTRIB, Packed, Place
from workers.quantization.weight_only.light import Light
from workers.quantization.weight_only.products import Product, Table
from workers.quantization.weight_only.storage import Mapped, Sink

Quantize = Callable[[Mapped], Matrix]
"""Makes the quantized matrix of a stored one."""


@dataclass(frozen=True, slots=True)
class _Key:
    """What must be alike for two nodes to share quantized weights."""

    weight: str
    rows_stored: bool
    factor: float
    grid: Grid
    layout: str
    home: int


class Transform:
    """A model on its way from stored weights to quantized ones.

    Weights that several nodes read alike are quantized once. `level` is MatMulNBits's accuracy level; `qdq` chooses
    the standard form.
    """

    def __init__(self, light: Light, sink: Sink, *, level: int, qdq: bool) -> None:
        self._light, self._sink, self._level, self._qdq = light, sink, level, qdq
        self._made: dict[_Key, Packed] = {}
        self._taken = {name for graph in graphs(light.model.graph) for name in defined(graph)}
        self._new: set[str] = set()

    def product(self, product: Product, grid: Grid, quantize: Quantize) -> None:
        """Give one product quantized weights."""
        store = forms.store_for_qdq if self._qdq else forms.store_for_matmul
        # onnxruntime's fusion of the standard form looks for the weights in the node's own graph.
        home = product.graph if self._qdq else product.home
        key = _Key(product.weight.name, product.rows_stored, product.factor, grid, store.__name__, id(home))
        packed = self._packed(key, home, product.weight, (product.outputs, product.inputs), store, quantize)
        if self._qdq:
            self._dequantize_before(product, packed)
        else:
            self._replace(product, packed)

    def merge(self, group: Sequence[Product], grid: Grid, quantizers: Sequence[Quantize]) -> None:
        """Make one product, and a Split of its outputs, of several that read the same activation.

        The runtime then quantizes the activation once and starts one kernel (measured on SmolLM2, one token at a
        time: 10 % of the step).
        """
        first = group[0]
        parts = []
        for product, quantize in zip(group, quantizers, strict=True):
            with Mapped(product.weight, self._light.folder) as stored:
                parts.append(quantize(stored))
        matrix = Matrix(*(np.concatenate([getattr(part, of) for part in parts]) for of in ("codes", "scales", "zeros")))
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(first.weight.data_type))
        name = self._name(first.weight.name)
        place = Place(first.graph, self._sink, name, grid, first.inputs, len(matrix.codes), dtype)
        packed = forms.store_for_matmul(matrix, place)
        self._new.update(packed.names)
        between = self._name(first.node.output[0])
        made = forms.matmul_nbits(first.node, packed, self._level, "", between)
        outputs = [product.node.output[0] for product in group]
        split = self._split(first.graph, between, outputs, [product.outputs for product in group])
        gone = {product.node.name for product in group[2:]}
        first.node.CopyFrom(made)
        group[1].node.CopyFrom(split)
        for index in range(len(first.graph.node) - 1, -1, -1):
            if first.graph.node[index].name in gone:
                del first.graph.node[index]

    def _split(self, graph: GraphProto, whole: str, outputs: list[str], sizes: list[int]) -> NodeProto:
        """A Split along the last axis; sizes were an attribute before opset 13."""
        name = f"{whole}_Split"
        opset = next(entry.version for entry in self._light.model.opset_import if entry.domain in ("", "ai.onnx"))
        if opset < 13:
            return helper.make_node("Split", [whole], outputs, name=name, axis=-1, split=sizes)
        stored = self._name(f"{whole}_sizes")
        graph.initializer.append(self._sink.put(stored, np.array(sizes, dtype=np.int64)))
        self._new.add(stored)
        return helper.make_node("Split", [whole, stored], outputs, name=name, axis=-1)

    def table(self, table: Table, grid: Grid, quantize: Quantize) -> None:
        """Give one Gather a quantized table."""
        store = forms.store_for_gather
        key = _Key(table.weight.name, True, 1.0, grid, store.__name__, id(table.home))
        rows, inputs = table.weight.dims
        packed = self._packed(key, table.home, table.weight, (rows, inputs), store, quantize)
        table.node.CopyFrom(forms.gather_quantized(table.node, packed))

    def write(self, path: Path) -> None:
        """Drop what nothing reads any more, bring over what stays, and write the model's own file.

        The sink must be closed by the caller before the artifact is whole.
        """
        model = self._light.model
        for graph in graphs(model.graph):
            _drop_unread(graph)
        for tensor in all_tensors(model):
            if tensor.name not in self._new:
                self._sink.move(tensor, self._light.folder)
        if any(node.domain == CONTRIB for node in all_nodes(model)):
            _import_contrib(model)
        finish(model)
        path.write_bytes(model.SerializeToString(deterministic=True))

    def _packed(
        self,
        key: _Key,
        home: GraphProto,
        weight: TensorProto,
        shape: tuple[int, int],
        store: Callable[[Matrix, Place], Packed],
        quantize: Quantize,
    ) -> Packed:
        if key not in self._made:
            with Mapped(weight, self._light.folder) as stored:
                matrix = quantize(stored)
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(weight.data_type))
            place = Place(home, self._sink, self._name(weight.name), key.grid, shape[1], shape[0], dtype)
            self._made[key] = store(matrix, place)
            self._new.update(self._made[key].names)
        return self._made[key]

    def _name(self, of: str) -> str:
        """A first part of names that none of the model's begins with."""
        name = f"{of}_quantized"
        suffix = 2
        while any(f"{name}{end}" in self._taken for end in ("", "_codes", "_scales", "_zeros")):
            name = f"{of}_quantized_{suffix}"
            suffix += 1
        self._taken.update(f"{name}{end}" for end in ("", "_codes", "_scales", "_zeros"))
        return name

    def _dequantize_before(self, product: Product, packed: Packed) -> None:
        output = self._name(product.node.name)
        product.graph.node.append(forms.dequantize(packed, output))
        product.node.input[1] = output
        if product.node.op_type == "Gemm":
            for index in range(len(product.node.attribute) - 1, -1, -1):
                if product.node.attribute[index].name in ("transB", "alpha"):
                    del product.node.attribute[index]

    def _replace(self, product: Product, packed: Packed) -> None:
        node = product.node
        addend = node.input[2] if node.op_type == "Gemm" and len(node.input) > 2 else ""
        beta = next((entry.f for entry in node.attribute if entry.name == "beta"), 1.0)
        output = node.output[0]
        if not addend or beta == 0:
            made = forms.matmul_nbits(node, packed, self._level, "", output)
        elif beta == 1 and _is_bias(product, addend):
            made = forms.matmul_nbits(node, packed, self._level, addend, output)
        else:
            between = self._name(output)
            made = forms.matmul_nbits(node, packed, self._level, "", between)
            product.graph.node.extend(self._added(product, between, addend, beta))
        node.CopyFrom(made)

    def _added(self, product: Product, between: str, addend: str, beta: float) -> list[NodeProto]:
        nodes = []
        if beta != 1:
            factor = self._name(f"{addend}_beta")
            dtype = helper.tensor_dtype_to_np_dtype(product.weight.data_type)
            product.graph.initializer.append(self._sink.put(factor, np.array(beta, dtype=dtype)))
            self._new.add(factor)
            scaled = self._name(f"{addend}_scaled")
            nodes.append(helper.make_node("Mul", [addend, factor], [scaled], name=f"{scaled}_Mul"))
            addend = scaled
        nodes.append(
            helper.make_node("Add", [between, addend], list(product.node.output), name=f"{product.node.name}_Add")
        )
        return nodes


def _is_bias(product: Product, name: str) -> bool:
    """Whether a Gemm's addend is a stored vector with an entry an output, which MatMulNBits adds itself."""
    tensors = (tensor for graph in (product.graph, product.home) for tensor in graph.initializer)
    return any(tensor.name == name and list(tensor.dims) == [product.outputs] for tensor in tensors)


def _drop_unread(graph: GraphProto) -> None:
    """Drop tensors that nothing reads, and what only made such out of stored ones."""
    while True:
        read = {name for node in graph.node for name in (*node.input, *captured(node))}
        read.update(value.name for value in graph.output)
        idle = [
            index
            for index, node in enumerate(graph.node)
            if node.op_type in ("Transpose", "Identity") and not node.domain and node.output[0] not in read
        ]
        for index in reversed(idle):
            del graph.node[index]
        if not idle:
            break
    for index in range(len(graph.initializer) - 1, -1, -1):
        if graph.initializer[index].name not in read:
            del graph.initializer[index]


def _import_contrib(model: ModelProto) -> None:
    if all(entry.domain != CONTRIB for entry in model.opset_import):
        model.opset_import.append(helper.make_opsetid(CONTRIB, 1))
