"""The numbers themselves: stored weights, ranges, and what they make of an output."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import ModelProto, helper, numpy_helper

from app.domain.recipe import AnyRecipe, DynamicInt8, Float16, StaticInt8
from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array
from tests.unit.quantization.conftest import Maker
from workers.quantization.calibration.statistics import Observer, Statistics
from workers.quantization.technique import Context, quantize, resolve

AVX2 = frozenset({"avx2", "fma"})
VNNI = frozenset({"avx2", "fma", "avx512f", "avx512_vnni"})
NEON = frozenset({"asimd", "asimddp"})


def stored(proto: ModelProto) -> dict[str, Array]:
    """Every initializer by name."""
    return {entry.name: numpy_helper.to_array(entry) for entry in proto.graph.initializer}


def static_model(model: ModelProto, folder: Path, recipe: StaticInt8, **seen: Array) -> ModelProto:
    """Quantize with given observations of tensors."""
    path = models.save(model, folder / "model.onnx")
    observers = {name: Observer() for name in seen}
    for name, values in seen.items():
        observers[name].add(values, 1)
    statistics = Statistics(1, {name: observer.statistics() for name, observer in observers.items()})
    statistics.write(folder / "statistics.npz")
    quantize(path, folder / "out.onnx", recipe, Context(work=folder, statistics=folder / "statistics.npz"))
    return onnx.load(folder / "out.onnx")


finite = st.floats(-1000, 1000, width=32).filter(lambda number: number == 0 or abs(number) > 1e-6)


@settings(max_examples=60, deadline=None)
@given(
    weight=arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 5)), elements=finite),
    per_channel=st.booleans(),
    weight_type=st.sampled_from(["int8", "uint8"]),
    reduce_range=st.booleans(),
)
def test_weights_come_back_within_half_a_scale(
    tmp_path_factory: pytest.TempPathFactory, weight: Array, per_channel: bool, weight_type: str, reduce_range: bool
) -> None:
    model = models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")],
        [models.value("x", ["batch", weight.shape[0]])],
        [models.value("y", ["batch", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    recipe = StaticInt8.model_validate(
        {"per_channel": per_channel, "weight_type": weight_type, "reduce_range": reduce_range}
    )
    seen = np.array([-1.0, 1.0], np.float32)

    tensors = stored(static_model(model, tmp_path_factory.mktemp("weights"), recipe, x=seen))

    quantized, scale, zero = (tensors[f"w_{part}"] for part in ("quantized", "scale", "zero_point"))
    assert quantized.dtype == weight_type
    back = (quantized.astype(np.float64) - zero.astype(np.float64)) * scale.astype(np.float64)
    assert (np.abs(back - weight) <= scale * (0.5 + 1e-3) + 1e-30).all()
    middle = 0 if weight_type == "int8" else 128
    assert (zero == middle).all()
    assert np.abs(quantized.astype(int) - middle).max() <= (63 if reduce_range else 127)


def test_one_scale_an_output_channel(make: Maker) -> None:
    per_channel = stored(make(models.gemm(), StaticInt8(per_channel=True, recovery=())).proto)
    per_tensor = stored(make(models.gemm(), StaticInt8(per_channel=False, recovery=())).proto)

    assert per_channel["w_scale"].shape == (8,)
    assert per_tensor["w_scale"].shape == ()
    weight = numpy_helper.to_array(models.weights("w", 16, 8)).astype(np.float64)
    np.testing.assert_allclose(per_channel["w_scale"], np.abs(weight).max(axis=0) / 127, rtol=1e-2)


@pytest.mark.parametrize("activation_type", ["uint8", "int8"])
@pytest.mark.parametrize("per_channel", [True, False])
def test_static_output_is_what_integer_arithmetic_gives(make: Maker, activation_type: str, per_channel: bool) -> None:
    recipe = StaticInt8.model_validate(
        # Seven bits, so that no processor saturates on the way.
        {"activation_type": activation_type, "per_channel": per_channel, "reduce_range": True, "recovery": ()}
    )
    made = make(models.gemm(), recipe)
    assert [node.op_type for node in made.proto.graph.node].count("QuantizeLinear") == 1, "the output stays in float"
    tensors = stored(made.proto)
    low, high = (0, 255) if activation_type == "uint8" else (-128, 127)

    for feeds, (output,) in zip(made.feeds, made.artifact, strict=True):
        np.testing.assert_allclose(output, slow_gemm(feeds["x"], tensors, low, high), rtol=1e-5, atol=1e-5)


def slow_gemm(x: Array, tensors: dict[str, Array], low: int, high: int) -> Array:
    """y = x·w + b in whole numbers, one multiplication at a time."""
    x_scale, x_zero = float(tensors["x_scale"]), int(tensors["x_zero_point"])
    weight = tensors["w_quantized"].astype(int)
    w_scale = np.broadcast_to(tensors["w_scale"].astype(np.float64), weight.shape[1])
    bias = tensors["b_quantized"].astype(int)
    result = np.empty((len(x), weight.shape[1]))
    for row in range(len(x)):
        quantized = [min(max(round(float(value) / x_scale) + x_zero, low), high) for value in x[row]]
        for column in range(weight.shape[1]):
            total = int(bias[column])
            for index, value in enumerate(quantized):
                total += (value - x_zero) * int(weight[index, column])
            result[row, column] = total * x_scale * float(w_scale[column])
    return result


def test_reduce_range_follows_from_the_features() -> None:
    assert resolve(StaticInt8(), AVX2) == StaticInt8(reduce_range="by_layer")
    assert resolve(StaticInt8(recovery=()), AVX2) == StaticInt8(recovery=(), reduce_range=True)
    assert resolve(DynamicInt8(), AVX2) == DynamicInt8(reduce_range=True)
    assert resolve(StaticInt8(), VNNI) == StaticInt8(reduce_range=False)
    assert resolve(StaticInt8(), NEON) == StaticInt8(reduce_range=False)
    assert resolve(StaticInt8(reduce_range=False), AVX2) == StaticInt8(reduce_range=False)


def test_dynamic_weights_use_seven_bits_where_eight_saturate(make: Maker) -> None:
    narrow = stored(make(models.gemm(), DynamicInt8(), features=AVX2).proto)["w_quantized"]
    wide = stored(make(models.gemm(), DynamicInt8(), features=VNNI).proto)["w_quantized"]

    assert np.abs(narrow.astype(int)).max() <= 64
    assert np.abs(wide.astype(int)).max() > 100


@pytest.mark.parametrize(
    ("recipe", "features", "warned"),
    [
        (DynamicInt8(reduce_range=False), AVX2, True),
        (DynamicInt8(reduce_range=True), AVX2, False),
        (DynamicInt8(reduce_range=False), VNNI, False),
        (Float16(), AVX2, False),
    ],
)
def test_saturation_that_was_asked_for_is_noted(
    make: Maker, recipe: AnyRecipe, features: frozenset[str], warned: bool
) -> None:
    notes = make(models.gemm(), recipe, features=features).produced.notes

    assert any("saturate" in note for note in notes) is warned


def test_values_that_are_no_numbers_have_no_range(make: Maker) -> None:
    rows = [{"x": np.full((1, 16), np.inf, np.float32)}]

    with pytest.raises(StepError) as raised:
        make(models.gemm(), StaticInt8(), feeds=rows)

    assert raised.value.code == "calibration_not_finite"
    assert "'x'" in raised.value.detail
