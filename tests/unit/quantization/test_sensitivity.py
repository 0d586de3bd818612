"""Sensitivity analysis against brute force: a model for every part, and numpy."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import ModelProto, TensorProto, helper, numpy_helper
from scipy import stats

from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array
from tests.unit.quantization.bad_models import by_data
from tests.unit.quantization.conftest import random_feeds
from tests.unit.quantization.plans import Feeds, images, inverted_residuals, planned
from workers.quantization.graph import save
from workers.quantization.judged import power
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.plan import Plan
from workers.quantization.recovery.bias_correction import bias_correction
from workers.quantization.recovery.measuring import Judge
from workers.quantization.sensitivity import metering
from workers.quantization.sensitivity.analysis import analyse
from workers.quantization.sensitivity.choosing import keep_precise, predicted_db
from workers.quantization.sensitivity.origins import weight_key
from workers.quantization.sensitivity.outliers import outliers_in
from workers.quantization.sensitivity.parts import (
    activation_alone,
    float_model,
    layer_alone,
    layers_kept,
    layers_of,
    weight_alone,
)
from workers.quantization.sensitivity.result import Sensitivity
from workers.runtimes.session import Session, load

EXAMPLE = Path(__file__).resolve().parents[3] / "examples"
NOTHING_DB = 110.0
"""Above it, what there is of noise is float32's."""


def example() -> ModelProto:
    return onnx.load(EXAMPLE / "fashion_mobilenet.onnx")


MODELS: dict[str, Callable[[], ModelProto]] = {
    "example": example,
    "inverted residuals": inverted_residuals,
    "convolutions, fixed batch": lambda: models.conv_net(batch=1),
    "encoder, two outputs": models.transformer,
    "resized": models.resize_net,
    "captured by bodies": models.branches,
}


def rows_for(name: str, model: ModelProto, folder: Path, count: int = 6) -> list[Feeds]:
    if name == "example":
        with np.load(EXAMPLE / "calibration.npz") as data:
            return [{"image": image[np.newaxis]} for image in data["image"][:count]]
    if name == "inverted residuals":
        return images(4 * count)
    return random_feeds(load(models.save(model, folder / "rows.onnx")), count)


@pytest.fixture(params=list(MODELS))
def made(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Plan, list[Feeds]]:
    """A plan with 7-bit weights, which cannot saturate, and rows."""
    model = MODELS[request.param]()
    rows = rows_for(request.param, model, tmp_path)
    return planned(model, rows, tmp_path, bits=7)[0], rows


def brute_force(
    plans: Mapping[str, Plan], original: ModelProto, rows: Sequence[Feeds], folder: Path
) -> dict[str, float]:
    """SQNR of the outputs, each plan in a model of its own."""
    judge = Judge(original, [], rows, folder)
    return {name: judge.fidelity(plan).pooled_db for name, plan in plans.items()}


def assert_near(found: Mapping[str, float], expected: Mapping[str, float], most: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert min(found[name], NOTHING_DB) == pytest.approx(min(value, NOTHING_DB), abs=most), name


def layers_alone(result: Sensitivity) -> dict[str, float]:
    return {layer.node: layer.alone.sqnr_db for layer in result.layers}


def test_every_part_alone_is_what_brute_force_measures(made: tuple[Plan, list[Feeds]], tmp_path: Path) -> None:
    plan, rows = made
    result = analyse(plan, rows, tmp_path, probed=len(rows))
    original = float_model(plan)
    layers = {layer.node: layer_alone(plan, layer) for layer in layers_of(plan)}
    assert_near(layers_alone(result), brute_force(layers, original, rows, tmp_path), 0.1)
    tensors = {weight_key(weight): weight_alone(plan, weight) for weight in plan.placement.weights}
    tensors |= {name: activation_alone(plan, name) for name in plan.placement.observed()}
    found = {tensor.key: tensor.alone.sqnr_db for tensor in result.tensors}
    assert_near(found, brute_force(tensors, original, rows, tmp_path), 0.1)
    (whole,) = brute_force({"all": plan}, original, rows, tmp_path).values()
    assert result.total.sqnr_db == pytest.approx(whole, abs=0.01)
    assert result.floor_db > NOTHING_DB
    for ranked in (result.layers, result.tensors):
        decibels = [each.alone.sqnr_db for each in ranked]
        assert decibels == sorted(decibels)


def test_every_layer_but_one_is_predicted(made: tuple[Plan, list[Feeds]], tmp_path: Path) -> None:
    plan, rows = made
    result = analyse(plan, rows, tmp_path, probed=len(rows))
    kept = {layer.node: layers_kept(plan, [layer.node]) for layer in layers_of(plan)}
    measured = brute_force(kept, float_model(plan), rows, tmp_path)
    predicted = {layer.node: layer.without.sqnr_db for layer in result.layers}
    # Errors of few rows are not independent: with one layer less, some models are farther off.
    assert_near(predicted, measured, 2.0)
    assert np.mean([abs(predicted[node] - value) for node, value in measured.items()]) < 0.7
    assert result.checks
    for check in result.checks:
        (found,) = brute_force({"": layers_kept(plan, check.nodes)}, float_model(plan), rows, tmp_path).values()
        assert check.measured_db == pytest.approx(found, abs=0.01)
        assert abs(check.deviation_db) <= result.deviation_db


def test_a_few_rows_rank_as_all_of_them_do(tmp_path: Path) -> None:
    rows = rows_for("example", example(), tmp_path, 24)
    plan, _ = planned(example(), rows, tmp_path, bits=7)
    few = layers_alone(analyse(plan, rows, tmp_path, probed=8))
    layers = {layer.node: layer_alone(plan, layer) for layer in layers_of(plan)}
    all_rows = brute_force(layers, float_model(plan), rows, tmp_path)
    names = list(all_rows)
    ours, theirs = np.array([few[name] for name in names]), np.array([all_rows[name] for name in names])
    assert stats.spearmanr(ours, theirs).statistic > 0.8
    assert np.abs(ours - theirs).mean() < 2.0


def two_products() -> ModelProto:
    """MatMul, Relu, MatMul: (b, 8) → (b, 4)."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w1"], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("MatMul", ["r", "w2"], ["y"], name="second"),
        ],
        [models.value("x", ["batch", 8])],
        [models.value("y", ["batch", 4])],
        [models.weights("w1", 8, 16), models.weights("w2", 16, 4)],
    )


def test_two_products_by_numpy(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    rows = [{"x": rng.standard_normal((3, 8)).astype(np.float32)} for _ in range(5)]
    plan, _ = planned(two_products(), rows, tmp_path, bits=7)
    result = analyse(plan, rows, tmp_path, probed=5)
    x = np.concatenate([row["x"] for row in rows]).astype(np.float64)
    w1, w2 = (plan.stored(name).astype(np.float64) for name in ("w1", "w2"))
    q1, q2 = (
        plan.weights[place].rounded(plan.stored(name)) for place, name in ((("first", 1), "w1"), (("second", 1), "w2"))
    )

    def rounded(name: str, values: Array) -> Array:
        return plan.activations[name].rounded(values.astype(np.float32)).astype(np.float64)

    def relu(values: Array) -> Array:
        return np.maximum(values, 0)

    hidden = relu(x @ w1)
    exact = hidden @ w2
    expected = {
        "first": rounded("r", relu(rounded("x", x) @ q1)) @ w2,
        "second": rounded("r", hidden) @ q2,
        "first[1]": relu(x @ q1) @ w2,
        "second[1]": hidden @ q2,
        "x": relu(rounded("x", x) @ w1) @ w2,
        "r": rounded("r", hidden) @ w2,
    }
    found = layers_alone(result) | {tensor.key: tensor.alone.sqnr_db for tensor in result.tensors}
    wanted = {name: 10 * np.log10((exact**2).sum() / ((exact - y) ** 2).sum()) for name, y in expected.items()}
    assert_near(found, wanted, 0.1)
    second = next(layer for layer in result.layers if layer.node == "second")
    weights, activations = (expected[name] - exact for name in ("second[1]", "r"))
    share = (weights**2).sum() / ((weights**2).sum() + (activations**2).sum())
    assert second.weight_share == pytest.approx(share, rel=0.02)
    log_p, log_q = (y - np.log(np.exp(y).sum(axis=1, keepdims=True)) for y in (exact, expected["second"]))
    assert second.alone.kl == pytest.approx((np.exp(log_p) * (log_p - log_q)).sum(axis=1).mean(), rel=0.02)
    assert second.alone.agreement == (exact.argmax(axis=1) == expected["second"].argmax(axis=1)).mean()


def test_a_planted_outlier_is_found_first(tmp_path: Path) -> None:
    model = inverted_residuals()
    for tensor in model.graph.initializer:
        if tensor.name == "1.project.w":
            values = numpy_helper.to_array(tensor).copy()
            values[:, 3] *= 60  # one input channel, so that finer scales by output channel do not help
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    rows = images(6)
    plan, _ = planned(model, rows, tmp_path, bits=7)
    result = analyse(plan, rows, tmp_path, probed=3)
    assert result.layers[0].node == "1.project"
    assert result.layers[0].weight_share > 0.5
    assert result.tensors[0].key == "1.project[1]"
    others = [tensor.outliers.kurtosis for tensor in result.tensors[1:] if tensor.node]
    assert result.tensors[0].outliers.kurtosis is not None
    assert result.tensors[0].outliers.kurtosis > max(value for value in others if value is not None)
    assert keep_precise(result, count=1) == ("1.project",)


def exact_beside_lossy() -> ModelProto:
    """Two products of one input; the weights of `exact` are whole numbers up to 63."""
    rng = np.random.default_rng(0)
    whole = rng.integers(-62, 63, (6, 4))
    whole[0] = 63
    return models.model(
        [helper.make_node("MatMul", ["x", name], [f"y_{name}"], name=name) for name in ("exact", "lossy")],
        [models.value("x", ["batch", 6])],
        [models.value("y_exact", ["batch", 4]), models.value("y_lossy", ["batch", 4])],
        [models.tensor("exact", whole), models.tensor("lossy", rng.standard_normal((6, 4)))],
    )


def test_what_loses_nothing_has_no_noise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows: list[Feeds] = [{"x": rng.integers(0, 256, (4, 6)).astype(np.float32)} for _ in range(3)]
    rows[0]["x"][0, :2] = 0, 255
    plan, _ = planned(exact_beside_lossy(), rows, tmp_path, bits=7)
    result = analyse(plan, rows, tmp_path)
    layers = {layer.node: layer for layer in result.layers}
    assert layers["exact"].alone.sqnr_db == 200
    assert layers["exact"].alone.kl == 0
    assert layers["exact"].alone.agreement == 1
    assert layers["exact"].without.sqnr_db == pytest.approx(result.total.sqnr_db)
    assert layers["lossy"].without.sqnr_db == 200
    assert keep_precise(result, target_db=150) == ("lossy",)


def test_corrected_biases_belong_to_the_weights_that_they_correct(tmp_path: Path) -> None:
    """Of convolutions and Gemms their own, of matrix products that of the Add behind them."""
    for name, model in (("conv", models.conv_net()), ("mlp", models.mlp())):
        folder = tmp_path / name
        folder.mkdir()
        rows = random_feeds(load(models.save(model, folder / "rows.onnx")), 6)
        before, material = planned(model, rows, folder, bits=4)
        plan = bias_correction(before, material)
        assert plan.shifts
        for bias in plan.shifts:
            stored = next(t for t in float_model(plan).graph.initializer if t.name == bias)
            np.testing.assert_allclose(numpy_helper.to_array(stored), before.stored(bias), rtol=1e-5, atol=1e-6)
        result = analyse(plan, rows, folder, probed=len(rows))
        layers = {layer.node: layer_alone(plan, layer) for layer in layers_of(plan)}
        assert_near(layers_alone(result), brute_force(layers, before.model, rows, folder), 0.1)
        weights = {weight_key(weight): weight_alone(plan, weight) for weight in plan.placement.weights}
        found = {tensor.key: tensor.alone.sqnr_db for tensor in result.tensors if tensor.node}
        assert_near(found, brute_force(weights, before.model, rows, folder), 0.1)


class Counted:
    """A session that counts the multiply-adds of what it really runs, from shapes that onnx infers."""

    runs = 0
    multiply_adds = 0

    def __init__(self, path: Path, session: Session) -> None:
        self._model, self._session = onnx.load(path), session

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Array]:
        Counted.runs += 1
        Counted.multiply_adds += multiply_adds(self._model, feeds)
        return self._session.run(feeds, wanted)


def multiply_adds(model: ModelProto, feeds: Mapping[str, Array]) -> int:
    shaped = ModelProto()
    shaped.CopyFrom(model)
    for port in shaped.graph.input:
        port.CopyFrom(models.value(port.name, feeds[port.name].shape, port.type.tensor_type.elem_type))
    del shaped.graph.value_info[:]
    graph = onnx.shape_inference.infer_shapes(shaped, data_prop=True).graph
    shapes = {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        for value in (*graph.input, *graph.value_info, *graph.output)
    } | {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    counted = 0
    for node in graph.node:
        if node.op_type == "Conv":
            counted += int(np.prod(shapes[node.output[0]]) * np.prod(shapes[node.input[1]][1:]))
        elif node.op_type in ("MatMul", "Gemm"):
            counted += int(np.prod(shapes[node.output[0]]) * shapes[node.input[0]][-1])
    return counted


@pytest.mark.parametrize("name", ["inverted residuals", "encoder, two outputs"])
def test_the_cost_is_what_was_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    model = MODELS[name]()
    rows = rows_for(name, model, tmp_path, 8)
    plan, _ = planned(model, rows, tmp_path, bits=7)
    Counted.runs = Counted.multiply_adds = 0

    def counted(path: Path, **options: Any) -> Counted:
        return Counted(path, load(path, **options))

    monkeypatch.setattr(metering, "load", counted)
    result = analyse(plan, rows, tmp_path, probed=2)
    whole = len(rows) * multiply_adds(float_model(plan), rows[0])
    assert result.cost.session_runs == Counted.runs
    assert result.cost.model_runs == pytest.approx(Counted.multiply_adds / whole, rel=1e-3)
    assert result.cost.model_runs < result.cost.brute_force / 2
    assert result.cost.brute_force_layers == 2 * len(result.layers)
    assert result.cost.brute_force == 2 * (len(result.layers) + len(result.tensors))
    assert (result.feeds, result.probed) == (len(rows), 2)


@pytest.mark.parametrize("idle", [1, 3])
def test_rows_on_which_nothing_is_multiplied_cost_nothing(tmp_path: Path, idle: int) -> None:
    """How many rows the product gets hangs on the numbers: of the first ones it gets none."""
    rows = [{"x": np.full((4, 8), 0.5, np.float32)}] * idle
    rows += [{"x": np.random.default_rng(row).standard_normal((4, 8)).astype(np.float32) + 2} for row in range(4)]
    plan, _ = planned(by_data(), rows, tmp_path, bits=7)
    result = analyse(plan, rows, tmp_path)
    (layer,) = result.layers
    assert layer.multiply_adds == 4 * 8 * 8
    assert result.cost.model_runs > 0
    assert result.total == analyse(plan, rows[idle:], tmp_path).total

    with pytest.raises(StepError) as raised:
        analyse(plan, rows[:idle], tmp_path)
    assert raised.value.code == "nothing_to_measure"


@pytest.mark.parametrize("gain", [3.0, 8.0])
def test_what_is_kept_reaches_the_target(tmp_path: Path, gain: float) -> None:
    rows = images(8)
    plan, _ = planned(inverted_residuals(), rows, tmp_path, bits=7)
    result = analyse(plan, rows, tmp_path, probed=8)
    target = result.total.sqnr_db + gain
    kept = keep_precise(result, target_db=target)
    assert predicted_db(result, kept) >= target
    for node in kept:
        assert predicted_db(result, tuple(other for other in kept if other != node)) < target
    (measured,) = brute_force({"": layers_kept(plan, kept)}, float_model(plan), rows, tmp_path).values()
    assert measured > target - 1.5
    assert predicted_db(result, ()) == pytest.approx(result.total.sqnr_db)
    assert predicted_db(result, tuple(layer.node for layer in result.layers)) == 200


def test_as_many_are_kept_as_asked_for(tmp_path: Path) -> None:
    rows = images(4)
    plan, _ = planned(inverted_residuals(), rows, tmp_path, bits=7)
    result = analyse(plan, rows, tmp_path)
    assert [len(keep_precise(result, count=count)) for count in (0, 1, 4, 99)] == [0, 1, 4, len(result.layers)]
    with pytest.raises(ValueError, match="how many"):
        keep_precise(result)


def test_saturation_is_an_origin_of_its_own(tmp_path: Path) -> None:
    """With 8-bit weights some sums saturate on processors without VNNI; elsewhere nothing of the kind is found."""
    rows = images(6)
    plan, _ = planned(inverted_residuals(), rows, tmp_path, bits=8)
    result = analyse(plan, rows, tmp_path, probed=6)
    saturating = [layer for layer in result.layers if layer.kernel_share > 0.5]
    kernels = {origin.key for origin in result.origins if origin.kind == "kernel"}
    assert kernels >= {layer.node for layer in saturating}
    # The whole model tells the same, run by the kernels and by exact arithmetic.
    save(insert(plan).model, tmp_path / "artifact.onnx")
    exactly, as_run = (load(tmp_path / "artifact.onnx", optimization=level) for level in ("none", "all"))
    pairs = [(exactly.run(row)[0], as_run.run(row)[0]) for row in rows]
    difference = sum(power(one, other)[1] for one, other in pairs)
    noise = 10 ** (-result.total.sqnr_db / 10) * sum(power(one, one)[0] for one, _ in pairs)
    assert bool(saturating) == (difference > 0.5 * noise)


def test_it_is_exported_as_data(tmp_path: Path) -> None:
    rows = images(2)
    plan, _ = planned(inverted_residuals(), rows, tmp_path)
    result = analyse(plan, rows, tmp_path)
    result.write(tmp_path / "sensitivity.json")
    assert json.loads((tmp_path / "sensitivity.json").read_text()) == json.loads(json.dumps(asdict(result)))


def test_a_model_with_random_numbers_is_refused(tmp_path: Path) -> None:
    model = two_products()
    model.graph.node[-1].output[0] = "z"
    model.graph.node.extend(
        [
            helper.make_node("RandomNormalLike", ["z"], ["noise"], name="noise"),
            helper.make_node("Add", ["z", "noise"], ["y"], name="noisy"),
        ]
    )
    rows = random_feeds(load(models.save(model, tmp_path / "rows.onnx")), 4)
    plan, _ = planned(model, rows, tmp_path)
    with pytest.raises(StepError) as raised:
        analyse(plan, rows, tmp_path)
    assert raised.value.code == "model_not_repeatable"


def test_outliers_by_scipy_and_numpy() -> None:
    values = np.random.default_rng(0).standard_t(4, (400, 50)).astype(np.float32)
    values[:, 7] *= 20
    found = outliers_in([values[:100], values[100:]], 1)
    magnitudes = np.abs(values)
    assert found.kurtosis == pytest.approx(stats.kurtosis(values, axis=None, fisher=False), rel=0.03)
    assert found.peak_ratio == pytest.approx(magnitudes.max() / np.quantile(magnitudes, 0.999), rel=0.03)
    reaches = magnitudes.max(axis=0)
    assert found.channel_spread == pytest.approx(reaches.max() / np.median(reaches), rel=1e-6)
    constant = outliers_in([np.zeros((3, 2), np.float32)], 1)
    assert (constant.kurtosis, constant.peak_ratio, constant.channel_spread) == (None, None, None)


@settings(max_examples=60, deadline=None)
@given(
    arrays(np.float32, 6, elements=st.floats(width=32)),
    arrays(np.float32, 6, elements=st.floats(-(2.0**100), 2.0**100, width=32)),
)
def test_powers_are_those_of_float64(exact: Array, found: Array) -> None:
    defined = np.isfinite(exact)
    signal, noise = power(exact, found)
    wide = exact[defined].astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        difference = (found[defined] - exact[defined]).astype(np.float64)
    assert signal == pytest.approx((wide**2).sum(), rel=1e-5)
    assert noise == pytest.approx((difference**2).sum(), rel=1e-5, abs=1e-30)


def test_other_types_than_float_cross_regions(tmp_path: Path) -> None:
    """A mask of booleans and a shape of integers that nodes before and behind a product share."""
    model = models.model(
        [
            helper.make_node("Greater", ["x", "zero"], ["positive"], name="positive"),
            helper.make_node("Shape", ["x"], ["shape"], name="shape"),
            helper.make_node("MatMul", ["x", "w1"], ["a"], name="first"),
            helper.make_node("Where", ["positive", "a", "zero"], ["masked"], name="masked"),
            helper.make_node("MatMul", ["masked", "w2"], ["b"], name="second"),
            helper.make_node("Reshape", ["b", "shape"], ["c"], name="same"),
            helper.make_node("Where", ["positive", "c", "zero"], ["y"], name="again"),
        ],
        [models.value("x", ["batch", 8])],
        [models.value("y", ["batch", 8]), models.value("shape", [2], TensorProto.INT64)],
        [models.weights("w1", 8, 8), models.weights("w2", 8, 8), models.tensor("zero", 0.0)],
    )
    rows = random_feeds(load(models.save(model, tmp_path / "rows.onnx")), 4)
    plan, _ = planned(model, rows, tmp_path, bits=7)
    result = analyse(plan, rows, tmp_path, probed=4)
    layers = {layer.node: layer_alone(plan, layer) for layer in layers_of(plan)}
    assert_near(layers_alone(result), brute_force(layers, float_model(plan), rows, tmp_path), 0.1)
