"""Learned rounding: to neighbours alone, nearer to the float model than to the nearest, and near the best there is."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import helper

from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array
from tests.unit.quantization.plans import images, inverted_residuals, planned, relative, run_float, run_plan
from workers.autodiff import extra
from workers.quantization.affine import reach_of, symmetric
from workers.quantization.qdq.plan import Plan
from workers.quantization.recovery.blocks import blocks_of
from workers.quantization.recovery.learned_rounding import Settings, _with_searched_scales, learned_rounding

pytest.importorskip("torch")

import torch

from workers.quantization.recovery.reconstruction import Passage, Samples
from workers.quantization.recovery.simulation import Simulation
from workers.quantization.recovery.soft_rounding import SoftRounding

SHORT = Settings(iterations=150, rate=3e-2)


@pytest.fixture
def small(tmp_path: Path) -> tuple[Plan, object, list[dict[str, object]]]:
    rows = images()
    plan, material = planned(inverted_residuals(), rows, tmp_path, bits=4)
    return plan, material, rows


def sentence(length: int, seed: int) -> dict[str, Array]:
    ids = np.random.default_rng(seed).integers(0, 50, (1, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


# The simulation


@pytest.mark.parametrize("optimization", ["none", "all"])
def test_the_graph_in_torch_is_the_artifact(tmp_path, optimization):
    """Float sums differ in their last bits, and where one stands at the border between two integers it goes the other
    way; so do integer kernels, which scale their sums once. A handful of values in ten thousand then differ by one
    step of 1/255 of their range, and their shares in what is computed from them: 1 % of the error that quantization
    makes itself is allowed, and the rest of the outputs must agree to a few units in the last place."""
    rows = images()
    plan, _ = planned(inverted_residuals(), rows, tmp_path, bits=7)  # which no processor saturates
    expected = run_plan(plan, rows, tmp_path, optimization=optimization)
    graph = Simulation(plan).graph
    found = [[y.numpy() for y in graph.run({"x": torch.from_numpy(row["x"])}, ["y"])] for row in rows]
    made = relative(run_float(plan, rows, tmp_path), expected)
    assert relative(found, expected) < 0.01 * made
    one, other = (np.concatenate([row[0] for row in outputs]) for outputs in (found, expected))
    same = np.isclose(one, other, rtol=0, atol=1e-5)
    assert same.mean() > 0.5


def test_attention_is_simulated_too(tmp_path):
    model = models.transformer()
    rows = [sentence(5, seed) for seed in range(6)]
    plan, _ = planned(model, rows, tmp_path)
    expected = run_plan(plan, rows, tmp_path, optimization="none")
    graph = Simulation(plan).graph
    outputs = [value.name for value in model.graph.output]
    found = [
        [y.numpy() for y in graph.run({name: torch.from_numpy(ids) for name, ids in row.items()}, outputs)]
        for row in rows
    ]
    made = relative(run_float(plan, rows, tmp_path), expected)
    assert relative(found, expected) < 0.01 * made


# The blocks


def test_blocks_cover_the_graph_and_cut_no_residual_branch(small):
    plan, _, _ = small
    blocks = blocks_of(plan)
    assert [block.first for block in blocks[1:]] == [block.end for block in blocks[:-1]]
    assert (blocks[0].first, blocks[-1].end) == (0, len(plan.model.graph.node))
    inside = [[weight.node for weight in block.weights] for block in blocks]
    assert ["1.expand", "1.depthwise", "1.project"] in inside
    assert all(len(block.outputs) == 1 for block in blocks)
    # What a range has replaced is no border: it does not exist in the artifact.
    borders = {name for block in blocks for name in block.inputs}
    assert not borders & set(plan.placement.absorbed.values())


def test_layers_alone_when_asked(small):
    plan, _, _ = small
    inside = [[weight.node for weight in block.weights] for block in blocks_of(plan, 1)]
    assert ["stem"] in inside
    assert ["1.expand", "1.depthwise", "1.project"] in inside


def test_feeds_of_several_lengths_make_groups(tmp_path):
    model = models.transformer()
    rows = [sentence(length, seed) for seed, length in enumerate((3, 5, 3, 4, 5, 3))]
    plan, material = planned(model, rows, tmp_path, bits=4)
    blocks = blocks_of(plan)
    passage = Passage(plan, material, blocks)
    for seed, block in enumerate(blocks):
        groups = passage.samples(block, seed)
        assert sum(group.rows for group in groups) == len(rows)
        passage.advance(block, Simulation(plan), {})


def test_batches_keep_channels_together():
    images = torch.rand(6, 8, 5, 5).contiguous(memory_format=torch.channels_last)
    given, targets = Samples(6, {"x": images}, {}, {"y": images}).take(torch.tensor([4, 1]))
    for found in (given["x"], *targets):
        assert found.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(found, images[[4, 1]])


# The rounding


@settings(max_examples=60, deadline=None)
@given(
    values=arrays(np.float32, (3, 4), elements=st.floats(-8, 8, width=32)),
    choices=arrays(np.float32, (3, 4), elements=st.floats(-20, 20, width=32)),
    bits=st.integers(2, 8),
    share=st.sampled_from([1.0, 0.6]),
)
def test_a_weight_goes_to_one_of_its_two_neighbours(values, choices, bits, share):
    affine = symmetric(reach_of(values, 0) * share, "int8", bits=bits, axis=0)
    rounding = SoftRounding(values, affine)
    with torch.no_grad():
        rounding.choice.copy_(torch.from_numpy(choices))
    steps = np.floor(values / affine.scale.reshape(-1, 1))
    neighbours = [np.clip(steps + up, affine.low, affine.high) for up in (0, 1)]
    whole = rounding.whole()
    assert whole.dtype == np.int8
    assert np.all((whole == neighbours[0]) | (whole == neighbours[1]))
    np.testing.assert_array_equal(rounding.hard().detach().numpy(), affine.dequantize(whole))


def test_it_begins_where_the_float_weights_are():
    values = np.random.default_rng(0).standard_normal((6, 5)).astype(np.float32)
    affine = symmetric(reach_of(values, 0), "int8", bits=4, axis=0)
    rounding = SoftRounding(values, affine)
    soft = rounding().detach().numpy()
    assert np.abs(soft - values).max() <= 2e-3 * affine.scale.max()
    np.testing.assert_array_equal(rounding.whole(), affine.quantize(values))


def test_the_penalty_is_gone_when_every_choice_is_made():
    rounding = SoftRounding(np.full((2, 2), 0.4, np.float32), symmetric(1.0, "int8", bits=4))
    assert float(rounding.penalty(0.0).detach()) == 0.0
    assert float(rounding.penalty(1.0).detach()) > 2.0
    with torch.no_grad():
        rounding.choice.copy_(torch.tensor([[9.0, -9.0], [9.0, -9.0]]))
    assert float(rounding.penalty(1.0).detach()) == 0.0


def test_the_penalty_pushes_away_from_the_middle():
    """As the derivative of the formula does, which is written out for its one power."""
    values = np.random.default_rng(2).standard_normal((4, 3)).astype(np.float32)
    rounding = SoftRounding(values, symmetric(reach_of(values, 0), "int8", bits=4, axis=0))
    rounding.penalty(0.5).backward()
    choice = rounding.choice.detach().double().requires_grad_()
    beta = 20 - 18 * (0.5 - 0.2) / 0.8
    up = torch.clamp(torch.sigmoid(choice) * 1.2 - 0.1, 0, 1)
    (1 - (2 * up - 1).abs().pow(beta)).sum().backward()
    torch.testing.assert_close(rounding.choice.grad.double(), choice.grad, rtol=1e-4, atol=1e-5)


def test_a_tiny_layer_comes_near_the_best_of_all_roundings(tmp_path):
    """All 2^n roundings of one output's weights are tried; correlated inputs make the nearest one a bad choice."""
    rng = np.random.default_rng(4)
    inputs, outputs = 10, 3
    x = (rng.standard_normal((64, 1)) + 0.2 * rng.standard_normal((64, inputs))).astype(np.float32)
    weight = rng.standard_normal((inputs, outputs)).astype(np.float32)
    model = models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="product")],
        [models.value("x", ["n", inputs])],
        [models.value("y", ["n", outputs])],
        [models.tensor("w", weight)],
    )
    rows = [{"x": row[np.newaxis]} for row in x]
    plan, material = planned(model, rows, tmp_path, bits=3)
    learned = learned_rounding(plan, material, Settings(iterations=800, batch=32, rate=3e-2, regularization=3.0))
    affine, chosen = learned.weights[("product", 1)], learned.integers[("product", 1)]

    exact = x @ weight
    seen = plan.activations["x"].rounded(x)
    floor = np.clip(np.floor(weight / affine.scale), affine.low, affine.high)
    ups = np.array(list(product((0, 1), repeat=inputs)), dtype=np.float64)
    best, nearest, found = np.zeros(outputs), np.zeros(outputs), np.zeros(outputs)
    for column in range(outputs):
        tried = np.clip(floor[:, column] + ups, affine.low, affine.high) * affine.scale[column]
        best[column] = ((tried @ seen.T - exact[:, column]) ** 2).mean(axis=1).min()
        for errors, whole in ((nearest, affine.quantize(weight)), (found, chosen)):
            errors[column] = ((seen @ (whole[:, column] * affine.scale[column]) - exact[:, column]) ** 2).mean()
    assert found.sum() < 0.5 * nearest.sum()
    assert found.sum() < 1.6 * best.sum()


# The step


def test_it_brings_back_what_four_bits_lose(small, tmp_path):
    plan, material, rows = small
    learned = learned_rounding(plan, material, SHORT)
    exact = run_float(plan, rows, tmp_path)
    before, after = (relative(run_plan(each, rows, tmp_path), exact) for each in (plan, learned))
    assert after < 0.25 * before  # 6 dB
    assert learned.shifts
    assert not plan.integers
    searched = _with_searched_scales(plan, material)
    assert set(learned.integers) <= {(weight.node, weight.index) for weight in plan.placement.weights}
    for (node, index), whole in learned.integers.items():
        affine = searched.weights[(node, index)]  # what it begins with: the scale stretches what was chosen
        weight = next(entry for entry in plan.placement.weights if (entry.node, entry.index) == (node, index))
        shape = (-1, *[1] * (whole.ndim - 1)) if affine.axis == 0 else (1, -1)
        steps = np.floor(plan.stored(weight.tensor) / affine.scale.reshape(shape))
        below, above = (np.clip(steps + up, affine.low, affine.high) for up in (0, 1))
        assert np.all((whole == below) | (whole == above))


def test_the_same_comes_out_twice(small):
    plan, material, _ = small
    short = replace(SHORT, iterations=20)
    one, other = (learned_rounding(plan, material, short).integers for _ in range(2))
    assert one.keys() == other.keys()
    assert all(np.array_equal(one[place], other[place]) for place in one)


def test_corrected_biases_are_no_part_of_what_is_fitted_to(small, tmp_path):
    """A correction is for the quantized model alone; the float one is as it was."""
    plan, material, _ = small
    corrected = plan.copy()
    corrected.shifts["stem.b"] = np.full(8, 5.0, np.float32)
    corrected.store("stem.b", plan.stored("stem.b") + 5.0)
    block = blocks_of(plan)[0]
    targets = [
        Passage(each, material, blocks_of(each)).samples(block, 0)[0].targets[block.outputs[0]]
        for each in (plan, corrected)
    ]
    torch.testing.assert_close(*targets, rtol=1e-4, atol=1e-4)


def test_nothing_to_round_is_told(small):
    plan, material, _ = small
    bare = replace(plan, placement=replace(plan.placement, weights=[]))
    with pytest.raises(StepError) as caught:
        learned_rounding(bare, material)
    assert caught.value.code == "step_not_applicable"


def test_without_torch_it_says_what_to_install(small, monkeypatch):
    plan, material, _ = small
    monkeypatch.setattr(extra, "find_spec", lambda name: None)
    with pytest.raises(StepError) as caught:
        learned_rounding(plan, material)
    assert caught.value.code == "needs_torch"
