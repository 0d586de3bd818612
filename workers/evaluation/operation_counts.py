"""How many operations a node of an ONNX model does, from the shapes of its tensors.

A multiplication and an addition are two operations, and an elementary function (exp, tanh, erf, sqrt) is one; composite
functions count as their formulas. Products of matrices and convolutions are counted as direct algorithms do them,
padding included, whatever the runtime does. What is only moved is no operation.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import NodeProto, helper

from workers.evaluation.roofline import Kind

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


@dataclass(frozen=True, slots=True)
class Count:
    """Operations of one call of a node."""

    flops: float
    kind: Kind


_PER_ELEMENT = {
    **dict.fromkeys(
        ("Abs", "Add", "And", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Ceil", "Cos", "Div",
         "Equal", "Erf", "Exp", "Floor", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log",
         "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Reciprocal", "Relu", "Round", "Sign", "Sin", "Sqrt", "Sub", "Tan",
         "Tanh", "ThresholdedRelu", "Where", "Xor", "Acos", "Asin", "Atan", "Cosh", "Sinh", "Atanh", "Asinh", "Acosh"),
        1,
    ),
    **dict.fromkeys(("Clip", "LeakyRelu", "PRelu", "DequantizeLinear", "Softplus", "BatchNormalization", "Shrink"), 2),
    **dict.fromkeys(("QuantizeLinear", "HardSigmoid", "Elu", "Selu", "Celu", "Softsign"), 3),
    **dict.fromkeys(("Sigmoid", "HardSwish", "QLinearAdd", "QLinearMul"), 4),
    **dict.fromkeys(("Gelu", "QuickGelu", "Swish", "Mish", "DynamicQuantizeLinear"), 5),
    **dict.fromkeys(("BiasGelu", "RotaryEmbedding"), 6),
    "FastGelu": 8,
}  # fmt: skip
"""Operations for each element of the first output."""

_PER_INPUT_ELEMENT = {
    **dict.fromkeys(
        ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ArgMax", "ArgMin", "CumSum",
         "GlobalAveragePool", "GlobalMaxPool", "QLinearGlobalAveragePool", "QLinearReduceMean", "Hardmax"),
        1,
    ),
    **dict.fromkeys(("ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp", "GlobalLpPool"), 2),
    "LpNormalization": 3,
    **dict.fromkeys(("SimplifiedLayerNormalization", "RMSNormalization"), 4),
    **dict.fromkeys(("Softmax", "LogSoftmax", "SkipSimplifiedLayerNormalization"), 5),
    "MeanVarianceNormalization": 6,
    **dict.fromkeys(("LayerNormalization", "InstanceNormalization", "GroupNormalization", "GroupNorm"), 7),
    "SkipLayerNormalization": 8,
}  # fmt: skip
"""Operations for each element of the first input. Softmax: maximum, difference, exp, sum, quotient. Layer norm: mean,
difference, square, sum, and three to scale and shift."""

_VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Dropout", "Shape", "Size", "Constant"})
_MOVES = frozenset(
    {"Transpose", "Concat", "Slice", "Split", "Gather", "GatherElements", "GatherND", "GatherBlockQuantized", "Scatter",
     "ScatterElements", "ScatterND", "Pad", "Expand", "Tile", "Cast", "CastLike", "DepthToSpace", "SpaceToDepth",
     "ConstantOfShape", "Range", "OneHot", "EyeLike", "Trilu", "ReverseSequence", "Compress", "NonZero", "Upsample",
     "QLinearConcat", "CenterCropPad"}
)  # fmt: skip
_CONTROL = frozenset({"If", "Loop", "Scan", "SequenceMap"})
_POOLS = frozenset({"MaxPool", "AveragePool", "LpPool", "QLinearAveragePool"})
_VARIADIC = frozenset({"Sum", "Mean", "Max", "Min"})

_RESIZE = {"nearest": 0, "linear": 3, "cubic": 7}
"""Operations along each axis that changes its size: a weighted mean of two or of four."""

_GATES = {"LSTM": 4, "GRU": 3, "RNN": 1, "DynamicQuantizeLSTM": 4}

# Where a kernel, and where what is added to a product stand among the inputs.
_SECOND = {"QLinearConv": 3}
_BIAS = {"QLinearConv": 8, "QGemm": 6, **dict.fromkeys(("Conv", "ConvTranspose", "FusedConv", "Gemm", "FusedGemm"), 2)}


def count(node: NodeProto, shapes: Shapes) -> Count:
    """Operations of one call, and of what kind; `unknown` where the operator or a shape is not known."""
    op_type = node.op_type
    if op_type in _VIEWS:
        return Count(0.0, "view")
    if op_type in _MOVES:
        return Count(0.0, "movement")
    if op_type in _CONTROL:
        return Count(0.0, "control")
    try:
        if op_type in _PRODUCTS:
            return Count(float(_PRODUCTS[op_type](node, shapes)), "product")
        return Count(float(_arithmetic(node, shapes)), "arithmetic")
    except (KeyError, IndexError, ValueError, ZeroDivisionError):
        return Count(0.0, "unknown")


def _arithmetic(node: NodeProto, shapes: Shapes) -> float:
    op_type = node.op_type
    if op_type in _PER_ELEMENT:
        return _PER_ELEMENT[op_type] * math.prod(_made(node, shapes))
    if op_type in _PER_INPUT_ELEMENT:
        return _PER_INPUT_ELEMENT[op_type] * math.prod(shapes[node.input[0]])
    if op_type in _VARIADIC:
        return (len(node.input) - 1 + (op_type == "Mean")) * math.prod(_made(node, shapes))
    if op_type in _POOLS:
        return math.prod(_made(node, shapes)) * math.prod(map(int, _attribute(node, "kernel_shape")))
    if op_type == "Resize":
        made, given = _made(node, shapes), shapes[node.input[0]]
        axes = sum(before != after for before, after in zip(given, made, strict=True))
        mode = _attribute(node, "mode", b"nearest").decode()
        return axes * _RESIZE[mode] * math.prod(made)
    raise KeyError(op_type)


def _convolution(node: NodeProto, shapes: Shapes) -> float:
    kernel = shapes[node.input[_SECOND.get(node.op_type, 1)]]
    made = _made(node, shapes)
    products = math.prod(made) * math.prod(kernel[1:])  # kernel: outputs, inputs of a group, then its sides
    return 2 * products + _bias(node, made)


def _transposed_convolution(node: NodeProto, shapes: Shapes) -> float:
    kernel = shapes[node.input[1]]  # inputs, outputs of a group, then its sides
    return 2 * math.prod(shapes[node.input[0]]) * math.prod(kernel[1:]) + _bias(node, _made(node, shapes))


def _matmul(node: NodeProto, shapes: Shapes) -> float:
    first = shapes[node.input[0]]
    turned = bool(_attribute(node, "transA", 0)) and len(first) > 1
    return 2 * math.prod(_made(node, shapes)) * first[-2 if turned else -1]


def _gemm(node: NodeProto, shapes: Shapes) -> float:
    first = shapes[node.input[0]]
    made = _made(node, shapes)
    return 2 * math.prod(made) * first[0 if _attribute(node, "transA", 0) else 1] + _bias(node, made)


def _block_quantized(node: NodeProto, shapes: Shapes) -> float:
    inner, outer = _attribute(node, "K"), _attribute(node, "N")
    rows = math.prod(shapes[node.input[0]][:-1])
    return 2.0 * rows * int(inner) * int(outer)


def _einsum(node: NodeProto, shapes: Shapes) -> float:
    equation = _attribute(node, "equation").decode().replace(" ", "")
    sizes: dict[str, int] = {}
    terms = equation.split("->")[0].split(",")
    for term, name in zip(terms, node.input, strict=True):
        if "." in term:
            raise ValueError("an ellipsis")
        sizes |= dict(zip(term, shapes[name], strict=True))
    if len(terms) > 2:
        raise ValueError("the order of several products is the runtime's")
    return float((2 if len(terms) == 2 else 1) * math.prod(sizes.values()))


def _recurrent(node: NodeProto, shapes: Shapes) -> float:
    steps, batch, inputs = shapes[node.input[0]]
    hidden = int(_attribute(node, "hidden_size"))
    directions = 2 if _attribute(node, "direction", b"forward") == b"bidirectional" else 1
    products = 2 * _GATES[node.op_type] * hidden * (inputs + hidden)
    return float(steps * batch * directions * products)


def _attention(node: NodeProto, shapes: Shapes) -> float:
    """Scores and the mean of values, for every query and key; with its projection where the operator has one."""
    if node.op_type in ("Attention", "QAttention") and node.domain == "com.microsoft":
        batch, length, width = shapes[node.input[0]]
        projected = shapes[node.input[1]][1]
        values = shapes[node.output[0]][-1]
        past = node.input[4] if node.op_type == "Attention" and len(node.input) > 4 and node.input[4] else None
        keys = length + (shapes[past][-2] if past else 0)
        return 2.0 * batch * length * (width * projected + keys * 2 * values)
    query, key = shapes[node.input[0]], shapes[node.input[1]]
    made = _made(node, shapes)
    if node.op_type == "GroupQueryAttention":
        return 4.0 * math.prod(made) * shapes[node.output[1]][-2]
    past_key = node.input[4 if node.domain in ("", "ai.onnx") else 6] if len(node.input) > 6 else ""
    keys = key[-2] + (shapes[past_key][-2] if past_key else 0)
    return 2.0 * keys * (math.prod(query) + math.prod(made))


_PRODUCTS: dict[str, Callable[[NodeProto, Shapes], float]] = {
    **dict.fromkeys(("Conv", "FusedConv", "NhwcConv", "ConvInteger", "QLinearConv"), _convolution),
    "ConvTranspose": _transposed_convolution,
    **dict.fromkeys(
        ("MatMul", "FusedMatMul", "MatMulInteger", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "QLinearMatMul"),
        _matmul,
    ),
    **dict.fromkeys(("Gemm", "FusedGemm", "QGemm"), _gemm),
    "MatMulNBits": _block_quantized,
    "Einsum": _einsum,
    **dict.fromkeys(_GATES, _recurrent),
    **dict.fromkeys(("Attention", "QAttention", "MultiHeadAttention", "GroupQueryAttention"), _attention),
}


def _made(node: NodeProto, shapes: Shapes) -> Shape:
    return shapes[node.output[0]]


def _bias(node: NodeProto, made: Shape) -> int:
    place = _BIAS.get(node.op_type, len(node.input))
    return math.prod(made) if len(node.input) > place and node.input[place] else 0


def _attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    if default is None:
        raise KeyError(name)
    return default
