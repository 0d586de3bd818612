"""The studentised bootstrap, against a plain loop and by simulated coverage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from workers.evaluation.metrics.definition import mean
from workers.evaluation.metrics.sqnr_db import METRIC as SQNR
from workers.evaluation.statistics import means
from workers.evaluation.statistics.means import Floats, Statistic, bootstrap_bounds, estimate, standard_error


def bounds_by_loop(values: Floats, confidence: float, resamples: int = 3000) -> tuple[float, float]:
    """The textbook studentised bootstrap of a mean, one resample after another."""
    rng = np.random.default_rng(99)
    centre, error = float(values.mean()), float(values.std(ddof=1)) / math.sqrt(len(values))
    distances = []
    for _ in range(resamples):
        drawn = rng.choice(values, len(values))
        distances.append((drawn.mean() - centre) / (drawn.std(ddof=1) / math.sqrt(len(values))))
    return (
        centre - float(np.quantile(distances, confidence)) * error,
        centre - float(np.quantile(distances, 1 - confidence)) * error,
    )


@pytest.mark.parametrize("shape", ["normal", "lognormal", "uniform"])
def test_bounds_of_a_mean_equal_a_plain_loop(shape: str) -> None:
    values = getattr(np.random.default_rng(3), shape)(size=200)
    lower, upper = bootstrap_bounds(values[:, np.newaxis], mean, 0.975)
    expected = bounds_by_loop(values, 0.975)
    assert (lower, upper) == pytest.approx(expected, abs=0.12 * (expected[1] - expected[0]))


def test_bounds_of_a_normal_mean_are_students() -> None:
    values = np.random.default_rng(5).standard_normal(400)
    reach = student.ppf(0.975, 399) * values.std(ddof=1) / 20
    lower, upper = bootstrap_bounds(values[:, np.newaxis], mean, 0.975)
    assert lower == pytest.approx(values.mean() - reach, abs=0.1 * reach)
    assert upper == pytest.approx(values.mean() + reach, abs=0.1 * reach)


def test_the_linearised_error_of_a_ratio_of_sums_is_that_of_many_resamples() -> None:
    rng = np.random.default_rng(6)
    columns = np.stack([rng.lognormal(0, 0.5, 300), 1e-3 * rng.lognormal(0, 1, 300)], axis=1)
    resampled = [estimate(columns[rng.integers(0, 300, 300)], SQNR.value) for _ in range(2000)]
    assert standard_error(columns, SQNR.value) == pytest.approx(np.std(resampled), rel=0.1)


@pytest.mark.parametrize(
    "name", ["normal mean", "skewed mean near one", "skewed positive mean", "ratio of sums in dB", "paired difference"]
)
def test_two_sided_intervals_cover_at_140_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least 93 % of 95 % intervals hold the truth (simulated, 3 standard errors of leave)."""
    monkeypatch.setattr(means, "_RESAMPLES", 300)  # coverage does not suffer; a single interval would
    trials, rows = 300, 140
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(trials):
        columns, statistic, truth = _draw(name, rng, rows)
        lower, upper = bootstrap_bounds(columns, statistic, 0.975)
        covered += lower <= truth <= upper
    assert covered / trials > 0.93 - 3 * math.sqrt(0.93 * 0.07 / trials)
    assert covered / trials < 0.99, "wider than it must be"


def _draw(name: str, rng: np.random.Generator, rows: int) -> tuple[Floats, Statistic, float]:
    if name == "normal mean":
        return rng.standard_normal((rows, 1)), mean, 0.0
    if name == "skewed mean near one":
        return 1 - 1e-4 * rng.lognormal(0, 1, (rows, 1)), mean, 1 - 1e-4 * math.exp(0.5)
    if name == "skewed positive mean":
        return 1e-3 * rng.lognormal(0, 1, (rows, 1)), mean, 1e-3 * math.exp(0.5)
    if name == "ratio of sums in dB":
        columns = np.stack([rng.lognormal(0, 0.5, rows), 1e-3 * rng.lognormal(0, 1, rows)], axis=1)
        return columns, SQNR.value, 10 * math.log10(math.exp(0.125) / (1e-3 * math.exp(0.5)))
    shared = rng.standard_normal(rows)
    before, after = shared + 0.1 * rng.standard_normal(rows), shared + 0.1 * rng.standard_normal(rows)
    return np.stack([before, after], axis=1), lambda both: both[..., 0] - both[..., 1], 0.0


def test_pairing_uses_that_rows_are_shared() -> None:
    rng = np.random.default_rng(12)
    shared = 10 * rng.standard_normal(200)
    columns = np.stack([shared + rng.standard_normal(200), shared], axis=1)
    lower, upper = bootstrap_bounds(columns, lambda both: both[..., 0] - both[..., 1], 0.95)
    assert upper - lower < 0.5


@settings(max_examples=25, deadline=None)
@given(shift=st.floats(-1e6, 1e6), scale=st.floats(1e-3, 1e3))
def test_bounds_move_and_stretch_with_the_values(shift: float, scale: float) -> None:
    values = np.random.default_rng(13).gamma(2, size=(50, 1))
    lower, upper = bootstrap_bounds(values, mean, 0.95)
    moved = bootstrap_bounds(values * scale + shift, mean, 0.95)
    expected = (lower * scale + shift, upper * scale + shift)
    assert moved == pytest.approx(expected, rel=1e-6, abs=1e-6 * max(1.0, abs(shift)))


def test_rows_that_do_not_differ_have_bounds_without_width() -> None:
    assert bootstrap_bounds(np.full((20, 1), 0.75), mean, 0.95) == (0.75, 0.75)


def test_one_row_has_no_bounds() -> None:
    assert bootstrap_bounds(np.ones((1, 1)), mean, 0.95) == (-math.inf, math.inf)


def test_the_same_rows_give_the_same_bounds() -> None:
    values = np.random.default_rng(1).standard_normal((30, 1))
    assert bootstrap_bounds(values, mean, 0.95) == bootstrap_bounds(values, mean, 0.95)


def test_a_lone_row_with_all_the_noise_leaves_the_lower_end_open() -> None:
    columns = np.zeros((30, 2))
    columns[:, 0] = 1.0
    columns[4, 1] = 0.01
    lower, upper = bootstrap_bounds(columns, SQNR.value, 0.95)
    assert lower < estimate(columns, SQNR.value) < upper
