"""bfloat16: the rounding itself, which weights it takes, and that the runtime reads them."""

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from onnx import ModelProto, TensorProto, helper, numpy_helper

from app.domain.recipe import Bfloat16
from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array
from tests.unit.quantization.conftest import Maker
from workers.formats.onnx.graph import all_nodes
from workers.quantization.techniques.bfloat16 import to_bfloat16

SMALL = Bfloat16(least_elements=1)
LARGEST = float(ml_dtypes.finfo(ml_dtypes.bfloat16).max)


def slow_round(value: float) -> float:
    """The nearest number with eight significant bits, ties to the even one, by exact arithmetic on Python floats."""
    if value == 0 or not np.isfinite(value):
        return value
    exponent = max(int(np.floor(np.log2(abs(value)))), -126)
    while abs(value) >= 2.0 ** (exponent + 1):
        exponent += 1
    while abs(value) < 2.0**exponent and exponent > -126:
        exponent -= 1
    unit = 2.0 ** (exponent - 7)
    nearest = float(round(value / unit)) * unit  # Python rounds ties to even
    return float(np.clip(nearest, -LARGEST, LARGEST))


any_float = st.floats(width=32, allow_nan=True, allow_infinity=True)


@settings(max_examples=300, deadline=None)
@given(arrays(np.float32, array_shapes(max_dims=3, max_side=5), elements=any_float))
def test_rounds_to_the_nearest_and_ties_to_even(values: Array) -> None:
    back = (to_bfloat16(values).astype(np.uint32) << 16).view(np.float32)

    expected = np.array([slow_round(float(value)) for value in values.reshape(-1)]).reshape(values.shape)
    np.testing.assert_array_equal(back.astype(np.float64), expected)
    np.testing.assert_array_equal(np.signbit(back[~np.isnan(back)]), np.signbit(values[~np.isnan(values)]))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=64))
def test_rounds_as_ml_dtypes_does_apart_from_overflow(bits: list[int]) -> None:
    values = np.array(bits, np.uint32).view(np.float32)
    with np.errstate(all="ignore"):
        expected = values.astype(ml_dtypes.bfloat16)
    found = to_bfloat16(values).view(ml_dtypes.bfloat16)

    number = ~np.isnan(values) & ~(np.isinf(expected.astype(np.float32)) & np.isfinite(values))
    np.testing.assert_array_equal(found.view(np.uint16)[number], expected.view(np.uint16)[number])
    assert np.isnan(found[np.isnan(values)].astype(np.float32)).all()


def stored_types(model: ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


@pytest.mark.parametrize("external", [False, True], ids=["one file", "external data"])
@pytest.mark.parametrize(
    "model",
    [
        models.conv_net,
        models.mlp,
        lambda: models.mlp(constants=True, named=False, opset=12),
        models.transformer,
        models.branches,
        models.loop,
        models.upsample_net,
        models.function_model,
    ],
)
def test_outputs_are_those_of_rounded_weights(make: Maker, model: object, external: bool) -> None:
    made = make(model(), SMALL, external=external)  # type: ignore[operator]

    assert 30 < made.sqnr_db < 100
    assert [port.dtype for port in made.session.outputs] == ["float32"] * len(made.session.outputs)
    assert TensorProto.BFLOAT16 in {tensor.data_type for node in [made.proto.graph] for tensor in node.initializer} | {
        tensor.data_type
        for node in all_nodes(made.proto)
        for entry in node.attribute
        if entry.HasField("g")
        for tensor in entry.g.initializer
    }


@settings(max_examples=20, deadline=None)
@given(weight=arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=st.floats(-8, 8, width=32)))
def test_a_product_is_what_rounded_weights_give(tmp_path_factory: pytest.TempPathFactory, weight: Array) -> None:
    from workers.quantization.technique import Context, quantize
    from workers.runtimes.session import load

    folder = tmp_path_factory.mktemp("product")
    model = models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")],
        [models.value("x", ["n", weight.shape[0]])],
        [models.value("y", ["n", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    made = quantize(models.save(model, folder / "m.onnx"), folder / "o.onnx", SMALL, Context(work=folder))
    x = np.eye(weight.shape[0], dtype=np.float32)

    (found,) = load(made.file).run({"x": x})

    expected = [[slow_round(float(value)) for value in row] for row in weight]
    np.testing.assert_allclose(found, np.array(expected), rtol=1e-6, atol=1e-30)


def test_half_the_bytes(make: Maker) -> None:
    made = make(models.gemm(inputs=128, outputs=64), Bfloat16())

    original = models.gemm(inputs=128, outputs=64).ByteSize()
    assert made.produced.file.stat().st_size < 0.55 * original
    assert any("stored as bfloat16" in note for note in made.produced.notes)


def test_small_tensors_stay(make: Maker) -> None:
    made = make(models.gemm(inputs=64, outputs=8), Bfloat16(least_elements=100))

    assert stored_types(made.proto)["b"] == TensorProto.FLOAT
    assert stored_types(made.proto)["w_bfloat16"] == TensorProto.BFLOAT16


def tied() -> ModelProto:
    """Two products with one weight: (n, 16) → (n, 16)."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("MatMul", ["h", "w"], ["y"], name="second"),
        ],
        [models.value("x", ["n", 16])],
        [models.value("y", ["n", 16])],
        [models.weights("w", 16, 16)],
    )


def test_a_shared_weight_is_stored_once(make: Maker) -> None:
    made = make(tied(), SMALL)

    assert stored_types(made.proto) == {"w_bfloat16": TensorProto.BFLOAT16}
    assert made.op_types.count("Cast") == 1


def test_a_weight_that_a_kept_node_reads_stays_float(make: Maker) -> None:
    with pytest.raises(StepError) as raised:
        make(tied(), Bfloat16(least_elements=1, keep_float=("second",)))

    assert raised.value.code == "nothing_to_quantize"
    assert "or more ('w') are themselves outputs, or nodes read them that are kept in float" in raised.value.detail


def test_why_nothing_is_stored_as_bfloat16_is_told(make: Maker) -> None:
    model = models.gemm()
    model.graph.output.append(models.value("w", [16, 8]))
    with pytest.raises(StepError) as raised:
        make(model, Bfloat16(least_elements=9))

    assert raised.value.code == "nothing_to_quantize"
    assert "its only float32 weights of 9 elements or more are themselves outputs ('w')" in raised.value.detail
    assert "float." not in raised.value.detail.partition(". Choose")[0]

    with pytest.raises(StepError, match=r"stores no float32 weights of 1000 elements or more\. Choose"):
        make(models.gemm(), Bfloat16(least_elements=1000))


def test_an_attention_mask_stays_finite(make: Maker) -> None:
    model = models.gemm()
    lowest = np.full(8, np.finfo(np.float32).min)
    model.graph.initializer[1].CopyFrom(models.tensor("b", lowest))

    made = make(model, SMALL)

    assert any("clipped" in note and "b" in note for note in made.produced.notes)
    assert all(np.isfinite(row[0]).all() for row in made.artifact)


def test_names_in_use_are_left_alone(make: Maker) -> None:
    model = tied()
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "w_bfloat16"

    made = make(model, SMALL)

    assert made.sqnr_db > 30


def test_the_runtime_casts_once_as_it_loads(make: Maker, tmp_path: Path) -> None:
    """Why time and memory do not change: should the Cast stay in the graph, the note is wrong."""
    import onnxruntime

    made = make(models.mlp(), SMALL)
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    onnxruntime.InferenceSession(made.produced.file, options, providers=["CPUExecutionProvider"])

    optimized = onnx.load(tmp_path / "optimized.onnx")
    assert "Cast" not in {node.op_type for node in optimized.graph.node}
    assert TensorProto.BFLOAT16 not in {tensor.data_type for tensor in optimized.graph.initializer}
