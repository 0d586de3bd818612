"""Write a plan into the graph: QuantizeLinear and DequantizeLinear around what is computed in integers."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from workers.quantization.affine import LIMITS, Affine
from workers.quantization.graph import attribute, captured, defined, fresh, sort_nodes
from workers.quantization.qdq.layouts import wants_its_own_layout
from workers.quantization.qdq.placement import BOUNDS, PRODUCTS
from workers.quantization.qdq.plan import Array, Plan

CONTRIB = "com.microsoft"

_WIDE = frozenset({"int16", "uint16"})
_WIDE_OPSET = 21
"""From here on the standard's QuantizeLinear takes 16-bit types."""

_SEEN_THROUGH = frozenset({"MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice", "Identity", "Dropout"})
"""Operators that onnxruntime 1.32 moves pairs across, or drops."""


@dataclass(frozen=True, slots=True)
class Inserted:
    """A QDQ model, and where to find in it what was a tensor of the float model.

    `values` names, by quantized tensor of the float model, the one that its numbers come out of again. A node that was
    not absorbed has its name still.
    """

    model: ModelProto
    values: Mapping[str, str]


def insert(plan: Plan, *, exact: bool = True) -> Inserted:
    """The QDQ model that a plan describes; the plan's own model stays as it is.

    With `exact`, weights of products whose activations have 16 bits are read through a Cast and a Mul. Behind a
    DequantizeLinear, onnxruntime 1.32 makes MatMulNBits of such a product and rounds its activations to 8 bits.
    """
    model = ModelProto()
    model.CopyFrom(plan.model)
    writer = _Writer(model, plan, exact=exact)
    writer.absorb()
    writer.quantize_activations()
    writer.shield_kept()
    writer.shield_layouts()
    writer.quantize_weights()
    writer.quantize_biases()
    writer.drop_unused()
    writer.import_domain()
    sort_nodes(model.graph)
    return Inserted(model, writer.values)


class _Writer:
    def __init__(self, model: ModelProto, plan: Plan, *, exact: bool) -> None:
        graph = model.graph
        self._model = model
        self._graph = graph
        self._plan = plan
        self._exact = exact
        self._placement = plan.placement
        self._taken = defined(graph)
        self._opset = next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)
        self._sources = {(node.name, index): name for node in graph.node for index, name in enumerate(node.input)}
        self._nodes = {node.name: node for node in graph.node}
        self._dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
        self._quantized = {(weight.node, weight.index) for weight in plan.placement.weights}
        self._biased = {bias.node for bias in plan.placement.biases}
        self._parameters: dict[tuple[str, bytes, bytes, str], tuple[str, str]] = {}
        self._stored: dict[tuple[bytes, str, tuple[int, ...]], str] = {}
        self._sources_of_bytes: set[str] = set()
        self._from_bytes: set[str] = set()
        self._lowest = ""
        self.values: dict[str, str] = {}

    def absorb(self) -> None:
        """Drop activations whose bounds are the ends of a range: their producer makes what they made."""
        producers = {name: node for node in self._graph.node for name in node.output}
        for name, source in self._placement.absorbed.items():
            producer, node = producers[source], self._nodes[name]
            producer.output[list(producer.output).index(source)] = node.output[0]
        self._delete(self._placement.absorbed)

    def quantize_activations(self) -> None:
        """Put a pair of nodes behind each tensor, and let its readers read what comes out."""
        producers = {name: node for node in self._graph.node for name in node.output}
        outputs = {value.name for value in self._graph.output}
        made: list[NodeProto] = []
        for name in self._placement.activations:
            affine = self._plan.activations[name]
            producer = producers.get(name)
            in_integers = producer is not None and producer.name in self._placement.nodes
            source, result = name, fresh(f"{name}_dequantized", self._taken)
            if in_integers and name in outputs:  # the output keeps its name, so what is before it gets another
                assert producer is not None
                source, result = fresh(f"{name}_float", self._taken), name
                producer.output[list(producer.output).index(name)] = source
            whole = fresh(f"{name}_quantized", self._taken)
            scale, zero_point = self._parameter_names(affine, name)
            made.append(self._node("QuantizeLinear", [source, scale, zero_point], whole, affine))
            made.append(self._node("DequantizeLinear", [whole, scale, zero_point], result, affine))
            self.values[name] = result
            if affine.dtype not in _WIDE:
                self._sources_of_bytes.add(source)
                self._from_bytes.add(result)
            shielded: dict[int, str] = {}
            for node in self._graph.node:
                reads = self._placement.readers.get(node.name, [])
                for index, given in enumerate(node.input):
                    if given == name and (in_integers or index in reads):
                        channels = self._channels_to_shield(node, index)
                        if channels and channels not in shielded:
                            made.append(self._dequantize_by_channel(whole, affine, name, channels))
                            shielded[channels] = made[-1].output[0]
                        node.input[index] = shielded[channels] if channels else result
        self._graph.node.extend(made)

    def shield_kept(self) -> None:
        """Part kept nodes from the pairs around them, or the runtime computes them in integers all the same.

        onnxruntime 1.32 makes one integer operator of what is between DequantizeLinear and QuantizeLinear, and of a
        matrix product behind two DequantizeLinear whatever reads it. A Max that changes nothing is in its way; by
        scales for each channel, as below, it is not kept from it here. Of 16 bits it makes no such operators.
        """
        producers = {name: node for node in self._graph.node for name in node.output if name}
        readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in self._graph.node:
            for name in dict.fromkeys(node.input):
                readers[name].append(node)
        for node in list(self._graph.node):
            if node.name not in self._placement.kept:
                continue
            operands = [name for name in _operands(node) if name]
            if not all(self._is_dequantized(name, producers) for name in operands):
                continue
            if node.op_type in ("MatMul", "Gemm"):
                node.input[0] = self._shielded(node.input[0])
                continue
            name = node.output[0]
            towards = [reader for reader in readers[name] if self._is_quantized_by(reader, name, readers)]
            if towards:
                shielded = self._shielded(name)
                for reader in towards:
                    reader.input[:] = [shielded if given == name else given for given in reader.input]

    def shield_layouts(self) -> None:
        """Keep the runtime from computing a Resize with channels last that it can compute with channels first alone.

        onnxruntime 1.32 computes quantized convolutions with channels last and moves the transposition on behind what
        comes after them. It does not look through a DepthToSpace, which with blocks of 1 changes nothing.
        """
        producers = {name: node for node in self._graph.node for name in node.output if name}
        own = {node.name for node in self._plan.model.graph.node if wants_its_own_layout(node, self._plan.model)}
        for node in list(self._graph.node):
            if node.name in own and self._from_bytes and self._is_behind_convolution(node, producers):
                name = node.input[0]
                result = fresh(f"{name}_channels_first", self._taken)
                self._graph.node.append(
                    helper.make_node("DepthToSpace", [name], [result], name=self._free_name(result), blocksize=1)
                )
                node.input[0] = result

    def quantize_weights(self) -> None:
        """Store each weight as integers, with the node that makes numbers of them."""
        for weight in self._placement.weights:
            place = (weight.node, weight.index)
            affine = self._plan.weights[place]
            values = self._plan.integers.get(place)
            if values is None:
                values = affine.quantize(self._plan.stored(weight.tensor))
            if self._exact and weight.product and self._reads_16_bits(weight.node):
                self._multiply_input(weight.node, weight.index, weight.tensor, values, affine)
            else:
                self._replace_input(weight.node, weight.index, weight.tensor, values, affine)

    def quantize_biases(self) -> None:
        """Store each bias as 32-bit integers in units of both scales, as the kernels add it."""
        for bias in self._placement.biases:
            weight = self._plan.weights[(bias.node, 1)]
            source = self._plan.activations[bias.source]
            values = self._plan.stored(bias.tensor)
            # In float32, as the runtime multiplies them.
            scale = (source.scale * weight.scale).astype(np.float32)
            least, most = LIMITS["int32"]
            affine = Affine(
                "int32", scale, np.zeros(scale.shape, np.int32), least, most, 0 if weight.axis is not None else None
            )
            whole = np.clip(np.rint(values.astype(np.float64) / scale), least, most).astype(np.int32)
            self._replace_input(bias.node, bias.index, bias.tensor, whole, affine)

    def drop_unused(self) -> None:
        """Drop float weights that nobody reads any more."""
        used = {name for node in self._graph.node for name in (*node.input, *captured(node))}
        used.update(value.name for value in self._graph.output)
        for index in range(len(self._graph.initializer) - 1, -1, -1):
            if self._graph.initializer[index].name not in used:
                del self._graph.initializer[index]

    def import_domain(self) -> None:
        """Name the runtime's own domain among the imports, where a node is of it."""
        used = any(node.domain == CONTRIB for node in self._graph.node)
        if used and all(entry.domain != CONTRIB for entry in self._model.opset_import):
            self._model.opset_import.append(helper.make_opsetid(CONTRIB, 1))

    # Parts

    def _replace_input(self, node: str, index: int, name: str, values: Array, affine: Affine) -> None:
        """Let an input read stored integers, the same ones where the same integers are stored already."""
        scale, zero_point = self._parameter_names(affine, name)
        whole = self._stored_integers(name, values, affine)
        # A node of its own for each reader, as the runtime's selectors want it.
        result = fresh(f"{name}_dequantized", self._taken)
        self._graph.node.append(self._node("DequantizeLinear", [whole, scale, zero_point], result, affine))
        if affine.axis is not None:
            self._graph.node[-1].attribute.append(helper.make_attribute("axis", affine.axis))
        self._nodes[node].input[index] = result

    def _multiply_input(self, node: str, index: int, name: str, values: Array, affine: Affine) -> None:
        """Let an input read stored integers times their scale, in operators that the runtime computes beforehand."""
        shape = [1] * values.ndim
        if affine.axis is not None:
            shape[affine.axis] = -1
        whole = self._stored_integers(name, values, affine)
        step, cast, result = (fresh(f"{name}_{part}", self._taken) for part in ("scale", "cast", "dequantized"))
        self._graph.initializer.append(numpy_helper.from_array(affine.scale.reshape(shape), step))
        self._graph.node.append(helper.make_node("Cast", [whole], [cast], name=cast, to=TensorProto.FLOAT))
        self._graph.node.append(helper.make_node("Mul", [cast, step], [result], name=result))
        self._nodes[node].input[index] = result

    def _stored_integers(self, name: str, values: Array, affine: Affine) -> str:
        # By content: preparation gives each product a copy of what several of them share.
        key = (hashlib.sha256(values.tobytes()).digest(), affine.dtype, values.shape)
        if key not in self._stored:
            whole = fresh(f"{name}_quantized", self._taken)
            self._graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), whole))
            self._stored[key] = whole
        return self._stored[key]

    def _reads_16_bits(self, node: str) -> bool:
        """Whether a product's activation has 16 bits."""
        places = self._placement.readers.get(node, [])
        given = (self._plan.activations.get(self._sources.get((node, index), "")) for index in places)
        return any(affine is not None and affine.dtype in _WIDE for affine in given)

    def _parameter_names(self, affine: Affine, name: str) -> tuple[str, str]:
        """Names of a scale and a zero point among the stored tensors; equal ones of a tensor are stored once."""
        key = (name, affine.scale.tobytes(), affine.zero_point.tobytes(), affine.dtype)
        if key not in self._parameters:
            names = (fresh(f"{name}_scale", self._taken), fresh(f"{name}_zero_point", self._taken))
            for given, values in zip(names, (affine.scale, affine.zero_point), strict=True):
                self._graph.initializer.append(numpy_helper.from_array(np.asarray(values), given))
            self._parameters[key] = names
        return self._parameters[key]

    def _is_dequantized(self, name: str, producers: Mapping[str, NodeProto]) -> bool:
        """Whether the runtime finds a DequantizeLinear of 8 bits before a tensor, or moves one there."""
        while name not in self._from_bytes:
            node = producers.get(name)
            if node is None or node.op_type not in _SEEN_THROUGH:
                return False
            name = node.input[0]
        return True

    def _is_quantized_by(self, reader: NodeProto, name: str, readers: Mapping[str, list[NodeProto]]) -> bool:
        """Whether a node quantizes what it reads to 8 bits, or the runtime moves a QuantizeLinear before it."""
        waiting = [(reader, name)]
        while waiting:
            node, given = waiting.pop()
            if node.op_type == "QuantizeLinear" and given in self._sources_of_bytes:
                return True
            if node.op_type in _SEEN_THROUGH | BOUNDS and node.input[0] == given:
                waiting += [(further, node.output[0]) for further in readers[node.output[0]]]
        return False

    def _shielded(self, name: str) -> str:
        """The same numbers behind a node that the runtime neither drops nor merges with another."""
        if not self._lowest:
            self._lowest = fresh("lowest", self._taken)
            lowest = np.asarray(np.finfo(np.float32).min, np.float32)
            self._graph.initializer.append(numpy_helper.from_array(lowest, self._lowest))
        result = fresh(f"{name}_kept", self._taken)
        self._graph.node.append(helper.make_node("Max", [name, self._lowest], [result], name=self._free_name(result)))
        return result

    def _is_behind_convolution(self, node: NodeProto, producers: Mapping[str, NodeProto]) -> bool:
        """Whether a quantized convolution is among what a node is computed from."""
        waiting, seen = [node], {node.name}
        while waiting:
            for name in waiting.pop().input:
                source = producers.get(name)
                if source is None or source.name in seen:
                    continue
                if source.op_type == "Conv" and source.name in self._placement.nodes:
                    return True
                seen.add(source.name)
                waiting.append(source)
        return False

    def _channels_to_shield(self, node: NodeProto, index: int) -> int:
        """Channels along axis 1 of what a node reads, where it is one whose float weights the runtime would quantize.

        onnxruntime 1.32 gives convolutions and Gemms behind a DequantizeLinear with one scale 8-bit weights, one scale
        for all of them, though they were to stay in float (weight_bias_quantization.cc). Behind scales by channel it
        leaves them alone. 0 where there is nothing to fear.
        """
        stored = self._dims.get(node.input[1]) if len(node.input) > 1 else None
        if index or stored is None or not self._has_float_weights(node):
            return 0
        if node.op_type == "Conv":
            return int(stored[1] * attribute(node, "group", 1))
        if node.op_type == "ConvTranspose":
            return int(stored[0])
        if node.op_type == "Gemm" and not attribute(node, "transA", 0):
            return int(stored[1 if attribute(node, "transB", 0) else 0])
        return 0

    def _has_float_weights(self, node: NodeProto) -> bool:
        """Whether the runtime sees float weights, and no bias of 32 bits, which alone keeps it from quantizing them."""
        if (node.name, 1) not in self._quantized:
            return True
        computed = self._exact and self._reads_16_bits(node.name)  # from integers, but before the first run
        return computed and node.name not in self._biased

    def _dequantize_by_channel(self, whole: str, affine: Affine, name: str, channels: int) -> NodeProto:
        """The same numbers again from the same integers, the one scale written out for each channel of axis 1."""
        repeated = replace(
            affine,
            scale=np.full(channels, affine.scale, affine.scale.dtype),
            zero_point=np.full(channels, affine.zero_point, affine.zero_point.dtype),
            axis=1,
        )
        scale, zero_point = self._parameter_names(repeated, name)
        result = fresh(f"{name}_dequantized_by_channel", self._taken)
        node = self._node("DequantizeLinear", [whole, scale, zero_point], result, repeated)
        node.attribute.append(helper.make_attribute("axis", 1))
        return node

    def _node(self, op_type: str, inputs: list[str], output: str, affine: Affine) -> NodeProto:
        """A node of the standard, or of the runtime's own domain for 16 bits where the opset has none."""
        own = affine.dtype in _WIDE and self._opset < _WIDE_OPSET
        return helper.make_node(op_type, inputs, [output], name=self._free_name(output), domain=CONTRIB if own else "")

    def _free_name(self, output: str) -> str:
        """A name for a node that makes this."""
        number, name = 2, output
        while name in self._nodes:  # exporters call nodes by what they make, which an output's name goes on to be
            name, number = f"{output}_{number}", number + 1
        return name

    def _delete(self, names: Iterable[str]) -> None:
        gone = set(names)
        for index in range(len(self._graph.node) - 1, -1, -1):
            if self._graph.node[index].name in gone:
                del self._graph.node[index]


def _operands(node: NodeProto) -> list[str]:
    """What a node computes with, a condition or a bias left out."""
    given = list(node.input)
    if node.op_type == "Where":
        return given[1:]
    return given[:2] if node.op_type in PRODUCTS else given
