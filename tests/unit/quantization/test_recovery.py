"""Recovery steps: what must not change in float does not, and what they claim to gain is there."""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import ModelProto, helper, numpy_helper

from app.domain.recipe import Calibration, StaticInt8
from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array
from tests.unit.quantization.plans import planned as planned_of
from workers.quantization.affine import reach_of, symmetric
from workers.quantization.calibration.collect import collect
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.plan import Plan, make_plan
from workers.quantization.recovery.bias_correction import bias_correction, correctable
from workers.quantization.recovery.clip_search import best_shares, clip_search
from workers.quantization.recovery.equalization import equalization, find_pairs
from workers.quantization.recovery.ladder import climb, divided, judge_for
from workers.quantization.recovery.material import Material, Step
from workers.quantization.recovery.measuring import observed_session
from workers.quantization.recovery.smoothquant import smoothquant
from workers.quantization.static import prepare_for
from workers.runtimes.session import load

ROWS = 24


def dense_layers() -> ModelProto:
    """Two layers of a perceptron whose hidden channels have very unequal ranges."""
    rng = np.random.default_rng(3)
    spread = np.exp(rng.normal(0, 2, 16)).astype(np.float32)
    first = rng.standard_normal((8, 16)).astype(np.float32) * spread
    second = rng.standard_normal((16, 4)).astype(np.float32) / spread[:, np.newaxis]
    return models.model(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("Gemm", ["r", "w2", "b2"], ["y"], name="second"),
        ],
        [models.value("x", ["batch", 8])],
        [models.value("y", ["batch", 4])],
        [
            models.tensor("w1", first), models.tensor("b1", rng.standard_normal(16) * spread),
            models.tensor("w2", second), models.tensor("b2", rng.standard_normal(4)),
        ],
    )  # fmt: skip


def depthwise_pair() -> ModelProto:
    """A convolution, a grouped one and a pointwise one, channels of unequal ranges between them."""
    rng = np.random.default_rng(5)
    spread = np.exp(rng.normal(0, 1.5, 8)).astype(np.float32).reshape(-1, 1, 1, 1)
    return models.model(
        [
            helper.make_node("Conv", ["x", "w1", "b1"], ["h"], name="wide", pads=[1] * 4),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "w2"], ["d"], name="grouped", pads=[1] * 4, group=4),
            helper.make_node("Conv", ["d", "w3"], ["y"], name="point"),
        ],
        [models.value("x", ["batch", 3, 6, 6])],
        [models.value("y", None)],
        [
            models.tensor("w1", rng.standard_normal((8, 3, 3, 3)) * spread),
            models.tensor("b1", rng.standard_normal(8) * spread.reshape(-1)),
            models.tensor("w2", rng.standard_normal((8, 2, 3, 3))),
            models.weights("w3", 5, 8, 1, 1),
        ],
    )


def outlier_products() -> ModelProto:
    """A normalized activation with two channels far larger than the others, read by two products."""
    gain = np.ones(12, np.float32)
    gain[[2, 7]] = 60.0
    return models.model(
        [
            helper.make_node("LayerNormalization", ["x", "gain", "shift"], ["n"], name="norm", axis=-1),
            helper.make_node("MatMul", ["n", "w1"], ["a"], name="one"),
            helper.make_node("Add", ["a", "bias"], ["ab"], name="biased"),
            helper.make_node("MatMul", ["n", "w2"], ["b"], name="two"),
            helper.make_node("Add", ["ab", "b"], ["y"], name="sum"),
        ],
        [models.value("x", ["batch", 5, 12])],
        [models.value("y", ["batch", 5, 6])],
        [
            models.tensor("gain", gain), models.tensor("shift", np.zeros(12)),
            models.weights("w1", 12, 6), models.weights("w2", 12, 6, seed=4), models.tensor("bias", np.ones(6)),
        ],
        opset=17,
    )  # fmt: skip


MODELS: dict[str, Callable[[], ModelProto]] = {
    "dense": dense_layers,
    "depthwise": depthwise_pair,
    "outliers": outlier_products,
    "conv": models.conv_net,
    "transformer": models.transformer,
}


def planned(model: ModelProto, folder: Path, **options: object) -> tuple[Plan, Material]:
    path = models.save(model, folder / "original.onnx")
    session = load(path)
    rows = []
    for row in range(ROWS):
        rng = np.random.default_rng(row)
        rows.append(
            {
                port.name: rng.integers(
                    0, 40, [size if isinstance(size, int) else 1 + 4 * bool(at) for at, size in enumerate(port.shape)]
                )
                if port.dtype == "int64"
                else rng.standard_normal(
                    [size if isinstance(size, int) else 1 + 4 * bool(at) for at, size in enumerate(port.shape)]
                ).astype(np.float32)
                for port in session.inputs
            }
        )
    recipe = StaticInt8.model_validate({"reduce_range": True, **options})
    prepared, setting, placement = prepare_for(path, recipe)
    setting = replace(setting, calibration=Calibration(method="minmax"))

    def feeds() -> object:
        return ((row, 1) for row in rows)

    seen = collect(prepared.model, placement.observed(), feeds, folder)  # type: ignore[arg-type]
    material = Material(feeds, feeds, setting, folder)  # type: ignore[arg-type]
    return make_plan(prepared.model, seen, setting, placement), material


def run_float(model: ModelProto, material: Material, folder: Path) -> list[Array]:
    onnx.save(model, folder / "float-now.onnx")
    session = load(folder / "float-now.onnx")
    return [output for feed, _ in material.feeds() for output in session.run(feed)]


class StepNotApplicable(Exception):
    """The step has nothing to work on in that model."""


def taken(step: Step, plan: Plan, material: Material) -> Plan:
    try:
        return step(plan, material)
    except StepError as error:
        if error.code == "step_not_applicable":
            raise StepNotApplicable from error
        raise


@pytest.mark.parametrize("step", [equalization, smoothquant])
@pytest.mark.parametrize("name", MODELS)
def test_what_only_moves_scales_changes_nothing_in_float(tmp_path: Path, name: str, step: Step) -> None:
    plan, material = planned(MODELS[name](), tmp_path)
    before = run_float(plan.model, material, tmp_path)
    changed = plan
    with contextlib.suppress(StepNotApplicable):
        changed = taken(step, plan, material)
    after = run_float(changed.model, material, tmp_path)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4 * np.abs(one).max())
    assert run_float(plan.model, material, tmp_path)[0].tobytes() == before[0].tobytes(), "the plan given is as it was"


@pytest.mark.parametrize(
    ("name", "step"), [("dense", equalization), ("depthwise", equalization), ("outliers", smoothquant)]
)
def test_uneven_channels_are_evened_out(tmp_path: Path, name: str, step: Step) -> None:
    plan, material = planned(MODELS[name](), tmp_path, per_channel=False)
    judge = judge_for(plan, material)
    before = judge.fidelity(plan).output_db
    after = judge.fidelity(step(plan, material)).output_db
    assert after > before + 2


def test_pairs_are_those_with_only_a_rectifier_between(tmp_path: Path) -> None:
    plan, _ = planned(depthwise_pair(), tmp_path)
    assert [(pair.first, pair.second, pair.between) for pair in find_pairs(plan)] == [
        ("wide", "grouped", "r"),
        ("grouped", "point", "d"),
    ]
    outliers, _ = planned(outlier_products(), tmp_path)
    assert list(find_pairs(outliers)) == []


def test_a_gemm_that_adds_what_another_makes_is_no_pair_with_it(tmp_path: Path) -> None:
    model = models.model(
        [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("Gemm", ["x", "w2", "r"], ["y"], name="second"),
        ],
        [models.value("x", ["batch", 8])],
        [models.value("y", ["batch", 4])],
        [models.weights("w1", 8, 4), models.weights("b1", 4), models.weights("w2", 8, 4, seed=1)],
    )
    plan, material = planned(model, tmp_path)
    assert {weight.node for weight in plan.placement.weights} == {"first", "second"}
    assert list(find_pairs(plan)) == []
    with pytest.raises(StepNotApplicable):
        taken(equalization, plan, material)


@pytest.mark.parametrize("op_type", ["Conv", "Gemm"])
def test_a_layer_whose_bias_is_not_stored_is_the_second_of_a_pair_alone(tmp_path: Path, op_type: str) -> None:
    shape = (8, 8, 1, 1) if op_type == "Conv" else (8, 8)
    model = models.model(
        [
            helper.make_node(op_type, ["x", "w1"], ["a"], name="first"),
            helper.make_node(op_type, ["a", "w2", "given"], ["b"], name="biased"),
            helper.make_node(op_type, ["b", "w3"], ["y"], name="last"),
        ],
        [models.value("x", ["batch", 8, 6, 6] if op_type == "Conv" else ["batch", 8]), models.value("given", [8])],
        [models.value("y", None)],
        [models.weights(name, *shape, seed=seed) for seed, name in enumerate(("w1", "w2", "w3"))],
    )
    plan, material = planned(model, tmp_path)
    assert [(pair.first, pair.second) for pair in find_pairs(plan)] == [("first", "biased")]
    before = run_float(plan.model, material, tmp_path)
    after = run_float(equalization(plan, material).model, material, tmp_path)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4 * np.abs(one).max())


def test_smoothing_is_folded_into_a_normalization_that_nothing_else_reads(tmp_path: Path) -> None:
    plan, material = planned(outlier_products(), tmp_path)
    changed = smoothquant(plan, material)
    assert "Mul" not in {node.op_type for node in changed.model.graph.node}
    model = outlier_products()
    model.graph.node.append(helper.make_node("ReduceSum", ["n"], ["s"], name="reader"))
    model.graph.output.append(models.value("s", None))
    plan, material = planned(model, tmp_path)
    assert "Mul" in {node.op_type for node in smoothquant(plan, material).model.graph.node}


@pytest.mark.parametrize(
    ("name", "step"), [("dense", equalization), ("depthwise", equalization), ("outliers", smoothquant)]
)
def test_a_step_has_ranges_from_the_rows_that_the_others_come_from(tmp_path: Path, name: str, step: Step) -> None:
    """From the fitting rows alone they would be narrower than those that the step is compared with."""
    plan, material = planned(MODELS[name](), tmp_path)
    changed = step(plan, replace(material, feeds=lambda: islice(material.feeds(), 2)))
    anew = [
        tensor
        for tensor, affine in changed.activations.items()
        if tensor not in plan.activations or affine.scale != plan.activations[tensor].scale
    ]
    assert anew
    session = observed_session(changed.model, anew, tmp_path / "anew.onnx", threads=1)
    rows = [session.run(feed) for feed, _ in material.feeds()]
    for index, tensor in enumerate(anew):
        affine = changed.activations[tensor]
        reach = affine.scale * (np.array([affine.low, affine.high]) - affine.zero_point)
        for row in rows:
            assert reach[0] - affine.scale <= row[index].min()
            assert row[index].max() <= reach[1] + affine.scale


@pytest.mark.parametrize("name", ["dense", "outliers", "conv"])
def test_bias_correction_makes_each_layer_s_own_mean_error_vanish(tmp_path: Path, name: str) -> None:
    """Against numpy: the mean of (W' − W)·x over what the quantized layer really reads."""
    plan, material = planned(MODELS[name](), tmp_path, weight_bits=4)
    changed = bias_correction(plan, material)
    nodes = {node.name: node for node in plan.model.graph.node}
    layers = [layer for layer in correctable(plan) if nodes[layer.node].op_type in ("Gemm", "MatMul")]
    assert layers
    for layer in layers:
        inserted = insert(plan)
        source = next(node for node in inserted.model.graph.node if node.name == layer.node).input[0]
        inserted.model.graph.output.append(models.value(source, None))
        onnx.save(inserted.model, tmp_path / "reads.onnx")
        session = load(tmp_path / "reads.onnx", optimization="none")
        weight = plan.stored(layer.weight)
        rounded = plan.weights[(layer.node, 1)].rounded(weight)
        error = weight - rounded
        if any(entry.name == "transB" and entry.i for entry in nodes[layer.node].attribute):
            error = error.T
        read = np.concatenate([session.run(feed, [source])[0].reshape(-1, len(error)) for feed, _ in material.feeds()])
        expected = (read @ error).mean(axis=0)
        shift = changed.stored(layer.bias) - plan.stored(layer.bias)
        np.testing.assert_allclose(shift, expected, rtol=1e-3, atol=1e-4 * max(1.0, np.abs(expected).max()))
    # Taken once more, it replaces the correction instead of adding to it.
    again = bias_correction(changed, material)
    for layer in layers:
        assert (
            np.abs(again.stored(layer.bias) - changed.stored(layer.bias)).max()
            <= np.abs(changed.stored(layer.bias) - plan.stored(layer.bias)).max()
        )


@settings(max_examples=40, deadline=None)
@given(
    arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 20)), elements=st.floats(-50, 50, width=32)),
    st.sampled_from([4, 8]),
)
def test_clipped_weights_are_never_farther_than_whole_ones(weight: Array, bits: int) -> None:
    affine = symmetric(reach_of(weight, 0), "int8", bits=bits, axis=0)
    shares = best_shares(weight, affine)
    narrower = symmetric(reach_of(weight, 0) * shares, "int8", bits=bits, axis=0)

    def errors(rounded: Array) -> Array:
        return np.sum((rounded.astype(np.float64) - weight) ** 2, axis=1)

    assert shares.shape == (len(weight),)
    assert (errors(narrower.rounded(weight)) <= errors(affine.rounded(weight)) * (1 + 1e-5) + 1e-12).all()


def test_four_bits_gain_by_clipping(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    model = models.gemm()
    heavy = rng.laplace(size=(16, 8)).astype(np.float32)
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(heavy, "w"))
    plan, material = planned(model, tmp_path, weight_bits=4)
    judge = judge_for(plan, material)
    assert judge.fidelity(clip_search(plan, material)).output_db > judge.fidelity(plan).output_db


@pytest.mark.parametrize("count", [16, 17, 40, 203])
def test_steps_are_judged_on_rows_that_they_are_not_fitted_to(count: int) -> None:
    fitting, judging = divided(lambda: (({"x": np.array([number])}, 1) for number in range(count)))
    first, again, judged = ([int(feed["x"][0]) for feed, _ in feeds()] for feeds in (fitting, fitting, judging))
    assert first == again
    assert sorted(first + judged) == list(range(count))
    assert count // 4 <= len(judged) <= count // 4 + 1
    # However the rows repeat, all kinds of them judge.
    assert {number % 4 for number in judged} == {0, 1, 2, 3} or count < 40


@pytest.mark.parametrize("count", [1, 2, 3, 15])
def test_of_few_rows_half_judge(count: int) -> None:
    fitting, judging = divided(lambda: (({"x": np.array([number])}, 1) for number in range(count)))
    fitted, judged = ([int(feed["x"][0]) for feed, _ in feeds()] for feeds in (fitting, judging))
    assert sorted(fitted + judged) == list(range(count))
    assert len(judged) - len(fitted) in (0, 1)


def test_one_row_fits_nothing(tmp_path: Path) -> None:
    plan, material = planned(next(iter(MODELS.values()))(), tmp_path, weight_bits=4)
    fitting, judging = divided(lambda: islice(material.feeds(), 1))
    alone = replace(material, feeds=fitting)
    climbed = climb(plan, alone, ["smoothquant", "bias_correction"], judge_for(plan, alone, judging))
    assert climbed.plan is plan
    assert [(rung.step, rung.kept) for rung in climbed.rungs] == [("smoothquant", False), ("bias_correction", False)]
    assert all("One calibration row" in str(rung.reason) for rung in climbed.rungs)


@pytest.mark.parametrize("name", MODELS)
def test_the_ladder_only_climbs_and_says_what_each_step_brought(tmp_path: Path, name: str) -> None:
    plan, material = planned(MODELS[name](), tmp_path, weight_bits=4)
    steps = ["bias_correction", "equalization", "smoothquant", "clip_search"]
    judge = judge_for(plan, material)
    climbed = climb(plan, material, steps, judge)
    rungs = climbed.rungs
    assert [rung.step for rung in rungs] == steps
    reached = judge.fidelity(plan).output_db
    for rung in rungs:
        assert rung.before_db == pytest.approx(reached, abs=0.01)
        if rung.kept:
            assert rung.after_db is not None
            assert rung.after_db > rung.before_db
            assert rung.reason is None
            reached = rung.after_db
        else:
            assert rung.reason
    assert judge.fidelity(climbed.plan).output_db == pytest.approx(reached, abs=0.01)
    assert any(rung.kept for rung in rungs)


@pytest.mark.parametrize("elsewhere", ["output", "body"])
def test_a_bias_that_others_read_is_not_corrected(tmp_path: Path, elsewhere: str) -> None:
    """What a graph puts out, or a nested body reads, no node lists among its inputs."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"], name="product"),
        helper.make_node("Add", ["m", "b"], ["y"], name="add"),
    ]
    outputs = [models.value("y", ["n", 6])]
    if elsewhere == "output":
        outputs.append(models.value("b", [6]))
    else:
        branches = {
            f"{name}_branch": helper.make_graph(
                [helper.make_node(op_type, ["b"], [name], name=f"inner_{name}")], name, [], [models.value(name, [6])]
            )
            for name, op_type in (("then", "Neg"), ("else", "Abs"))
        }
        nodes += [
            helper.make_node("ReduceSum", ["x"], ["sum"], name="sum", keepdims=0),
            helper.make_node("Greater", ["sum", "zero"], ["positive"], name="positive"),
            helper.make_node("If", ["positive"], ["o"], name="if", **branches),
        ]
        outputs.append(models.value("o", [6]))
    tensors = [models.weights("w", 64, 6), models.weights("b", 6), models.tensor("zero", 0.0)]
    model = models.model(nodes, [models.value("x", ["n", 64])], outputs, tensors)
    rng = np.random.default_rng(0)
    plan, material = planned_of(model, [{"x": rng.standard_normal((5, 64)).astype(np.float32)}], tmp_path, bits=3)
    with pytest.raises(StepError, match="No quantized layer has a bias") as raised:
        bias_correction(plan, material)
    assert raised.value.code == "step_not_applicable"
