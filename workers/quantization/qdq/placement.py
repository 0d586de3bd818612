"""Where a static technique quantizes: so that the runtime finds an integer kernel behind every pair it meets.

Convolutions and matrix products with stored weights are what integers make faster. What stands between two of them
is computed in integers too where there is a kernel, or hands integers on; everything else stays in float. A
quantized convolution needs its output quantized, while a matrix product can leave its own in float, which costs
nothing and loses less (onnxruntime 1.32's QDQ selectors).
"""

from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from workers.quantization.graph import attribute, captured

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
"""Operators whose work shrinks with the width of their weights."""

JOINS = frozenset(
    {"Add", "Mul", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax", "Concat", "Where"}
)
"""Operators with an integer kernel that computes a range of its own."""

MOVES = frozenset(
    {
        "MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Slice", "Gather", "Split", "Resize",
        "DepthToSpace",
    }
)  # fmt: skip
"""Operators that hand integers on as they are: what comes out has the scale of what goes in."""

BOUNDS = frozenset({"Relu", "Clip"})
"""Activations that a quantized range ends with, so that they need no operator of their own."""


@dataclass(frozen=True, slots=True)
class Weight:
    """A stored operand of a quantized node.

    `product` says that it is the weight of a convolution or matrix product; `axis` is then the one that output
    channels lie along, None where there are none.
    """

    node: str
    index: int
    tensor: str
    axis: int | None
    product: bool


@dataclass(frozen=True, slots=True)
class Bias:
    """A stored bias: quantized with the scale of `source`'s activations times that of the weights."""

    node: str
    index: int
    tensor: str
    source: str
    weight: str


@dataclass(slots=True)
class Placement:
    """What is quantized in a graph.

    `activations` are tensors to quantize where they are made; `shares` names, for some of them, the one whose scale
    they take over. `absorbed` are nodes that the range of their output replaces. `readers` are, by node, the inputs
    that it reads in quantized form. `kept` are nodes with an integer kernel that were left out: the runtime is not to
    find them between pairs, or it computes them in integers all the same. Of those, `unfit` are the ones that are in
    float only because that kernel does not compute what they say.
    """

    nodes: set[str] = field(default_factory=set)
    activations: list[str] = field(default_factory=list)
    shares: dict[str, str] = field(default_factory=dict)
    weights: list[Weight] = field(default_factory=list)
    biases: list[Bias] = field(default_factory=list)
    absorbed: dict[str, str] = field(default_factory=dict)
    readers: dict[str, list[int]] = field(default_factory=dict)
    kept: set[str] = field(default_factory=set)
    unfit: list[str] = field(default_factory=list)

    def observed(self) -> list[str]:
        """The activations that need a range of their own."""
        return [name for name in self.activations if name not in self.shares]


def place(model: ModelProto, op_types: Collection[str], kept: Collection[str], *, absorb: bool = True) -> Placement:
    """Choose what to quantize among the operator types given, nodes in `kept` left out.

    The model is prepared: constants are initializers, nodes named, shapes inferred. Nested bodies stay in float.
    Without `absorb`, activations whose place a range could take stay, and are quantized behind.
    """
    return _Placing(model.graph, frozenset(op_types), frozenset(kept)).placed(absorb=absorb)


class _Placing:
    def __init__(self, graph: GraphProto, op_types: frozenset[str], kept: frozenset[str]) -> None:
        self._graph = graph
        self._op_types = op_types
        self._kept = kept
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._producers = {name: node for node in graph.node for name in node.output if name}
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._readers[name].append(node)
        self._outputs = {value.name for value in graph.output}
        self._fixed = set(self._outputs)
        for node in graph.node:
            self._fixed |= captured(node)
        self._types = {
            value.name: value.type.tensor_type.elem_type for value in (*graph.value_info, *graph.input, *graph.output)
        }
        self._nodes = {node.name: node for node in graph.node}

    def placed(self, *, absorb: bool) -> Placement:
        chosen = {node.name for node in self._graph.node if self._is_product(node)}
        self._join(chosen)
        found = Placement(nodes=chosen, kept=self._left_out(), unfit=self._unfit(chosen))
        # An activation whose place a range takes is seen through: what it puts out is quantized instead.
        absorbed = {
            node.input[0]: node
            for node in self._graph.node
            if node.op_type in BOUNDS and self._is_absorbed(node, chosen)
        }
        quantized: dict[str, None] = {}
        for node in self._graph.node:
            if node.name not in chosen:
                continue
            read = list(self._activation_inputs(node))
            if node.op_type not in MOVES or all(node.input[index] in quantized for index in read):
                found.readers[node.name] = read
                quantized.update(dict.fromkeys(node.input[index] for index in read))
            if self._needs_quantized_output(node):
                for name in self._float_outputs(node):
                    quantized[absorbed[name].output[0] if name in absorbed else name] = None
        for name, node in absorbed.items():
            if absorb and node.output[0] in quantized:
                found.absorbed[node.name] = name
        self._share(found, quantized)
        found.activations = [name for name in self._in_order() if name in quantized]
        for node in self._graph.node:
            if node.name in chosen:
                self._add_stored(node, found)
        return found

    # Which nodes

    def _allowed(self, node: NodeProto) -> bool:
        return node.op_type in self._op_types and node.name not in self._kept and not node.domain

    def _left_out(self) -> set[str]:
        """What has an integer kernel and is to stay in float, as the recipe says or as the kernel is unfit."""
        return {
            node.name
            for node in self._graph.node
            if node.op_type in JOINS | PRODUCTS and not node.domain and not (self._allowed(node) and _fits(node))
        }

    def _unfit(self, chosen: set[str]) -> list[str]:
        """What would be computed in integers, but for a kernel that does not compute what the node says."""
        return [
            node.name
            for node in self._graph.node
            if self._allowed(node) and not _fits(node) and self._made_in_integers(node.input[0], chosen)
        ]

    def _is_product(self, node: NodeProto) -> bool:
        return (
            node.op_type in PRODUCTS
            and self._allowed(node)
            and node.input[1] in self._stored
            and self._stored[node.input[1]].data_type == TensorProto.FLOAT
            and all(self._stored[node.input[1]].dims)
            and node.input[0] not in self._stored
            and self._is_float(node.input[0])
            and attribute(node, "transA", 0) == 0
            and attribute(node, "alpha", 1.0) == 1.0
            and attribute(node, "beta", 1.0) == 1.0
        )

    def _join(self, chosen: set[str]) -> None:
        """Add what stands between chosen nodes: its operands are made in integers, and some reader wants integers."""
        candidates = [
            node
            for node in self._graph.node
            if node.op_type in JOINS | MOVES and self._allowed(node) and _fits(node) and not self._gives_indices(node)
        ]
        fed: set[str] = set()
        for node in candidates:  # in the order of computation, so that chains are followed
            operands = list(self._activation_inputs(node))
            if operands and all(self._made_in_integers(node.input[index], chosen | fed) for index in operands):
                fed.add(node.name)
        wanted: set[str] = set()
        for node in reversed(candidates):
            if node.name in fed and any(
                self._reads_integers(reader, chosen | wanted) for name in node.output for reader in self._readers[name]
            ):
                wanted.add(node.name)
        chosen |= wanted

    def _gives_indices(self, node: NodeProto) -> bool:
        """Whether somebody wants a pooling's second output: onnxruntime 1.32 has no integer kernel that makes it."""
        return node.op_type == "MaxPool" and any(
            name and (name in self._fixed or self._readers[name]) for name in node.output[1:]
        )

    def _made_in_integers(self, name: str, chosen: set[str]) -> bool:
        node = self._producers.get(name)
        if node is not None and node.op_type in BOUNDS:
            node = self._producers.get(node.input[0])
        return (
            node is not None
            and node.name in chosen
            and (node.op_type not in ("MatMul", "Gemm") or self._between(name, chosen))
        )

    def _between(self, name: str, chosen: set[str]) -> bool:
        """Whether a matrix product's output is read by another product alone, so that it is quantized anyway."""
        return any(reader.op_type in PRODUCTS and reader.name in chosen for reader in self._readers[name])

    def _reads_integers(self, node: NodeProto, chosen: set[str]) -> bool:
        if node.op_type in BOUNDS:
            return any(reader.name in chosen for reader in self._readers[node.output[0]])
        return node.name in chosen

    def _needs_quantized_output(self, node: NodeProto) -> bool:
        """Whether there is an integer kernel only with a quantized output: all but matrix products."""
        return node.op_type not in ("MatMul", "Gemm")

    def _is_absorbed(self, node: NodeProto, chosen: set[str]) -> bool:
        name = node.input[0]
        producer = self._producers.get(name)
        return (
            producer is not None
            and producer.name in chosen
            and producer.op_type in PRODUCTS | {"Add", "Mul", "AveragePool", "GlobalAveragePool"}
            and node.name not in self._kept
            and len(self._readers[name]) == 1
            and name not in self._fixed
            and self._ends_at_zero(node)
        )

    def _ends_at_zero(self, node: NodeProto) -> bool:
        """Whether a bound holds zero, as every quantized range does, and is known beforehand."""
        if node.op_type == "Relu":
            return True
        ends = []
        for name in node.input[1:3]:
            if name and name not in self._stored:
                return False
            ends.append(float(numpy_helper.to_array(self._stored[name]).reshape(-1)[0]) if name else None)
        low, high = (*ends, None, None)[:2]
        return (low is None or low <= 0) and (high is None or high >= 0)

    # Which tensors

    def _is_float(self, name: str) -> bool:
        return self._types.get(name) == TensorProto.FLOAT

    def _float_outputs(self, node: NodeProto) -> Iterator[str]:
        """The outputs that are not known to be of another type, such as a pooling's indices."""
        for name in node.output:
            if name and self._types.get(name, TensorProto.FLOAT) in (TensorProto.FLOAT, TensorProto.UNDEFINED):
                yield name

    def _activation_inputs(self, node: NodeProto) -> Iterator[int]:
        """Places of the operands that are no stored numbers and of a float type."""
        places = range(len(node.input)) if node.op_type in ("Concat", "Where") else range(min(2, len(node.input)))
        if node.op_type in MOVES | (JOINS - {"Add", "Mul", "Concat", "Where"}) | {"Conv", "Gemm"}:
            places = range(1)
        for index in places:
            name = node.input[index]
            if name and name not in self._stored and self._is_float(name):
                yield index

    def _share(self, found: Placement, quantized: dict[str, None]) -> None:
        """What is only moved keeps its scale."""
        for node in self._graph.node:
            if node.name in found.readers and node.op_type in MOVES:
                source = node.input[0]
                for name in node.output:
                    if name in quantized:
                        found.shares[name] = found.shares.get(source, source)

    def _in_order(self) -> Iterator[str]:
        yield from (value.name for value in self._graph.input)
        for node in self._graph.node:
            yield from node.output

    def _add_stored(self, node: NodeProto, found: Placement) -> None:
        if node.op_type in PRODUCTS:
            found.weights.append(Weight(node.name, 1, node.input[1], self._channel_axis(node), product=True))
            if node.op_type in ("Conv", "Gemm") and len(node.input) > 2 and node.input[2] in self._stored:
                found.biases.append(Bias(node.name, 2, node.input[2], node.input[0], node.input[1]))
        elif node.op_type in ("Add", "Mul", "Concat", "Where"):
            for index, name in enumerate(node.input):
                if name in self._stored and self._stored[name].data_type == TensorProto.FLOAT:
                    found.weights.append(Weight(node.name, index, name, None, product=False))

    def _channel_axis(self, node: NodeProto) -> int | None:
        rank = len(self._stored[node.input[1]].dims)
        if node.op_type == "Conv":
            return 0
        if node.op_type == "Gemm":
            return 0 if attribute(node, "transB", 0) else 1
        # onnxruntime 1.32 has no kernel for a scale a column where there are several matrices.
        return 1 if rank == 2 else None


def _fits(node: NodeProto) -> bool:
    """Whether the integer kernel computes what a node says.

    onnxruntime 1.32's QLinearAveragePool knows no dilations, and with `ceil_mode` and `count_include_pad` it divides
    by what a window would hold that reaches beyond the padding.
    """
    if node.op_type != "AveragePool":
        return True
    dilations = next((entry.ints for entry in node.attribute if entry.name == "dilations"), ())
    if any(step != 1 for step in dilations):
        return False
    return not (attribute(node, "ceil_mode", 0) and attribute(node, "count_include_pad", 0))
