"""Channels far larger than the others, where ranges are found beforehand: SmoothQuant leaves them in float."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.recipe import Calibration, StaticInt8
from app.errors import StepError
from tests.parts import models
from tests.unit.quantization.conftest import Maker
from tests.unit.quantization.plans import planned, run_float
from tests.unit.quantization.products import (
    WIDE,
    assert_chosen,
    nodes_of,
    plain_choice,
    product,
    rows_of,
    starts,
    stored,
)
from workers.quantization.qdq.insertion import insert
from workers.quantization.recovery.bias_correction import correctable
from workers.quantization.recovery.clip_search import clip_search
from workers.quantization.recovery.smoothquant import smoothquant
from workers.quantization.smoothing.seen import observed
from workers.runtimes.optimized import optimized

RECIPE = StaticInt8(reduce_range=True, recovery=("smoothquant",), calibration=Calibration(method="minmax"))


@pytest.mark.parametrize("outliers", [(3,), (3, 50), (5, 6, 7)])
def test_the_choice_is_the_one_that_trying_all_would_make(tmp_path: Path, outliers: tuple[int, ...]) -> None:
    rows = rows_of(6, outliers)
    plan, material = planned(product(), rows, tmp_path, bits=7)
    divisor, apart = plain_choice(plan.model, rows, beforehand=True)

    model = smoothquant(plan, material).model

    assert_chosen(model, divisor, apart, outliers)


@pytest.mark.parametrize("form", [{}, {"op_type": "Gemm"}, {"op_type": "Gemm", "flipped": True}])
def test_the_plan_is_the_same_in_float(tmp_path: Path, form: dict[str, object]) -> None:
    rows = rows_of(8, (3, 50))
    plan, material = planned(product(**form), rows, tmp_path)  # type: ignore[arg-type]
    changed = smoothquant(plan, material)
    assert nodes_of(changed.model, "Gather")
    for before, after in zip(run_float(plan, rows, tmp_path), run_float(changed, rows, tmp_path), strict=True):
        for one, other in zip(before, after, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * np.abs(one).max())


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int16"])
def test_one_range_covers_what_all_feeds_hold(tmp_path: Path, dtype: str) -> None:
    rows = rows_of(5, (3,))
    model = product()
    seen = observed(model, ["r"], starts(rows), tmp_path, 1)["r"].with_one_range(dtype)
    values = np.maximum(np.concatenate([row["x"] for row in rows]), 0)
    np.testing.assert_allclose(seen.peaks(), values.max(axis=0), rtol=1e-6)
    # Nothing is cut off, so what rounding leaves is half a step at most.
    steps = {"uint8": 255, "int8": 255, "uint16": 65_535, "int16": 32_767}[dtype]
    left = np.abs(seen.rounded(np.ones(WIDE)) - seen.rows)
    assert 0 < left.max() <= 0.5001 * values.max() / steps


def test_channels_in_float_are_computed_in_float_and_bring_the_outputs_nearer(make: Maker) -> None:
    rows = rows_of(32, (3, 50))
    plain = make(product(), RECIPE.model_copy(update={"recovery": ()}), feeds=rows)
    made = make(product(), RECIPE, feeds=rows)
    (rung,) = made.produced.recovery
    assert rung.kept
    assert made.sqnr_db > plain.sqnr_db + 6
    (apart,) = (node for node in nodes_of(made.proto, "MatMul") if "apart" in node.name)
    assert stored(made.proto, apart.input[1]).shape == (len(_channels(made.proto)), 6)
    # The runtime finds one product of integers, and leaves the other in float.
    types = [node.op_type for node in optimized(made.produced.file, "all").graph.node]
    assert types.count("MatMulIntegerToFloat") == 1
    assert types.count("MatMul") + types.count("Gemm") == 1


def test_a_later_step_leaves_them_in_float(tmp_path: Path) -> None:
    plan, material = planned(product(), rows_of(8, (3, 50)), tmp_path, bits=4)
    smoothed = smoothquant(plan, material)
    (apart,) = (node for node in nodes_of(smoothed.model, "MatMul") if "apart" in node.name)
    assert [weight.node for weight in smoothed.placement.weights] == ["product0"]
    (whole,) = (node.name for node in nodes_of(smoothed.model, "Add"))
    (divided,) = (node.name for node in nodes_of(smoothed.model, "Mul"))
    assert smoothed.placement.kept == {apart.name, whole, divided}
    later = clip_search(smoothed, material)
    place = ("product0", 1)
    assert (later.weights[place].scale < smoothed.weights[place].scale).any(), "the step has something to do"
    made = insert(later).model
    assert apart.input[1] in {tensor.name for tensor in made.graph.initializer}


@pytest.mark.parametrize("swapped", [False, True])
def test_a_bias_behind_the_product_stays_beside_it_and_is_corrected(make: Maker, tmp_path: Path, swapped: bool) -> None:
    model = with_bias(swapped=swapped)
    rows = rows_of(32, (3, 50))
    plan, material = planned(model, rows, tmp_path, bits=4)
    changed = smoothquant(plan, material)
    assert nodes_of(changed.model, "Gather")
    assert [layer.bias for layer in correctable(changed)] == ["bias"]
    for before, after in zip(run_float(plan, rows, tmp_path), run_float(changed, rows, tmp_path), strict=True):
        for one, other in zip(before, after, strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-5 * np.abs(one).max())
    recipe = RECIPE.model_copy(update={"recovery": ("bias_correction", "smoothquant"), "weight_bits": 4})
    made = make(model, recipe, feeds=rows)
    assert [(rung.step, rung.kept) for rung in made.produced.recovery] == [
        ("bias_correction", True),
        ("smoothquant", True),
    ]


def test_an_addend_that_others_make_stays_behind(tmp_path: Path) -> None:
    """A residual branch is no bias: the few channels are added to the product itself."""
    model = with_bias(swapped=False)
    model.graph.node[3].input[1] = "residual"
    model.graph.node.insert(0, helper.make_node("ReduceMean", ["x"], ["residual"], name="mean", axes=[1]))
    rows = rows_of(8, (3, 50))
    plan, material = planned(model, rows, tmp_path)
    changed = smoothquant(plan, material)
    (whole,) = (node for node in nodes_of(changed.model, "Add") if node.name.endswith("_whole"))
    assert list(whole.output) == ["a"]
    for before, after in zip(run_float(plan, rows, tmp_path), run_float(changed, rows, tmp_path), strict=True):
        np.testing.assert_allclose(before[0], after[0], rtol=2e-4, atol=2e-5 * np.abs(before[0]).max())


def test_weights_that_are_put_out_stay_as_they_are(tmp_path: Path) -> None:
    model = product()
    model.graph.output.append(models.value("w0", [WIDE, 6]))
    rows = rows_of(8, (3, 50))
    plan, material = planned(model, rows, tmp_path)
    changed = smoothquant(plan, material)
    names = [value.name for value in changed.model.graph.output]
    for before, after in zip(run_float(plan, rows, tmp_path), run_float(changed, rows, tmp_path), strict=True):
        np.testing.assert_array_equal(after[names.index("w0")], stored(model, "w0"))
        np.testing.assert_allclose(before[0], after[0], rtol=2e-4, atol=2e-5 * np.abs(before[0]).max())


def with_bias(*, swapped: bool) -> onnx.ModelProto:
    model = product()
    model.graph.node[2].output[0] = "a"
    added = ["bias", "a"] if swapped else ["a", "bias"]
    model.graph.node.append(helper.make_node("Add", added, ["y0"], name="add"))
    model.graph.initializer.append(models.tensor("bias", np.linspace(-1, 1, 6)))
    return model


def test_what_a_convolution_makes_in_integers_is_not_smoothed(tmp_path: Path) -> None:
    """Its Relu is the end of a range: a Mul behind it would be one of integers."""
    nodes = [
        helper.make_node("Conv", ["x", "k"], ["c"], name="conv"),
        helper.make_node("Relu", ["c"], ["r"], name="relu"),
        helper.make_node("MatMul", ["r", "w"], ["y"], name="product"),
    ]
    kernel = models.weights("k", 4, 2, 1, 1)
    model = models.model(
        nodes,
        [models.value("x", ["n", 2, 3, WIDE])],
        [models.value("y", None)],
        [kernel, models.weights("w", WIDE, 6)],
    )
    rng = np.random.default_rng(0)
    rows = [{"x": rng.standard_normal((1, 2, 3, WIDE)).astype(np.float32)} for _ in range(8)]
    for row in rows:
        row["x"][..., 3] *= 60
    plan, material = planned(model, rows, tmp_path)
    assert plan.placement.absorbed == {"relu": "c"}
    with pytest.raises(StepError, match="No matrix products read") as raised:
        smoothquant(plan, material)
    assert raised.value.code == "step_not_applicable"


def _channels(model: onnx.ModelProto) -> list[int]:
    (places,) = (node.input[1] for node in nodes_of(model, "Gather"))
    return [int(place) for place in stored(model, places)]
