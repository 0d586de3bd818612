"""Walk everything in a model that is a node or a tensor: nested bodies and local functions too."""

from collections import Counter
from collections.abc import Iterable, Iterator

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto

from app.errors import RejectedInput
from workers.formats.limits import InputLimits

DEFAULT_DOMAIN = "ai.onnx"

# By name, since a quantized graph is recognised by any one of them. Sources: the operator lists of ONNX
# 1.23 and of onnxruntime 1.32's com.microsoft domain.
_QUANTIZED = frozenset(
    {
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger",
        "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulInteger16", "QGemm",
        "QAttention", "QEmbedLayerNormalization", "QOrderedMatMul", "QMoE", "MatMulNBits", "MatMulBnb4",
        "GatherBlockQuantized", "MatMulFpQ4", "QuickGeluQuant", "BitLinear",
    }
)  # fmt: skip
_QUANTIZED_PREFIXES = ("QLinear", "QOrdered")


def domain_of(name: str) -> str:
    """A domain by its own name: the default one may be written as an empty string."""
    return name or DEFAULT_DOMAIN


def is_quantized(op_type: str) -> bool:
    """Whether an operator works on, makes or undoes quantized values."""
    return op_type in _QUANTIZED or op_type.startswith(_QUANTIZED_PREFIXES)


def bodies_of(attributes: Iterable[AttributeProto]) -> Iterator[GraphProto]:
    """The graphs that a node carries: branches of `If`, bodies of `Loop` and `Scan`.

    Judged by what is there and not by the attribute's type, which is one more claim of the file.
    """
    for attribute in attributes:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and every body nested in it."""
    waiting = [graph]
    while waiting:
        found = waiting.pop()
        yield found
        for node in found.node:
            waiting.extend(bodies_of(node.attribute))


def all_graphs(model: ModelProto) -> Iterator[GraphProto]:
    """Every graph of a model: the main one, nested bodies, and bodies in local functions."""
    yield from graphs(model.graph)
    for function in model.functions:
        for node in function.node:
            for body in bodies_of(node.attribute):
                yield from graphs(body)


def all_nodes(model: ModelProto) -> Iterator[NodeProto]:
    """Every node of a model, those of a local function once, however often it is called."""
    for graph in all_graphs(model):
        yield from graph.node
    for function in model.functions:
        yield from function.node


def all_tensors(model: ModelProto) -> Iterator[TensorProto]:
    """Every stored dense tensor: initializers, and tensors in attributes."""
    for graph in all_graphs(model):
        yield from graph.initializer
    for attribute in _attributes(model):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def all_sparse_tensors(model: ModelProto) -> Iterator[SparseTensorProto]:
    """Every stored sparse tensor."""
    for graph in all_graphs(model):
        yield from graph.sparse_initializer
    for attribute in _attributes(model):
        if attribute.HasField("sparse_tensor"):
            yield attribute.sparse_tensor
        yield from attribute.sparse_tensors


def _attributes(model: ModelProto) -> Iterator[AttributeProto]:
    for node in all_nodes(model):
        yield from node.attribute
    for function in model.functions:
        yield from function.attribute_proto  # defaults of its own attributes


def check_text(model: ModelProto) -> None:
    """Make sure that every name is text: protobuf hands out bytes for one that is not Unicode.

    Raises RejectedInput `invalid_model`.
    """
    if not all(isinstance(name, str) for name in _names(model)):
        raise RejectedInput(
            "The model has a name that is not text. The file is damaged or its exporter broken: export it again.",
            code="invalid_model",
        )


def _names(model: ModelProto) -> Iterator[str]:
    for opset in model.opset_import:
        yield opset.domain
    for function in model.functions:
        yield from (function.name, function.domain, *function.input, *function.output)
    for node in all_nodes(model):
        yield from (node.op_type, node.domain, node.name, *node.input, *node.output)
        yield from (attribute.name for attribute in node.attribute)
    for graph in all_graphs(model):
        for value in (*graph.input, *graph.output):
            yield value.name
            yield from (size.dim_param for size in value.type.tensor_type.shape.dim)
    for tensor in (*all_tensors(model), *(sparse.values for sparse in all_sparse_tensors(model))):
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)


def check_calls(model: ModelProto, limits: InputLimits) -> None:
    """Refuse local functions that call one another in a circle, or that grow beyond measure when written out.

    Runtimes inline every call: thirty functions that each call the next one twice are a billion nodes.
    Raises RejectedInput `invalid_model` or `model_too_complex`.
    """
    functions = {(domain_of(function.domain), function.name): function for function in model.functions}
    if not functions:
        return
    calls: dict[tuple[str, str], Counter[tuple[str, str]]] = {}
    own: dict[tuple[str, str], int] = {}
    for key, function in functions.items():
        calls[key], own[key] = _calls(function.node, functions)
    written_out: dict[tuple[str, str], int] = {}
    waiting = list(functions)
    under_way: set[tuple[str, str]] = set()
    while waiting:
        key = waiting[-1]
        missing = [called for called in calls[key] if called not in written_out]
        if key in written_out or not missing:
            size = own[key] + sum(count * written_out[called] for called, count in calls[key].items())
            written_out[key] = min(size, limits.nodes + 1)  # or the numbers themselves would grow beyond measure
            under_way.discard(key)
            waiting.pop()
            continue
        under_way.add(key)
        if any(called in under_way for called in missing):
            raise RejectedInput(
                f"The local function {key[1]!r} calls itself, directly or through others, which ONNX forbids. Export "
                "the model again.",
                code="invalid_model",
            )
        waiting.extend(missing)
    outside, count = _calls(model.graph.node, functions)
    count += sum(times * written_out[called] for called, times in outside.items())
    if count > limits.nodes:
        raise RejectedInput(
            f"With every call of its local functions written out the model has more than {limits.nodes} "
            "nodes, the most that are taken. Export it without functions, or split it.",
            code="model_too_complex",
        )


def _calls(
    nodes: Iterable[NodeProto], functions: dict[tuple[str, str], object]
) -> tuple[Counter[tuple[str, str]], int]:
    """Which local functions some nodes call, how often, and how many nodes there are."""
    found: Counter[tuple[str, str]] = Counter()
    count = 0
    waiting = list(nodes)
    while waiting:
        node = waiting.pop()
        count += 1
        key = (domain_of(node.domain), node.op_type)
        if key in functions:
            found[key] += 1
        for body in bodies_of(node.attribute):
            waiting.extend(body.node)
    return found, count
