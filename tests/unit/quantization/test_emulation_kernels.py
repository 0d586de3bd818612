"""Emulated operators against onnxruntime's: on this machine, and as recorded on one without VNNI."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from app.domain.target import saturates_int8
from app.errors import StepError
from tests.parts.models import model, save, value
from workers.hardware.cpu import read_cpu
from workers.quantization.emulation.arithmetic import Arithmetic
from workers.quantization.emulation.emulator import emulate
from workers.quantization.emulation.probe import arithmetic_here

Array = NDArray[Any]
Draw = st.DrawFn


def alone(
    op_type: str, x: Array, inputs: list[tuple[str, Array | None]], kind: int, attributes: dict[str, Any]
) -> ModelProto:
    """One operator on an activation `x`, all else stored; an input of None is left out."""
    domain = "com.microsoft" if op_type in ("MatMulIntegerToFloat", "QGemm") else ""
    names = [name if name == "x" or array is not None else "" for name, array in inputs]
    return model(
        [helper.make_node(op_type, names, ["y"], name="tested", domain=domain, **attributes)],
        [value("x", list(x.shape), helper.np_dtype_to_tensor_dtype(x.dtype))],
        [value("y", None, kind)],
        [numpy_helper.from_array(array, name) for name, array in inputs if array is not None],
        domains=[("com.microsoft", 1)],
    )


def native(made: ModelProto, x: Array) -> Array:
    """What onnxruntime makes of it on this machine."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output: Array = session.run(None, {"x": x})[0]
    return output


def emulated(made: ModelProto, x: Array, arithmetic: Arithmetic, folder: Path) -> Array:
    return next(emulate(save(made, folder / "model.onnx"), [{"x": x}], arithmetic))["y"]


def numbers(draw: Draw, dtype: Any, shape: tuple[int, ...]) -> Array:
    """Numbers of an 8-bit type, half of them at its ends."""
    limits = np.iinfo(dtype)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    drawn = rng.integers(limits.min, limits.max, shape, endpoint=True)
    ends = rng.choice([limits.min, limits.max], shape)
    return np.where(rng.random(shape) < 0.5, drawn, ends).astype(dtype)


def weight_parameters(draw: Draw, kind: Any, channels: int) -> tuple[Array, Array]:
    """Scale and zero point of weights, one in all or one a channel."""
    zero = 128 if kind == np.uint8 else draw(st.sampled_from([0, 0, -3, 9]))
    if draw(st.booleans()):
        scale = np.linspace(0.003, 0.02, channels, dtype=np.float32)
        return scale, np.full(channels, zero, kind)
    return np.float32(0.01).reshape(()), np.asarray(zero, kind)


@st.composite
def convolutions(draw: Draw) -> tuple[ModelProto, Array]:
    dims = draw(st.integers(1, 3))
    groups, inputs, outputs = draw(
        st.sampled_from(
            [(1, 3, 8), (1, 4, 16), (1, 8, 24), (1, 5, 17), (1, 1, 1), (3, 6, 9), (16, 16, 16), (3, 3, 3), (4, 4, 8)]
        )
    )
    axes = st.lists(st.integers(1, 3), min_size=dims, max_size=dims)
    kernel, strides, dilations = draw(axes), draw(axes), [1] * dims
    attributes: dict[str, Any] = {"auto_pad": draw(st.sampled_from(["VALID", "SAME_UPPER", "SAME_LOWER", "NOTSET"]))}
    if attributes["auto_pad"] == "NOTSET":
        dilations = draw(st.lists(st.integers(1, 2), min_size=dims, max_size=dims))
        attributes["pads"] = draw(st.lists(st.integers(0, 2), min_size=2 * dims, max_size=2 * dims))
    attributes |= {"group": groups, "kernel_shape": kernel, "strides": strides, "dilations": dilations}
    kind = draw(st.sampled_from([np.int8, np.int8, np.uint8]))
    scale, zero_point = weight_parameters(draw, kind, outputs)
    bias = np.linspace(-9000, 9000, outputs).astype(np.int32) if draw(st.booleans()) else None
    x = numbers(draw, np.uint8, (draw(st.integers(1, 2)), inputs, *[draw(st.integers(5, 8)) for _ in range(dims)]))
    stored = [
        ("x", None), ("x_scale", np.float32(0.02).reshape(())), ("x_zero", numbers(draw, np.uint8, ())),
        ("w", numbers(draw, kind, (outputs, inputs // groups, *kernel))), ("w_scale", scale), ("w_zero", zero_point),
        ("y_scale", np.float32(0.7).reshape(())), ("y_zero", numbers(draw, np.uint8, ())), ("bias", bias),
    ]  # fmt: skip
    return alone("QLinearConv", x, stored, TensorProto.UINT8, attributes), x


@st.composite
def multiplications(draw: Draw) -> tuple[ModelProto, Array]:
    op_type = draw(st.sampled_from(["QLinearMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm"]))
    rows, reduction, columns = (
        draw(st.sampled_from(sizes)) for sizes in ([1, 2, 5], [1, 4, 7, 33, 400, 1100], [1, 8, 17, 40])
    )
    batch = () if op_type == "QGemm" else draw(st.sampled_from([(), (2,), (2, 3)]))
    right = draw(st.sampled_from([(), batch]))
    kind = draw(st.sampled_from([np.int8, np.int8, np.uint8]))
    w = numbers(draw, kind, (*right, reduction, columns))
    scale, zero_point = weight_parameters(draw, kind, columns)
    if right:
        scale, zero_point = np.float32(0.01).reshape(()), zero_point.reshape(-1)[:1].reshape(())
    x, x_zero = numbers(draw, np.uint8, (*batch, rows, reduction)), numbers(draw, np.uint8, ())
    x_scale, y_scale = np.float32(0.02).reshape(()), np.float32(0.1 * reduction**0.5).reshape(())
    float_bias = np.linspace(-1, 1, columns, dtype=np.float32) if draw(st.booleans()) else None
    bias = np.linspace(-9000, 9000, columns).astype(np.int32) if draw(st.booleans()) else None
    operands = [
        ("x", None),
        ("x_scale", x_scale),
        ("x_zero", x_zero),
        ("w", w),
        ("w_scale", scale),
        ("w_zero", zero_point),
    ]
    target = [("y_scale", y_scale), ("y_zero", numbers(draw, np.uint8, ()))]
    attributes, output = {}, TensorProto.UINT8
    if op_type == "MatMulInteger":
        operands, output = [("x", None), ("w", w), ("x_zero", x_zero), ("w_zero", zero_point)], TensorProto.INT32
    elif op_type == "MatMulIntegerToFloat":
        operands = [operands[place] for place in (0, 3, 1, 4, 2, 5)] + [("bias", float_bias)]
        output = TensorProto.FLOAT
    elif op_type == "QLinearMatMul":
        operands += target
    else:
        transposed = draw(st.booleans())
        operands[3] = ("w", np.ascontiguousarray(w.T) if transposed else w)
        quantized = draw(st.booleans())
        operands += [("bias", bias), *(target if quantized else [])]
        attributes, output = {"transB": int(transposed)}, TensorProto.UINT8 if quantized else TensorProto.FLOAT
    return alone(op_type, x, operands, output, attributes), x


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(case=st.one_of(convolutions(), multiplications()))
def test_it_gives_what_the_runtime_gives_here(case: tuple[ModelProto, Array], tmp_path: Path) -> None:
    made, x = case
    expected, found = native(made, x), emulated(made, x, arithmetic_here(), tmp_path)
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    assert np.array_equal(found, expected)


# Recorded: what onnxruntime 1.32.0 gives under `qemu-x86_64 -cpu Haswell` (AVX2, no VNNI).


def steps(dtype: Any, stride: int, *shape: int) -> Array:
    """Numbers that anybody can write down again: multiples of a stride, wrapped around."""
    return (np.arange(np.prod(shape)) * stride % 256).astype(np.uint8).view(dtype).reshape(shape)


def recorded(name: str) -> tuple[ModelProto, Array]:
    one, zero = np.float32(1).reshape(()), np.int8(0).reshape(())
    if name == "multiplication":
        x = steps(np.uint8, 251, 2, 7)
        operands = [
            ("x", None),
            ("w", steps(np.int8, 101, 7, 3)),
            ("x_zero", np.uint8(9).reshape(())),
            ("w_zero", zero),
        ]
        return alone("MatMulInteger", x, operands, TensorProto.INT32, {}), x
    channels, w = (3, steps(np.int8, 47, 2, 3, 3, 3)) if name == "convolution" else (2, steps(np.int8, 47, 2, 1, 3, 3))
    x = steps(np.uint8, 253, 1, channels, 4, 4)
    operands = [
        ("x", None), ("x_scale", one), ("x_zero", np.uint8(9).reshape(())), ("w", w), ("w_scale", one),
        ("w_zero", zero), ("y_scale", np.float32(2500).reshape(())), ("y_zero", np.uint8(128).reshape(())),
    ]  # fmt: skip
    return alone("QLinearConv", x, operands, TensorProto.UINT8, {"group": 1 if channels == 3 else 2}), x


DEPTHWISE = [142, 142, 141, 141, 118, 118, 118, 119]
EXACT: dict[str, list[int]] = {
    "multiplication": [-7484, 8060, -21964, -6189, 28386, -30223],
    "convolution": [138, 137, 137, 137, 117, 116, 117, 117],
    "depthwise": DEPTHWISE,
}
SATURATING: dict[str, list[int]] = {
    "multiplication": [-7484, 8060, -8615, -6189, 28386, -23769],
    "convolution": [141, 141, 139, 139, 122, 121, 121, 121],
    "depthwise": DEPTHWISE,
}


@pytest.mark.parametrize("name", sorted(EXACT))
def test_it_gives_what_was_recorded(name: str, tmp_path: Path) -> None:
    made, x = recorded(name)
    assert emulated(made, x, "exact", tmp_path).ravel().tolist() == EXACT[name]
    assert emulated(made, x, "saturating", tmp_path).ravel().tolist() == SATURATING[name]


def test_a_processor_multiplies_as_its_features_say() -> None:
    assert (arithmetic_here() == "saturating") == saturates_int8(read_cpu().features)


def test_signed_activations_are_moved_to_unsigned_ones(tmp_path: Path) -> None:
    x = steps(np.int8, 253, 2, 8)
    zero = np.int8(-7).reshape(())
    operands = [("x", None), ("w", steps(np.int8, 93, 8, 4)), ("x_zero", zero), ("w_zero", np.int8(0).reshape(()))]
    moved = [("x", None), operands[1], ("x_zero", np.uint8(121).reshape(())), operands[3]]
    unsigned = (x.astype(np.int16) + 128).astype(np.uint8)
    for arithmetic in ("exact", "saturating"):
        signed = emulated(alone("MatMulInteger", x, operands, TensorProto.INT32, {}), x, arithmetic, tmp_path)
        other = alone("MatMulInteger", unsigned, moved, TensorProto.INT32, {})
        assert np.array_equal(signed, emulated(other, unsigned, arithmetic, tmp_path))


def test_a_vector_is_refused_with_the_nodes_name(tmp_path: Path) -> None:
    x = np.zeros(4, np.uint8)
    operands = [("x", None), ("w", np.zeros((4, 2), np.int8))]
    made = alone("MatMulInteger", x, operands, TensorProto.INT32, {})
    with pytest.raises(StepError, match="tested") as caught:
        emulated(made, x, "exact", tmp_path)
    assert caught.value.code == "not_emulated"
