"""Streaming observation against a plain reference that keeps every value."""

import tracemalloc
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from app.domain.recipe import Calibration, CalibrationMethod
from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array
from workers.quantization.affine import for_range, symmetric
from workers.quantization.calibration.blocked import leave_blocked, worth_it
from workers.quantization.calibration.collect import collect
from workers.quantization.calibration.histogram import Histogram
from workers.quantization.calibration.ranges import find_range, quantiles, squared_error
from workers.quantization.calibration.statistics import MOMENTUM, Observer, Statistics, TensorStatistics, density
from workers.runtimes.session import load

METHODS = get_args(CalibrationMethod)
numbers = st.floats(-1e6, 1e6, width=32)
BIN = 2.0**-7  # of a value: how wide a bin can be


def observed(values: Array, *, feeds: int = 1) -> TensorStatistics:
    """Statistics of rows [rows, …], a few rows a feed."""
    observer = Observer()
    for part in np.array_split(values, feeds):
        observer.add(part, len(part))
    return observer.statistics()


@settings(deadline=None)
@given(arrays(np.float32, st.integers(1, 400), elements=numbers), st.integers(1, 7))
def test_every_value_is_counted_in_the_bin_that_holds_it(values: Array, parts: int) -> None:
    histogram = Histogram()
    for number, part in enumerate(np.array_split(values, parts)):
        part.flags.writeable = number % 2 == 0
        histogram.add(part)
    counts = histogram.counts
    expected: dict[int, int] = {}
    for value in values:
        upper = int(np.float32(value).view(np.uint32)) >> 16
        expected[upper] = expected.get(upper, 0) + 1
    assert {int(place): int(counts[place]) for place in np.flatnonzero(counts)} == expected
    found = density(observed(values[np.newaxis]))
    assert found.counts.sum() == len(values)
    assert (found.low <= found.high).all()
    assert (np.diff(found.low) >= 0).all()
    assert (found.high - found.low <= np.maximum(np.abs(found.low), np.abs(found.high)) * BIN + 1e-30).all()


@settings(deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 12), st.integers(1, 30)), elements=numbers), st.integers(1, 4))
def test_extremes_are_those_of_all_values(values: Array, feeds: int) -> None:
    feeds = min(feeds, len(values))
    seen = observed(values, feeds=feeds)
    assert (seen.low, seen.high) == (values.min(), values.max())
    assert seen.mean_low == pytest.approx(values.min(axis=1).mean(dtype=np.float64), rel=1e-6, abs=1e-6)
    assert seen.mean_high == pytest.approx(values.max(axis=1).mean(dtype=np.float64), rel=1e-6, abs=1e-6)
    moving = None
    for part in np.array_split(values, feeds):
        moving = part.max() if moving is None else MOMENTUM * moving + (1 - MOMENTUM) * float(part.max())
    assert seen.moving_high == pytest.approx(moving, rel=1e-5, abs=1e-5)
    assert seen.counts is not None
    assert seen.counts.sum() == values.size


@settings(deadline=None)
@given(
    arrays(np.float32, st.integers(20, 300), elements=st.floats(-100, 100, width=32)),
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=4),
)
def test_quantiles_are_near_those_of_the_sorted_values(values: Array, shares: list[float]) -> None:
    found = quantiles(density(observed(values[np.newaxis])), shares)
    ordered = np.sort(values.astype(np.float64))
    for share, got in zip(shares, found, strict=True):
        place = share * len(ordered)
        around = ordered[[max(int(np.floor(place)) - 1, 0), min(int(np.ceil(place)), len(ordered) - 1)]]
        slack = np.abs(around).max() * BIN + 1e-12
        assert around[0] - slack <= got <= around[1] + slack


def distributions() -> dict[str, Array]:
    rng = np.random.default_rng(7)
    return {
        "normal": rng.standard_normal(60_000),
        "rectified": np.maximum(rng.standard_normal(60_000), 0),
        "bounded": np.clip(rng.standard_normal(60_000) * 4, 0, 6),
        "heavy": rng.laplace(size=60_000) * 3 + 1,
        "negative": -np.abs(rng.standard_normal(60_000)),
    }


DISTRIBUTIONS = {name: values.astype(np.float32).reshape(100, -1) for name, values in distributions().items()}


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_predicted_error_is_the_true_one(name: str) -> None:
    values = DISTRIBUTIONS[name]
    found = density(observed(values, feeds=5))
    low, high = min(float(values.min()), 0.0), max(float(values.max()), 0.0)
    for share in (1.0, 0.7, 0.4):
        affine = for_range(low * share, high * share, "uint8")
        true = float(np.sum((affine.rounded(values).astype(np.float64) - values) ** 2))
        (predicted,) = squared_error(found, np.array([low * share]), np.array([high * share]), 256)
        # The zero point is rounded to a whole number, which the prediction leaves out.
        assert predicted == pytest.approx(true, rel=0.08)


@pytest.mark.parametrize("balanced", [False, True])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_least_squared_error_is_found(name: str, balanced: bool) -> None:
    values = DISTRIBUTIONS[name]

    def error(low: float, high: float) -> float:
        affine = symmetric(max(-low, high), "int8") if balanced else for_range(low, high, "uint8")
        return float(np.sum((affine.rounded(values).astype(np.float64) - values) ** 2))

    found = find_range(observed(values), Calibration(method="mse"), symmetric=balanced)
    low, high = float(min(values.min(), 0)), float(max(values.max(), 0))
    shares = np.linspace(0.3, 1.0, 36)
    tried = [(low * one, high * other) for one in shares for other in (shares if not balanced else [one])]
    assert error(*found) <= 1.05 * min(error(*each) for each in tried)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_every_method_from_one_pass(name: str, method: str) -> None:
    values = DISTRIBUTIONS[name]
    seen = observed(values, feeds=4)
    for balanced in (False, True):
        low, high = find_range(seen, Calibration.model_validate({"method": method}), symmetric=balanced)
        assert low <= 0 <= high
        assert low < high
        if balanced:
            assert low == -high
        else:
            assert min(values.min(), 0) <= low
            assert high <= max(values.max(), 0)
        # No method gives up more than a few in a thousand of the values of such tame distributions.
        outside = np.mean((values < low * 1.01) | (values > high * 1.01))
        assert outside < 0.01


def test_percentiles_cut_what_they_say() -> None:
    values = DISTRIBUTIONS["normal"]
    low, high = find_range(observed(values), Calibration(method="percentile", percentile=99))
    assert np.mean(values < low) == pytest.approx(0.005, abs=0.001)
    assert np.mean(values > high) == pytest.approx(0.005, abs=0.001)
    _, reach = find_range(observed(values), Calibration(method="percentile", percentile=99), symmetric=True)
    assert np.mean(np.abs(values) > reach) == pytest.approx(0.01, abs=0.002)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("constant", [0.0, 3.0, -2.5])
def test_constant_tensors(method: str, constant: float) -> None:
    seen = observed(np.full((3, 4), constant, np.float32), feeds=3)
    low, high = find_range(seen, Calibration.model_validate({"method": method}))
    affine = for_range(low, high, "uint8")
    assert float(affine.rounded(np.array([constant], np.float32))[0]) == pytest.approx(constant, rel=0.02)


def test_statistics_survive_their_file_and_are_the_same_bytes(tmp_path: Path) -> None:
    seen = Statistics(12, {name: observed(values) for name, values in DISTRIBUTIONS.items()})
    seen.write(tmp_path / "a.npz")
    back = Statistics.read(tmp_path / "a.npz")
    back.write(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert back.samples == 12
    for name, entry in seen.tensors.items():
        assert np.array_equal(entry.counts, back.tensors[name].counts)
        assert (entry.low, entry.mean_high) == (
            back.tensors[name].low,
            back.tensors[name].mean_high,
        )


def feeds_of(rows: list[dict[str, Array]]) -> Any:
    return lambda: ((row, 1) for row in rows)


def test_slices_see_what_one_pass_sees(tmp_path: Path) -> None:
    model = models.conv_net()
    rows = [
        {"image": np.random.default_rng(seed).standard_normal((1, 3, 12, 12)).astype(np.float32)} for seed in range(6)
    ]
    names = [name for node in model.graph.node for name in node.output if node.op_type in ("Conv", "Relu", "Add")]
    whole = collect(model, ["image", *names], feeds_of(rows), tmp_path)
    parts = collect(model, ["image", *names], feeds_of(rows), tmp_path, slice_bytes=1)
    assert set(whole.tensors) == {"image", *names}
    assert whole.samples == parts.samples == 6
    for name, entry in whole.tensors.items():
        # Fused differently, sums come in another order.
        assert parts.tensors[name].low == pytest.approx(entry.low, rel=1e-4, abs=1e-5)
        assert parts.tensors[name].counts.sum() == entry.counts.sum()


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    model = models.conv_net()
    row = {"image": np.random.default_rng(0).standard_normal((1, 3, 12, 12)).astype(np.float32)}
    names = [name for node in model.graph.node for name in node.output if node.op_type == "Conv"]
    peaks = []
    for count in (100, 1000):
        tracemalloc.start()
        collect(model, names, feeds_of([row] * count), tmp_path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.1 * peaks[0]


def test_no_rows_and_no_numbers_are_told(tmp_path: Path) -> None:
    model = models.model(
        [
            helper.make_node("Log", ["x"], ["logged"], name="log"),
            helper.make_node("Neg", ["logged"], ["y"], name="neg"),
        ],
        [models.value("x", ["batch", 4])],
        [models.value("y", ["batch", 4])],
    )
    with pytest.raises(StepError) as empty:
        collect(model, ["logged"], feeds_of([]), tmp_path)
    assert empty.value.code == "calibration_empty"
    with pytest.raises(StepError) as bad:
        collect(model, ["y", "logged"], feeds_of([{"x": np.zeros((1, 4), np.float32)}]), tmp_path)
    assert bad.value.code == "calibration_not_finite"
    assert "'logged'" in bad.value.detail


@pytest.mark.parametrize("method", ["minmax", "moving_average", "mean_extremes"])
def test_extremes_alone_are_enough_for_methods_that_ask_for_nothing_else(tmp_path: Path, method: str) -> None:
    model = models.conv_net()
    rows = [
        {"image": np.random.default_rng(seed).standard_normal((1, 3, 12, 12)).astype(np.float32)} for seed in range(9)
    ]
    names = ["image", *(name for node in model.graph.node for name in node.output if node.op_type == "Conv")]
    options = Calibration.model_validate({"method": method})
    assert not options.needs_histograms
    whole = collect(model, names, feeds_of(rows), tmp_path, threads=3)
    cheap = collect(model, names, feeds_of(rows), tmp_path, threads=3, histograms=False)
    cheap.write(tmp_path / "cheap.npz")
    cheap = Statistics.read(tmp_path / "cheap.npz")
    for name in names:
        assert cheap.tensors[name].counts is None
        assert find_range(cheap.tensors[name], options) == find_range(whole.tensors[name], options)


def test_rows_side_by_side_are_observed_as_rows_in_turn(tmp_path: Path) -> None:
    model = models.conv_net()
    rng = np.random.default_rng(3)
    # Each row is wider than the last, so that an average in another order would be another one.
    rows = [{"image": (seed * rng.standard_normal((1, 3, 12, 12))).astype(np.float32)} for seed in range(1, 40)]
    names = ["image", *(name for node in model.graph.node for name in node.output if node.op_type == "Conv")]
    turn = collect(model, names, feeds_of(rows), tmp_path, threads=1)
    side = collect(model, names, feeds_of(rows), tmp_path, threads=4)
    for name, entry in turn.tensors.items():
        other = side.tensors[name]
        assert (entry.low, entry.high, entry.moving_high, entry.mean_low) == (
            other.low,
            other.high,
            other.moving_high,
            other.mean_low,
        )
        assert np.array_equal(entry.counts, other.counts)


def test_counters_that_are_nearly_full_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.quantization.calibration.histogram._MOST", 100)
    histogram = Histogram()
    parts = [np.random.default_rng(seed).standard_normal(60).astype(np.float32) for seed in range(5)]
    for part in parts:
        histogram.add(part)
    upper = np.concatenate(parts).view(np.uint32) >> 16
    assert np.array_equal(histogram.counts, np.bincount(upper, minlength=1 << 16))
    assert histogram._lanes.sum() < 300  # some of them were emptied


def test_whole_blocks_leave_the_runtime_as_they_are(tmp_path: Path) -> None:
    left = {}
    for channels in (24, 32):
        model = models.model(
            [
                helper.make_node("Conv", ["image", "w"], ["c"], name="first"),
                helper.make_node("Relu", ["c"], ["r"], name="relu"),
                helper.make_node("Conv", ["r", "w"], ["d"], name="second"),
            ],
            [models.value("image", [1, channels, 9, 7])],
            [models.value(name, [1, channels, 9, 7]) for name in ("r", "d")],
            [models.weights("w", channels, channels, 1, 1)],
        )
        assert worth_it(model)
        plain, blocked = models.save(model, tmp_path / "plain.onnx"), tmp_path / "blocked.onnx"
        left[channels] = leave_blocked(plain, blocked)
        row = {"image": np.random.default_rng(1).standard_normal((1, channels, 9, 7)).astype(np.float32)}
        ordered = load(plain).run(row, ["r", "d"])
        found = load(blocked, optimization="none").run(row, [left[channels].get(name, name) for name in ("r", "d")])
        for one, other in zip(ordered, found, strict=True):
            assert np.array_equal(np.sort(one, axis=None), np.sort(other, axis=None))
            assert np.array_equal(one, other) == (channels == 24)  # in another order, where a name has changed
    assert set(left[32]) == {"r", "d"}
    assert not left[24]


@pytest.mark.parametrize("kind", ["If", "Loop"])
def test_a_convolution_that_a_nested_body_reads_is_observed(tmp_path: Path, kind: str) -> None:
    inner = helper.make_node("Relu", ["c"], ["inner"], name="inner")
    if kind == "If":
        bodies = [helper.make_graph([inner], name, [], [models.value("inner", None)]) for name in ("one", "other")]
        outer = helper.make_node("If", ["yes"], ["i"], name="outer", then_branch=bodies[0], else_branch=bodies[1])
    else:
        body = helper.make_graph(
            [helper.make_node("Identity", ["go"], ["on"], name="on"), inner],
            "body",
            [helper.make_tensor_value_info("turn", TensorProto.INT64, []), _flag("go")],
            [_flag("on"), models.value("inner", None)],
        )
        outer = helper.make_node("Loop", ["turns", "yes"], ["i"], name="outer", body=body)
    model = models.model(
        [
            helper.make_node("Conv", ["image", "w"], ["c"], name="first"),
            helper.make_node("Conv", ["c", "w"], ["d"], name="second"),
            helper.make_node("Greater", ["high", "low"], ["yes"], name="yes"),
            outer,
        ],
        [models.value("image", [1, 32, 5, 5])],
        [models.value(name, None) for name in ("d", "i")],
        [
            models.weights("w", 32, 32, 1, 1),
            models.tensor("high", 1.0),
            models.tensor("low", 0.0),
            numpy_helper.from_array(np.array(1), "turns"),
        ],
    )
    row = {"image": np.random.default_rng(0).standard_normal((1, 32, 5, 5)).astype(np.float32)}
    seen = collect(model, ["c", "d"], feeds_of([row]), tmp_path)
    plain = load(models.save(model, tmp_path / "plain.onnx"))
    d, i = plain.run(row, ["d", "i"])
    assert (seen.tensors["d"].low, seen.tensors["d"].high) == pytest.approx((d.min(), d.max()), rel=1e-4)
    assert seen.tensors["c"].high == pytest.approx(i.max(), rel=1e-4)


def _flag(name: str) -> Any:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, [])


@pytest.mark.parametrize("channels", [24, 32])
@pytest.mark.parametrize("batch", [1, 3])
def test_tensors_in_blocks_are_seen_as_they_are(tmp_path: Path, channels: int, batch: int) -> None:
    rng = np.random.default_rng(channels)
    weights = [
        rng.uniform(0.1, 1, (channels, 3, 3, 3)).astype(np.float32),
        rng.uniform(0.1, 1, (channels, channels, 1, 1)).astype(np.float32),
    ]
    model = models.model(
        [
            helper.make_node("Conv", ["image", "w0"], ["c0"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c0"], ["r0"], name="relu"),
            helper.make_node("Conv", ["r0", "w1"], ["c1"], name="second"),
            helper.make_node("Add", ["c1", "r0"], ["sum"], name="add"),
            helper.make_node("Softmax", ["sum"], ["y"], name="last", axis=1),
        ],
        [models.value("image", [batch, 3, 9, 7])],
        [models.value("y", [batch, channels, 9, 7])],
        [numpy_helper.from_array(weight, f"w{at}") for at, weight in enumerate(weights)],
    )
    # Far above zero, so that a zero that fills up a block would be the lowest.
    rows = [{"image": rng.uniform(2, 3, (batch, 3, 9, 7)).astype(np.float32)} for _ in range(4)]
    names = ["r0", "c1", "sum", "y"]
    seen = collect(model, names, lambda: ((row, batch) for row in rows), tmp_path, threads=2)
    observers = {name: Observer() for name in names}
    for row in rows:
        first = sum(
            np.einsum(
                "oi,nihw->nohw",
                weights[0][:, :, dy, dx],
                np.pad(row["image"], ((0, 0), (0, 0), (1, 1), (1, 1)))[:, :, dy : dy + 9, dx : dx + 7],
            )
            for dy in range(3)
            for dx in range(3)
        )
        found = {"r0": np.maximum(first, 0).astype(np.float32)}
        found["c1"] = np.einsum("oi,nihw->nohw", weights[1][:, :, 0, 0], found["r0"])
        found["sum"] = found["c1"] + found["r0"]
        exp = np.exp(found["sum"] - found["sum"].max(axis=1, keepdims=True))
        found["y"] = exp / exp.sum(axis=1, keepdims=True)
        for name in names:
            observers[name].add(found[name], batch)
    for name in names:
        plain, entry = observers[name].statistics(), seen.tensors[name]
        for part in ("low", "high", "mean_low", "mean_high", "moving_low", "moving_high"):
            assert getattr(entry, part) == pytest.approx(getattr(plain, part), rel=1e-4, abs=1e-4)
        assert entry.counts.sum() == plain.counts.sum()
        # The same numbers, but for the rounding of sums: hardly any lands in another bin.
        assert np.abs(entry.counts - plain.counts).sum() < 0.05 * plain.counts.sum()
