"""Range fine-tuning: wrong scales find back, right ones are not made worse, integers that were chosen stay."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from app.errors import StepError
from tests.unit.quantization.plans import images, inverted_residuals, planned, relative, run_float, run_plan
from workers.autodiff import extra
from workers.quantization.affine import reach_of, symmetric
from workers.quantization.qdq.plan import Plan
from workers.quantization.recovery.bias_correction import uncorrected
from workers.quantization.recovery.ladder import _taken
from workers.quantization.recovery.range_tuning import Settings, range_tuning

pytest.importorskip("torch")

import torch

from workers.quantization.recovery.learned_scales import LearnedBias, LearnedScale, ScaledWeight

SHORT = Settings(iterations=120, rate=5e-3)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Plan, object, list[dict[str, object]]]:
    rows = images()
    plan, material = planned(inverted_residuals(), rows, tmp_path, bits=5)
    return plan, material, rows


def test_scales_that_are_off_find_back(small, tmp_path):
    plan, material, rows = small
    wide = plan.copy()
    for name, affine in plan.activations.items():
        wide.activations[name] = replace(affine, scale=(affine.scale * np.float32(0.6)).astype(np.float32))
    exact = run_float(plan, rows, tmp_path)
    tuned = range_tuning(wide, material, Settings(iterations=200, rate=1e-2))
    before, after = (relative(run_plan(each, rows, tmp_path), exact) for each in (wide, tuned))
    assert after < 0.5 * before
    assert all(
        np.array_equal(wide.activations[n].scale, plan.activations[n].scale * np.float32(0.6)) for n in wide.activations
    )


def test_it_gains_on_a_plan_that_is_right_already(small, tmp_path):
    plan, material, rows = small
    exact = run_float(plan, rows, tmp_path)
    tuned = range_tuning(plan, material, SHORT)
    before, after = (relative(run_plan(each, rows, tmp_path), exact) for each in (plan, tuned))
    assert after < 0.89 * before  # half a dB
    for name, affine in tuned.activations.items():
        assert affine.zero_point == plan.activations[name].zero_point
        assert affine.scale.dtype == np.float32
        assert affine.scale > 0


def test_what_shares_a_scale_shares_it_still(small):
    plan, material, _ = small
    assert plan.placement.shares
    tuned = range_tuning(plan, material, SHORT)
    for name, owner in plan.placement.shares.items():
        assert np.array_equal(tuned.activations[name].scale, tuned.activations[owner].scale)
    assert any(not np.array_equal(tuned.activations[n].scale, plan.activations[n].scale) for n in plan.activations)


def test_integers_that_were_chosen_stay(small, tmp_path):
    plan, material, rows = small
    chosen = plan.copy()
    for weight in plan.placement.weights:
        place = (weight.node, weight.index)
        chosen.integers[place] = plan.weights[place].quantize(plan.stored(weight.tensor))
    tuned = range_tuning(chosen, material, SHORT)
    assert all(np.array_equal(tuned.integers[place], whole) for place, whole in chosen.integers.items())
    exact = run_float(plan, rows, tmp_path)
    assert relative(run_plan(tuned, rows, tmp_path), exact) < relative(run_plan(plan, rows, tmp_path), exact)


def test_what_biases_move_by_is_a_correction(small):
    plan, material, _ = small
    tuned = range_tuning(plan, material, SHORT)
    assert tuned.shifts
    restored = uncorrected(tuned)
    for name, shift in tuned.shifts.items():
        assert np.any(shift)
        np.testing.assert_allclose(restored.stored(name), plan.stored(name), rtol=0, atol=1e-5)


def test_the_ladder_lets_it_begin_from_corrected_biases(small, monkeypatch):
    plan, material, _ = small
    bias = plan.placement.biases[0].tensor
    corrected = plan.copy()
    corrected.shifts[bias] = np.ones_like(plan.stored(bias))
    corrected.store(bias, plan.stored(bias) + 1)
    monkeypatch.setattr(range_tuning, "__defaults__", (replace(SHORT, iterations=1),))
    tuned = next(_taken("range_tuning", corrected, material, correcting=False))
    assert abs(tuned.shifts.get(bias, 0.0).mean() - 1) < 0.1


def test_the_same_comes_out_twice(small):
    plan, material, _ = small
    one, other = (range_tuning(plan, material, replace(SHORT, iterations=15)).activations for _ in range(2))
    assert all(np.array_equal(one[name].scale, other[name].scale) for name in one)


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_a_weight_begins_as_the_artifact_stores_it(axis):
    values = np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)
    affine = symmetric(reach_of(values, axis), "int8", bits=4, axis=axis)
    rounded = ScaledWeight(values, affine, None)
    np.testing.assert_array_equal(rounded.weight().detach().numpy(), affine.rounded(values))
    other = np.clip(affine.quantize(values) + 1, affine.low, affine.high).astype(np.int8)
    kept = ScaledWeight(values, affine, other)
    np.testing.assert_array_equal(kept.weight().detach().numpy(), affine.dequantize(other))
    with torch.no_grad():
        kept.exponent.fill_(0.5)
    scale = kept.affine()
    np.testing.assert_array_equal(kept.weight().detach().numpy(), scale.dequantize(other))


def test_a_scale_keeps_its_sign_and_type():
    scale = LearnedScale(symmetric(3.0, "uint8"))
    with torch.no_grad():
        scale.exponent.fill_(-30.0)
    affine = scale.affine()
    assert 0 < affine.scale < 1e-10
    assert (affine.dtype, affine.zero_point, affine.low, affine.high) == ("uint8", 128, 1, 255)


def test_a_bias_moves_by_shares_of_its_size():
    values = np.array([3.0, -4.0, 0.0, 0.0], np.float32)
    bias = LearnedBias(values)
    np.testing.assert_array_equal(bias().detach().numpy(), values)
    with torch.no_grad():
        bias.shift.fill_(0.1)
    np.testing.assert_allclose(bias().detach().numpy(), values + 0.25, rtol=1e-6)


def test_nothing_to_tune_is_told(small):
    plan, material, _ = small
    with pytest.raises(StepError) as caught:
        range_tuning(replace(plan, activations={}), material)
    assert caught.value.code == "step_not_applicable"


def test_without_torch_it_says_what_to_install(small, monkeypatch):
    plan, material, _ = small
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    with pytest.raises(StepError) as caught:
        range_tuning(plan, material)
    assert caught.value.code == "needs_torch"
