"""Products with stored weights in 8-bit integers, what they multiply being quantized at run time.

The nodes are those that onnxruntime 1.32 fuses into DynamicQuantizeMatMul: DynamicQuantizeLinear, once for all
readers of an activation; MatMulInteger or ConvInteger; a Cast; and products with both scales.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from workers.formats.onnx.graph import graphs
from workers.quantization.affine import Affine, Array, WeightType
from workers.quantization.graph import attribute, captured, fresh, names_in

PRODUCTS = ("MatMul", "Gemm", "Conv")


@dataclass(frozen=True, slots=True)
class _Weight:
    """Names of a quantized weight's parts: integers, scale and zero point."""

    whole: str
    scale: str
    zero_point: str


def quantize_products(model: ModelProto, op_types: Sequence[str], kept: Collection[str], weights: WeightType) -> int:
    """Rewrite products of these types in a prepared model, nested bodies too, but not nodes in `kept`.

    Returns how many.
    """
    writer = _Writer(model, weights)
    wanted = frozenset(op_types)
    done = sum(writer.rewrite(graph, wanted, frozenset(kept)) for graph in list(graphs(model.graph)))
    for graph in graphs(model.graph):
        _drop_unread(graph)
    return done


def products_by_activation(
    graph: GraphProto, op_types: Collection[str], kept: Collection[str]
) -> dict[str, list[NodeProto]]:
    """The nodes of a model's main graph that `quantize_products` would rewrite, by the activation that they read."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    found: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        if node.op_type in op_types and node.name not in kept and _can(node, stored):
            found.setdefault(node.input[0], []).append(node)
    return found


def _can(node: NodeProto, stored: Mapping[str, TensorProto]) -> bool:
    tensor = stored.get(node.input[1])
    return (
        not node.domain
        and tensor is not None
        and tensor.data_type == TensorProto.FLOAT
        and len(tensor.dims) >= 2
        and all(tensor.dims)
        and node.input[0] not in stored
        and attribute(node, "transA", 0) == 0
        and attribute(node, "beta", 1.0) == 1.0
        and (node.op_type != "Conv" or len(node.input) < 3 or node.input[2] in stored)
    )


class _Writer:
    def __init__(self, model: ModelProto, weights: WeightType) -> None:
        self._weights = weights
        self._homes = {tensor.name: graph for graph in graphs(model.graph) for tensor in graph.initializer}
        self._stored = {tensor.name: tensor for graph in graphs(model.graph) for tensor in graph.initializer}
        self._taken = names_in(model)
        self._made: dict[tuple[str, bool, bool, float], _Weight] = {}
        self._biases: dict[tuple[str, int], str] = {}

    def rewrite(self, graph: GraphProto, op_types: Collection[str], kept: Collection[str]) -> int:
        """Rewrite the products of one graph; how many there were."""
        activations: dict[str, list[str]] = {}
        nodes: list[NodeProto] = []
        done: set[str] = set()
        for node in graph.node:
            if node.op_type in op_types and node.name not in kept and _can(node, self._stored):
                nodes.extend(self._product(node, activations))
                done.add(node.output[0])
            else:
                nodes.append(NodeProto.FromString(node.SerializeToString()))
        count = len(done)
        for node in nodes:
            if node.op_type == "Add" and done.intersection(node.input):
                self._keep_axes(node, graph)
            elif node.op_type in ("Identity", "Dropout") and node.input[0] in done:  # dropped before nodes are fused
                done.add(node.output[0])
        if count:
            del graph.node[:]
            graph.node.extend(nodes)
        return count

    def _keep_axes(self, node: NodeProto, graph: GraphProto) -> None:
        """Subtract what is added to a product if it might have more axes than that.

        Where onnxruntime 1.32 makes one node of a product and an Add behind it, the result lacks those axes.
        """
        known = {value.name: value.type.tensor_type for value in (*graph.value_info, *graph.output)}
        for product, other in (tuple(node.input), tuple(reversed(node.input))):
            if other in self._stored:
                axes = len(known[product].shape.dim) if product in known and known[product].HasField("shape") else 1
                if len(self._stored[other].dims) > axes:
                    negative = fresh(f"{other}_negative", self._taken)
                    values = -numpy_helper.to_array(self._stored[other])
                    graph.initializer.append(numpy_helper.from_array(values, negative))
                    node.op_type = "Sub"
                    node.input[:] = [product, negative]
                    return

    def _product(self, node: NodeProto, activations: dict[str, list[str]]) -> Iterator[NodeProto]:
        given, name, last = node.input[0], node.name, node.output[0]
        if given not in activations:
            activations[given] = [
                fresh(f"{given}_{part}", self._taken) for part in ("quantized", "scale", "zero_point")
            ]
            yield self._node("DynamicQuantizeLinear", [given], *activations[given])
        whole, scale, zero_point = activations[given]
        weight = self._weight(node)
        bias = node.input[2] if len(node.input) > 2 else ""
        integers, floats, step = (fresh(f"{last}_{part}", self._taken) for part in ("integers", "cast", "step"))
        scaled = fresh(f"{last}_scaled", self._taken) if bias else last
        integer_op = {"Conv": "ConvInteger"}.get(node.op_type, "MatMulInteger")
        inputs = [whole, weight.whole, zero_point, weight.zero_point]
        product = helper.make_node(integer_op, inputs, [integers], name=name)
        if node.op_type == "Conv":
            product.attribute.extend(node.attribute)
        yield product
        yield helper.make_node(
            "Cast", [integers], [floats], name=fresh(f"{name}_Cast", self._taken), to=TensorProto.FLOAT
        )
        # In this order of operands, by which onnxruntime's fusion knows them.
        yield self._node("Mul", [scale, weight.scale], step)
        yield self._node("Mul", [floats, step], scaled)
        if bias:
            addend = self._by_channel(node, bias) if node.op_type == "Conv" else bias
            yield self._node("Add", [scaled, addend], last)

    def _weight(self, node: NodeProto) -> _Weight:
        """The quantized form of a product's weight, made once for all that read it alike."""
        name = node.input[1]
        flipped = node.op_type == "Gemm" and bool(attribute(node, "transB", 0))
        factor = attribute(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0
        key = (name, node.op_type == "Conv", flipped, factor)
        if key not in self._made:
            values = numpy_helper.to_array(self._stored[name])
            values = (values.T if flipped else values) * np.float32(factor)
            affine = self._weights.affine(values, 0 if node.op_type == "Conv" else values.ndim - 1)
            self._made[key] = self._store(name, values, affine, convolution=node.op_type == "Conv")
        return self._made[key]

    def _store(self, name: str, values: Array, affine: Affine, *, convolution: bool) -> _Weight:
        scale, zero_point = affine.scale, affine.zero_point
        if convolution and affine.axis is not None:
            scale = scale.reshape(-1, *[1] * (values.ndim - 2))
        if convolution or values.ndim > 2:  # the runtime takes one for the tensor there
            zero_point = zero_point.reshape(-1)[0]
        parts = (affine.quantize(values), scale, zero_point)
        made = _Weight(*(fresh(f"{name}_{part}", self._taken) for part in ("quantized", "scale", "zero_point")))
        for stored, array in zip((made.whole, made.scale, made.zero_point), parts, strict=True):
            self._homes[name].initializer.append(numpy_helper.from_array(np.ascontiguousarray(array), stored))
        return made

    def _by_channel(self, node: NodeProto, bias: str) -> str:
        """A convolution's bias in the shape of its channels, made once."""
        rank = len(self._stored[node.input[1]].dims)
        key = (bias, rank)
        if key not in self._biases:
            values = numpy_helper.to_array(self._stored[bias]).reshape(-1, *[1] * (rank - 2))
            self._biases[key] = fresh(f"{bias}_channels", self._taken)
            self._homes[bias].initializer.append(numpy_helper.from_array(values, self._biases[key]))
        return self._biases[key]

    def _node(self, op_type: str, inputs: list[str], *outputs: str) -> NodeProto:
        name = fresh(f"{outputs[0]}_{op_type}", self._taken)
        return helper.make_node(op_type, inputs, list(outputs), name=name)


def _drop_unread(graph: GraphProto) -> None:
    read = {name for node in graph.node for name in (*node.input, *captured(node))}
    read.update(value.name for value in graph.output)
    for index in range(len(graph.initializer) - 1, -1, -1):
        if graph.initializer[index].name not in read:
            del graph.initializer[index]
