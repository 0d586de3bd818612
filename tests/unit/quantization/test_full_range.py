"""Weights get their eighth bit back where 16-bit sums leave room for it, and nowhere else."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from app.domain.recipe import Calibration, StaticInt8
from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array
from workers.quantization.calibration.collect import collect
from workers.quantization.qdq.plan import Plan, make_plan
from workers.quantization.recovery.full_range import full_range
from workers.quantization.recovery.material import Material
from workers.quantization.static import prepare_for
from workers.quantization.technique import resolve

NARROW, WIDE = 63, 127
DEPTH = 64
RNG = np.random.default_rng(2)
HEAVY = RNG.uniform(0.8, 1.0, (DEPTH, 8)).astype(np.float32)
"""Of one sign and large: two of them times two large activations are more than 16 bits hold."""
BALANCED = (HEAVY * np.where(np.arange(DEPTH) % 2, -1, 1)[:, np.newaxis]).astype(np.float32)
"""Every pair in a row of one sign each, so that their products never add up."""


def two_products() -> ModelProto:
    return models.model(
        [
            helper.make_node("MatMul", ["x", "heavy"], ["a"], name="/heavy"),
            helper.make_node("MatMul", ["x", "balanced"], ["b"], name="/balanced"),
        ],
        [models.value("x", ["batch", DEPTH])],
        [models.value("a", ["batch", 8]), models.value("b", ["batch", 8])],
        [models.tensor("heavy", HEAVY), models.tensor("balanced", BALANCED)],
    )


def planned(folder: Path, rows: list[Array], **options: object) -> tuple[Plan, Material]:
    path = models.save(two_products(), folder / "model.onnx")
    recipe = StaticInt8(calibration=Calibration(method="minmax"), **{"reduce_range": "by_layer", **options})  # type: ignore[arg-type]
    prepared, setting, placement = prepare_for(path, recipe)
    work = folder / "work"
    work.mkdir()

    def feeds() -> Iterator[tuple[dict[str, Array], int]]:
        return (({"x": row}, len(row)) for row in rows)

    seen = collect(prepared.model, placement.observed(), feeds, work)
    return make_plan(prepared.model, seen, setting, placement), Material(feeds, feeds, setting, work)


def rows(low: float, high: float) -> list[Array]:
    return [RNG.uniform(low, high, (4, DEPTH)).astype(np.float32) for _ in range(6)]


def highest(plan: Plan) -> dict[str, int]:
    return {node: affine.high for (node, _), affine in plan.weights.items()}


def test_only_what_would_saturate_stays_narrow(tmp_path: Path) -> None:
    plan, material = planned(tmp_path, rows(0.8, 1.0))
    assert highest(plan) == {"/heavy": NARROW, "/balanced": NARROW}

    widened = full_range(plan, material)

    assert highest(widened) == {"/heavy": NARROW, "/balanced": WIDE}
    assert highest(plan) == {"/heavy": NARROW, "/balanced": NARROW}
    narrow, wide = (each.weights[("/balanced", 1)] for each in (plan, widened))
    np.testing.assert_allclose(wide.scale * WIDE, narrow.scale * NARROW, rtol=1e-6)


def test_small_activations_leave_room_for_large_weights(tmp_path: Path) -> None:
    """What decides is not what the weights could do but what they do on the rows: here one row reaches far, once."""
    plan, material = planned(tmp_path, [*rows(0.0, 0.1), np.ones((1, DEPTH), np.float32)])

    assert highest(full_range(plan, material)) == {"/heavy": WIDE, "/balanced": WIDE}


def test_what_is_wide_already_or_has_to_stay_narrow_is_left_alone(tmp_path: Path) -> None:
    for number, reduce_range in enumerate((True, False)):
        folder = tmp_path / str(number)
        folder.mkdir()
        plan, material = planned(folder, rows(0.8, 1.0), reduce_range=reduce_range)
        with pytest.raises(StepError) as raised:
            full_range(plan, material)
        assert raised.value.code == "step_not_applicable"


def test_weights_that_were_rounded_otherwise_keep_their_numbers(tmp_path: Path) -> None:
    plan, material = planned(tmp_path, rows(0.8, 1.0))
    place = ("/balanced", 1)
    learned = replace(plan, integers={place: plan.weights[place].quantize(BALANCED)})

    with pytest.raises(StepError) as raised:
        full_range(learned, material)

    assert raised.value.code == "step_not_applicable"


@pytest.mark.parametrize(
    ("features", "recovery", "expected"),
    [
        ({"avx2"}, "auto", "by_layer"),
        ({"avx2"}, (), True),  # without the step that would tell, all stay narrow
        ({"avx2", "avx_vnni"}, "auto", False),
        ({"asimddp"}, "auto", False),
    ],
)
def test_auto_goes_by_the_target(features: set[str], recovery: object, expected: object) -> None:
    recipe = resolve(StaticInt8(recovery=recovery), frozenset(features))  # type: ignore[arg-type]
    assert isinstance(recipe, StaticInt8)
    assert recipe.reduce_range == expected
