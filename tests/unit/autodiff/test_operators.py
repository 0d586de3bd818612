"""Every operator against onnxruntime, on small graphs of that operator alone."""

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from app.errors import StepError
from tests.unit.autodiff.conftest import Array, single

pytest.importorskip("torch")

from workers.autodiff.graph import Graph
from workers.autodiff.operators import OPERATORS

CLOSE = 2e-6
"""Relative: a few units in the last place of float32, sums being taken in other orders."""

_RNG = np.random.default_rng(5)


def _normal(*shape: int) -> Array:
    return _RNG.normal(size=shape).astype(np.float32)


def _positive(*shape: int) -> Array:
    return (np.abs(_normal(*shape)) + 0.1).astype(np.float32)


def _ints(*values: int) -> Array:
    return np.array(values, dtype=np.int64)


def _floats(*values: float) -> Array:
    return np.array(values, dtype=np.float32)


def _scalar(value: float, dtype: type = np.float32) -> Array:
    return np.array(value, dtype=dtype)


X = _normal(2, 3, 8, 9)
ROWS = _normal(2, 5, 6)
WHOLE = np.arange(-6, 6, dtype=np.int64).reshape(3, 4)
TRUTH = _RNG.random((3, 4)) > 0.5
OTHER = _RNG.random((3, 4)) > 0.5

Case = tuple[str, list[Array | None], dict[str, Any]]

UNARY: list[Case] = [
    (name, [ROWS], {})
    for name in (
        "Abs", "Ceil", "Cos", "Elu", "Erf", "Exp", "Floor", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu",
        "LogSoftmax", "Mish", "Neg", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Sin", "Softmax", "Softplus",
        "Tanh",
    )
] + [(name, [_positive(4, 5)], {}) for name in ("Log", "Sqrt")]  # fmt: skip

BINARY: list[Case] = [
    *[(name, [ROWS, _positive(5, 1)], {}) for name in ("Add", "Div", "Mul", "Sub", "Max", "Min")],
    *[(name, [WHOLE, np.full((3, 4), 3, np.int64)], {}) for name in ("Div", "Mul", "Sub", "Mod")],
    *[(name, [ROWS, np.roll(ROWS, 1)], {}) for name in ("Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")],
    *[(name, [TRUTH, OTHER], {}) for name in ("And", "Or", "Xor")],
    ("Mod", [ROWS, _positive(5, 6)], {"fmod": 1}),
    ("Pow", [_positive(3, 4), _scalar(3.0)], {}),
    ("Pow", [ROWS, _scalar(2, np.int64)], {}),
    ("Mean", [ROWS, ROWS * 2, _normal(6)], {}),
    ("Sum", [ROWS, ROWS * 2, _normal(6)], {}),
    ("PRelu", [X, _normal(3, 1, 1)], {}),
]

PRODUCTS: list[Case] = [
    ("MatMul", [ROWS, _normal(6, 4)], {}),
    ("MatMul", [_normal(2, 3, 4, 5), _normal(3, 5, 2)], {}),
    ("Gemm", [_normal(3, 4), _normal(5, 4), _normal(5)], {"transB": 1}),
    ("Gemm", [_normal(4, 3), _normal(4, 5), _normal(3, 1)], {"transA": 1, "alpha": 0.5, "beta": 2.0}),
    ("Gemm", [_normal(4, 3), _normal(3, 5)], {}),
    ("Einsum", [_normal(2, 3, 4), _normal(2, 4, 5)], {"equation": "bij, bjk -> bik"}),
    ("Conv", [X, _normal(4, 3, 3, 3), _normal(4)], {"pads": [1, 1, 1, 1]}),
    ("Conv", [X, _normal(6, 1, 3, 5)], {"group": 3, "strides": [2, 1], "pads": [0, 1, 1, 2], "dilations": [1, 2]}),
    ("Conv", [X, _normal(4, 3, 3, 3)], {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("Conv", [X, _normal(4, 3, 3, 3)], {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ("Conv", [X, _normal(4, 3, 3, 3)], {"auto_pad": "VALID"}),
    ("Conv", [_normal(2, 3, 9), _normal(4, 3, 3)], {}),
    ("Conv", [_normal(1, 2, 4, 5, 6), _normal(3, 2, 2, 2, 2)], {}),
    ("ConvTranspose", [X, _normal(3, 2, 3, 3), _normal(2)], {"strides": [2, 2], "pads": [1, 0, 0, 1]}),
    ("ConvTranspose", [X, _normal(3, 2, 3, 3)], {"strides": [2, 2], "output_padding": [1, 1], "dilations": [2, 1]}),
    ("ConvTranspose", [_normal(2, 4, 7), _normal(4, 1, 3)], {"strides": [2], "auto_pad": "SAME_UPPER", "group": 2}),
    ("ConvTranspose", [X, _normal(3, 2, 3, 3)], {"strides": [2, 2], "output_shape": [16, 17]}),
]

POOLS: list[Case] = [
    ("GlobalAveragePool", [X], {}),
    ("GlobalMaxPool", [X], {}),
    ("AveragePool", [X], {"kernel_shape": [3, 2], "strides": [2, 1]}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 0, 1, 1]}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("AveragePool", [X], {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1, "pads": [0, 0, 1, 1]}),
    ("AveragePool", [X], {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ("MaxPool", [X], {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ("MaxPool", [X], {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1}),
    ("MaxPool", [X], {"kernel_shape": [2, 3], "dilations": [2, 1]}),
]

NORMALIZATIONS: list[Case] = [
    ("BatchNormalization", [X, _normal(3), _normal(3), _normal(3), _positive(3)], {"epsilon": 1e-3}),
    ("InstanceNormalization", [X, _normal(3), _normal(3)], {}),
    ("LayerNormalization", [ROWS, _normal(6), _normal(6)], {"axis": -1}),
    ("LayerNormalization", [ROWS, _normal(5, 6)], {"axis": 1, "epsilon": 1e-3}),
    ("SimplifiedLayerNormalization", [ROWS, _normal(6)], {"axis": -1, "epsilon": 1e-6}),
]

REDUCTIONS: list[Case] = [
    *[
        (name, [ROWS, _ints(1, -1)], {"keepdims": keep})
        for name in ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL2", "ReduceSumSquare")
        for keep in (0, 1)
    ],
    ("ReduceSum", [WHOLE], {}),
    ("ReduceSum", [ROWS, np.empty(0, np.int64)], {"noop_with_empty_axes": 1}),
    ("ArgMax", [ROWS], {"axis": 1, "keepdims": 0}),
    ("CumSum", [ROWS, _scalar(1, np.int64)], {"exclusive": 1, "reverse": 1}),
    ("CumSum", [ROWS, _scalar(-1, np.int64)], {}),
]

SHAPES: list[Case] = [
    ("Shape", [ROWS], {}),
    ("Shape", [ROWS], {"start": 1, "end": -1}),
    ("Size", [ROWS], {}),
    ("Reshape", [ROWS, _ints(0, -1)], {}),
    ("Transpose", [ROWS], {}),
    ("Transpose", [ROWS], {"perm": [1, 2, 0]}),
    ("Squeeze", [_normal(1, 3, 1)], {}),
    ("Squeeze", [_normal(1, 3, 1), _ints(-1)], {}),
    ("Unsqueeze", [ROWS, _ints(0, -1)], {}),
    ("Flatten", [X], {"axis": 2}),
    ("Flatten", [X], {"axis": 0}),
    ("Flatten", [X], {"axis": -1}),
    ("Concat", [ROWS, ROWS * 2, ROWS], {"axis": -2}),
    ("Expand", [_normal(3, 1), _ints(2, 1, 4)], {}),
    ("Tile", [_normal(2, 3), _ints(2, 2)], {}),
    ("ConstantOfShape", [_ints(2, 3)], {}),
    ("ConstantOfShape", [_ints(2)], {"value": helper.make_tensor("value", TensorProto.INT64, [1], [7])}),
    ("Cast", [ROWS * 3], {"to": TensorProto.INT64}),
    ("Cast", [TRUTH], {"to": TensorProto.FLOAT}),
    ("Cast", [ROWS], {"to": TensorProto.DOUBLE}),
    ("Pad", [ROWS, _ints(0, 1, 2, 1, 0, 3), _scalar(0.5)], {}),
    ("Pad", [ROWS, _ints(1, 2), None, _ints(2)], {}),
    ("Pad", [ROWS, _ints(0, 0, -1, 0, 0, 2)], {}),
    ("Pad", [X, _ints(0, 0, 1, 2, 0, 0, 3, 1)], {"mode": "reflect"}),
    ("Pad", [X, _ints(0, 0, 1, 2, 0, 0, 3, 1)], {"mode": "edge"}),
    ("Range", [_scalar(1, np.int64), _scalar(9, np.int64), _scalar(3, np.int64)], {}),
    ("Range", [_scalar(1.0), _scalar(-2.0), _scalar(-0.5)], {}),
    ("Trilu", [_normal(2, 4, 5)], {"upper": 0}),
    ("Trilu", [_normal(4, 5), _scalar(1, np.int64)], {}),
    ("DepthToSpace", [_normal(1, 8, 2, 3)], {"blocksize": 2}),
    ("DepthToSpace", [_normal(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", [_normal(1, 2, 4, 6)], {"blocksize": 2}),
    ("Not", [TRUTH], {}),
    ("IsNaN", [_floats(1, np.nan, np.inf)], {}),
    ("Where", [TRUTH, _normal(3, 4), _normal(4)], {}),
    ("Dropout", [ROWS], {}),
]

INDEXES: list[Case] = [
    ("Gather", [ROWS, _ints(0, -1, 2).reshape(1, 3)], {"axis": 1}),
    ("Gather", [ROWS, _scalar(-2, np.int64)], {"axis": 2}),
    ("Gather", [_ints(3, 4, 5), _scalar(1, np.int64)], {}),
    ("GatherElements", [_normal(3, 3), np.array([[0, -1, 2]], np.int64)], {"axis": 0}),
    ("Slice", [ROWS, _ints(1), _ints(1 << 62), _ints(-1)], {}),
    ("Slice", [ROWS, _ints(-1, 0), _ints(-(1 << 62), 5), _ints(1, 2), _ints(-2, 3)], {}),
    ("Slice", [ROWS, _ints(0, 1), _ints(2, -1)], {}),
    ("Slice", [ROWS, _ints(4), _ints(2), _ints(1)], {}),
]

LINEAR, ASYMMETRIC = {"mode": "linear"}, {"coordinate_transformation_mode": "asymmetric"}
_ROI = np.empty(0, np.float32)
RESIZES: list[Case] = [
    (
        "Resize",
        [X, None, _floats(1, 1, 2, 2)],
        ASYMMETRIC | {"nearest_mode": "floor"},
    ),
    ("Resize", [X, None, None, _ints(2, 3, 5, 4)], {}),
    ("Resize", [X, None, _floats(1, 1, 0.6, 1.7)], LINEAR),
    (
        "Resize",
        [X, None, None, _ints(2, 3, 16, 5)],
        LINEAR | {"coordinate_transformation_mode": "align_corners"},
    ),
    ("Resize", [X, _ROI, _floats(1, 1, 3, 1)], LINEAR | ASYMMETRIC),
    (
        "Resize",
        [X, None, None, _ints(2, 3, 1, 20)],
        {"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"},
    ),
]

_SCALES, _ZEROS = _floats(0.01, 0.02, 0.03), np.array([0, 3, -7], np.int8)
PAIRS: list[Case] = [
    ("QuantizeLinear", [X, _scalar(0.013), _scalar(117, np.uint8)], {}),
    ("QuantizeLinear", [X, _SCALES, _ZEROS], {"axis": 1}),
    ("QuantizeLinear", [X, _scalar(0.0001), _scalar(0, np.int16)], {}),
    (
        "DequantizeLinear",
        [(X * 30).astype(np.int8), _SCALES, _ZEROS],
        {"axis": 1},
    ),
    ("DequantizeLinear", [(X * 1e6).astype(np.int32), _scalar(0.001)], {}),
]

CASES = [
    *UNARY, *BINARY, *PRODUCTS, *POOLS, *NORMALIZATIONS, *REDUCTIONS, *SHAPES, *INDEXES, *RESIZES, *PAIRS,
    ("Clip", [ROWS, _scalar(-0.5), _scalar(0.7)], {}),
    ("Clip", [ROWS, None, _scalar(0.7)], {}),
    ("HardSigmoid", [ROWS], {"alpha": 0.3, "beta": 0.4}),
    ("Gelu", [ROWS], {"approximate": "tanh"}),
    ("Softmax", [ROWS], {"axis": 1}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes"), CASES, ids=[f"{place}-{case[0]}" for place, case in enumerate(CASES)]
)
def test_an_operator_computes_what_the_runtime_computes(both, op_type, inputs, attributes):
    opset = 22 if op_type not in ("GlobalMaxPool",) else 21
    model = single(op_type, inputs, attributes, opset=opset)
    expected, found = both(model, inputs)
    _assert_close(found, expected)


@pytest.mark.parametrize(
    ("attributes", "sizes"),
    [({"axis": 1}, _ints(1, 3, 1)), ({"axis": -1, "num_outputs": 4}, None), ({"axis": 2}, _ints(2, 2, 2))],
)
def test_split_gives_every_part(both, attributes, sizes):
    inputs = [ROWS] if sizes is None else [ROWS, sizes]
    expected, found = both(single("Split", inputs, attributes, outputs=4 if sizes is None else 3), inputs)
    assert len(found) == len(expected)
    _assert_close(found, expected)


def test_an_older_opset_has_its_axes_as_attributes(both):
    for op_type, attributes in (
        ("ReduceMean", {"axes": [1], "keepdims": 0}),
        ("Squeeze", {"axes": [0]}),
        ("Unsqueeze", {"axes": [0, 4]}),
        ("Split", {"axis": 1, "split": [2, 3]}),
        ("Clip", {"min": 0.0, "max": 6.0}),
    ):
        inputs = [ROWS[:1]]
        model = single(
            op_type, inputs, attributes, opset=10 if op_type == "Clip" else 11, outputs=1 + (op_type == "Split")
        )
        expected, found = both(model, inputs)
        _assert_close(found, expected)


def test_quick_gelu_of_the_runtimes_own_domain(both):
    expected, found = both(single("QuickGelu", [ROWS], {"alpha": 1.5}, domain="com.microsoft"), [ROWS])
    _assert_close(found, expected)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(5, 9), st.integers(5, 9)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    dilations=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    group=st.sampled_from([1, 2]),
    op_type=st.sampled_from(["Conv", "ConvTranspose"]),
)
def test_convolutions_of_any_geometry(both, size, kernel, strides, dilations, pads, group, op_type):
    x, weight = _normal(1, 4, *size), _normal(4, 4 // group, *kernel)
    attributes = {"strides": strides, "dilations": dilations, "pads": pads, "group": group}
    if min(size) + min(pads) < 1 + max(dilations) * 3:
        return
    expected, found = both(single(op_type, [x, weight], attributes), [x, weight])
    _assert_close(found, expected)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(4, 9), st.integers(4, 9)),
    kernel=st.tuples(st.integers(2, 4), st.integers(2, 4)),
    strides=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.lists(st.integers(0, 1), min_size=4, max_size=4),
    ceil=st.booleans(),
    included=st.booleans(),
    op_type=st.sampled_from(["MaxPool", "AveragePool"]),
)
def test_pooling_of_any_geometry(both, size, kernel, strides, pads, ceil, included, op_type):
    x = _normal(1, 2, *size)
    attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "ceil_mode": int(ceil)}
    if op_type == "AveragePool":
        attributes["count_include_pad"] = int(included)
    expected, found = both(single(op_type, [x], attributes), [x])
    _assert_close(found, expected)


def test_every_operator_is_tried():
    tried = {case[0] for case in CASES} | {"Split", "QuickGelu"}
    # A Constant has no input to feed, and RMSNormalization is SimplifiedLayerNormalization under another name.
    assert set(OPERATORS) - tried == {"Constant", "RMSNormalization"}


@pytest.mark.parametrize(
    ("op_type", "inputs", "attributes", "domain"),
    [
        ("TopK", [ROWS, _ints(1)], {}, ""),
        ("Resize", [X, None, _floats(1, 1, 2, 2)], {"mode": "cubic"}, ""),
        ("Pad", [ROWS, _ints(1, 0, 0, 1, 0, 0)], {"mode": "reflect"}, ""),
        ("Conv", [X, _normal(4, 3, 3, 3)], {}, "example.org"),
        ("InstanceNormalization", [_normal(1, 3, 1, 1), _normal(3), _normal(3)], {}, ""),
    ],
)
def test_what_has_no_form_in_torch_is_named(op_type, inputs, attributes, domain):
    import torch

    model = single(op_type, inputs, attributes, domain=domain, outputs=2 if op_type == "TopK" else 1)
    with pytest.raises(StepError, match="the node") as caught:
        Graph(model)({f"x{i}": torch.from_numpy(x) for i, x in enumerate(inputs) if x is not None})
    assert caught.value.code == "operator_not_differentiable"


def _assert_close(found: list[Array], expected: list[Array]) -> None:
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        if other.dtype.kind == "f":
            assert one.dtype == other.dtype
            size = max(float(np.abs(other).max(initial=0.0, where=np.isfinite(other))), 1e-3)
            np.testing.assert_allclose(one, other, rtol=0, atol=CLOSE * max(size, 1.0), equal_nan=True)
        else:  # quantized numbers are whole ones in float tensors
            np.testing.assert_array_equal(one, other)
