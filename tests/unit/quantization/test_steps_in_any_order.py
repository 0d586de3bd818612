"""Recovery steps one after the other, in any order: each finds the ranges of the model that the one before left."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, helper

from tests.parts import models
from tests.unit.quantization.plans import Feeds, planned, run_float
from workers.quantization.affine import for_activation
from workers.quantization.calibration.collect import collect
from workers.quantization.qdq.plan import Plan
from workers.quantization.recovery.bias_correction import bias_correction, uncorrected
from workers.quantization.recovery.clip_search import clip_search
from workers.quantization.recovery.equalization import equalization
from workers.quantization.recovery.material import Material, Step
from workers.quantization.recovery.smoothquant import smoothquant

WIDE = 64
STEPS: tuple[Step, ...] = (equalization, smoothquant, clip_search)


def both_kinds(between: str) -> ModelProto:
    """Two Gemms that can be evened out, of very different channels, and products of an activation that can be smoothed.

    The first of these hands on what it reads through a Reshape, so that both tensors have one scale.
    """
    rng = np.random.default_rng(2)
    first = rng.standard_normal((16, WIDE)) * np.exp(rng.normal(0, 1.5, (16, 1)))
    nodes = [
        helper.make_node("Gemm", ["x", "first.w", "first.b"], ["f"], name="first", transB=1),
        helper.make_node(between, ["f"], ["g"], name="between"),
        helper.make_node("Gemm", ["g", "second.w", "second.b"], ["h"], name="second", transB=1),
        helper.make_node("Sin", ["h"], ["s"], name="float"),
        helper.make_node("Mul", ["s", "far"], ["t"], name="far"),
        helper.make_node("Neg", ["t"], ["u"], name="negated"),
        helper.make_node("MatMul", ["u", "third.w"], ["a"], name="third"),
        helper.make_node("Add", ["a", "third.b"], ["y"], name="biased"),
        helper.make_node("Reshape", ["u", "shape"], ["v"], name="reshaped"),
        helper.make_node("MatMul", ["v", "fourth.w"], ["z"], name="fourth"),
    ]
    far = np.ones(WIDE)
    far[[3, 50]] = 60.0
    tensors = [
        models.tensor("first.w", first),
        models.weights("first.b", 16),
        models.weights("second.w", WIDE, 16, spread=0.3),
        models.weights("second.b", WIDE),
        models.tensor("far", far),
        models.weights("third.w", WIDE, 6, spread=0.2),
        models.weights("third.b", 6),
        models.weights("fourth.w", WIDE // 2, 6, spread=0.2),
    ]
    shape = helper.make_tensor("shape", 7, [3], [0, 2, WIDE // 2])
    model = models.model(
        nodes, [models.value("x", ["n", WIDE])], [models.value(name, None) for name in ("y", "z")], tensors
    )
    model.graph.initializer.append(shape)
    return model


def assert_own_ranges(plan: Plan, material: Material, folder: Path) -> None:
    """Every range of a plan is that of the plan's own float model, taken anew (min-max)."""
    names = plan.placement.observed()
    seen = collect(plan.model, names, material.feeds, folder)
    for name in names:
        expected = for_activation(seen.tensors[name].low, seen.tensors[name].high, "uint8")
        found = plan.activations[name]
        np.testing.assert_allclose(found.scale, expected.scale, rtol=1e-4, err_msg=name)
        assert abs(int(found.zero_point) - int(expected.zero_point)) <= 1, name


@pytest.mark.parametrize("between", ["Relu", "LeakyRelu"])
@pytest.mark.parametrize("steps", list(permutations(STEPS)))
def test_ranges_are_those_of_the_model_that_a_step_is_given(
    tmp_path: Path, steps: tuple[Step, ...], between: str
) -> None:
    """And the float model computes what it did, with biases corrected on the way as the ladder does it."""
    rng = np.random.default_rng(0)
    rows: list[Feeds] = [{"x": rng.standard_normal((5, WIDE)).astype(np.float32)} for _ in range(8)]
    original, material = planned(both_kinds(between), rows, tmp_path, bits=4)
    plan = original
    for step in steps:
        changed = step(uncorrected(plan), material)
        assert_own_ranges(changed, material, tmp_path)
        plan = bias_correction(changed, material)
        assert plan.seen is changed.seen
    plan = uncorrected(plan)
    for before, after in zip(run_float(original, rows, tmp_path), run_float(plan, rows, tmp_path), strict=True):
        for one, other in zip(before, after, strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-4 * np.abs(one).max())
