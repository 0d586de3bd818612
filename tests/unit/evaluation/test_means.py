"""The studentised bootstrap of ratios of sums, against a plain loop, by search, and by simulated coverage."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import t as student

from workers.evaluation.metrics.sqnr_db import METRIC as SQNR
from workers.evaluation.statistics import means, tails
from workers.evaluation.statistics.clusters import Codes
from workers.evaluation.statistics.linear import Ends, Linearised, scatter_of
from workers.evaluation.statistics.means import (
    Floats,
    estimate,
    growing_bounds,
    influence_bounds,
    jackknife,
    linearise,
    ratio_bounds,
    student_quantiles,
)


def mean_bounds(values: Floats, confidence: float, groups: Codes | None = None) -> Ends:
    return ratio_bounds(values, np.ones(len(values)), groups, confidence)


def naive_bounds(values: Floats, confidence: float) -> Ends:
    """Student's t, which knows of no skew."""
    reach = student.ppf(confidence, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return float(values.mean() - reach), float(values.mean() + reach)


def quantiles_by_loop(values: Floats, confidence: float, resamples: int = 4000) -> Ends:
    """The textbook studentised bootstrap of a mean, one resample of the completed sample after another."""
    rng, population, distances = np.random.default_rng(99), tails.completed(values), []
    for _ in range(resamples):
        drawn = rng.choice(population, len(values))
        distances.append((drawn.mean() - population.mean()) / (drawn.std(ddof=1) / math.sqrt(len(values))))
    return float(np.quantile(distances, 1 - confidence)), float(np.quantile(distances, confidence))


@pytest.mark.parametrize("shape", ["normal", "lognormal", "uniform"])
def test_the_quantiles_of_a_mean_are_those_of_a_plain_loop_or_students(shape: str) -> None:
    values = getattr(np.random.default_rng(3), shape)(size=200)
    found, expected = student_quantiles(values - values.mean(), 0.975), quantiles_by_loop(values, 0.975)
    reach = student.ppf(0.975, 199)
    assert found[0] == pytest.approx(min(expected[0], -reach), rel=0.08)
    assert found[1] == pytest.approx(max(expected[1], reach), rel=0.08)


def test_bounds_of_a_normal_mean_are_hardly_wider_than_students() -> None:
    values = np.random.default_rng(5).standard_normal(400)
    lower, upper = mean_bounds(values, 0.975)
    expected = naive_bounds(values, 0.975)
    width = expected[1] - expected[0]
    assert expected[0] - 0.06 * width < lower < expected[0] + 1e-9
    assert expected[1] - 1e-9 < upper < expected[1] + 0.06 * width


def test_bounds_of_a_ratio_are_the_ratios_that_its_draws_do_not_contradict() -> None:
    """Fieller's, by search: where the mean of numerator less ratio times denominator is so many of its errors off."""
    rng = np.random.default_rng(7)
    denominators = rng.lognormal(0, 0.8, 60)
    numerators = denominators * rng.lognormal(0, 0.5, 60)
    value = numerators.sum() / denominators.sum()
    low, high = student_quantiles(numerators - value * denominators, 0.975)

    def distance(ratio: float) -> float:
        excess = numerators - ratio * denominators
        return float(excess.mean() / (excess.std(ddof=1) / math.sqrt(60)))

    lower, upper = ratio_bounds(numerators, denominators, None, 0.975)
    assert lower == pytest.approx(brentq(lambda ratio: distance(ratio) - high, 0, value), rel=1e-6)
    assert upper == pytest.approx(brentq(lambda ratio: distance(ratio) - low, value, 50), rel=1e-6)


def test_a_denominator_that_could_be_nothing_leaves_both_ends_open() -> None:
    denominators = np.zeros(40)
    denominators[3] = 1.0
    assert ratio_bounds(np.random.default_rng(1).random(40), denominators, None, 0.95) == (-math.inf, math.inf)


def test_the_linearised_error_of_a_ratio_of_sums_is_that_of_many_resamples() -> None:
    rng = np.random.default_rng(6)
    columns = np.stack([rng.lognormal(0, 0.5, 300), 1e-3 * rng.lognormal(0, 1, 300)], axis=1)
    resampled = [estimate(columns[rng.integers(0, 300, 300)], SQNR.value) for _ in range(2000)]
    error = linearise(columns, SQNR.value).influence.std(ddof=1) / math.sqrt(300)
    assert error == pytest.approx(np.std(resampled), rel=0.1)


@pytest.mark.parametrize("name", ["normal", "skewed near one", "skewed", "ratio in dB", "paired difference"])
def test_two_sided_intervals_cover_at_140_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At least 93 % of 95 % intervals hold the truth (simulated, 3 standard errors of leave)."""
    monkeypatch.setattr(means, "_RESAMPLES", 300)  # coverage does not suffer; a single interval would
    trials, rows = 400, 140
    rng = np.random.default_rng(11)
    covered = 0
    for _ in range(trials):
        numerators, denominators, truth = _draw(name, rng, rows)
        lower, upper = ratio_bounds(numerators, denominators, None, 0.975)
        covered += lower <= truth <= upper
    assert covered / trials > 0.93 - 3 * math.sqrt(0.93 * 0.07 / trials)
    assert covered / trials < 0.995, "wider than it must be"


def _draw(name: str, rng: np.random.Generator, rows: int) -> tuple[Floats, Floats, float]:
    ones = np.ones(rows)
    if name == "normal":
        return rng.standard_normal(rows), ones, 0.0
    if name == "skewed near one":
        return 1 - 1e-4 * rng.lognormal(0, 1, rows), ones, 1 - 1e-4 * math.exp(0.5)
    if name == "skewed":
        return 1e-3 * rng.lognormal(0, 1, rows), ones, 1e-3 * math.exp(0.5)
    if name == "ratio in dB":
        return 1e-3 * rng.lognormal(0, 1, rows), rng.lognormal(0, 0.5, rows), 1e-3 * math.exp(0.5 - 0.125)
    shared = rng.standard_normal(rows)
    before, after = shared + 0.1 * rng.standard_normal(rows), shared + 0.1 * rng.standard_normal(rows)
    return before - after, ones, 0.0


def test_skew_is_known_of_where_students_interval_misses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean of log-normal values is more often below the truth, and the more so the less it scatters."""
    monkeypatch.setattr(means, "_RESAMPLES", 300)
    rng, trials, truth = np.random.default_rng(21), 500, math.exp(0.72)
    ours = naive = 0
    for _ in range(trials):
        values = rng.lognormal(0, 1.2, 140)
        ours += mean_bounds(values, 0.975)[1] < truth
        naive += naive_bounds(values, 0.975)[1] < truth
    assert naive / trials > 0.08
    assert ours / trials < 0.07


def test_pairing_uses_that_rows_are_shared() -> None:
    rng = np.random.default_rng(12)
    shared = 10 * rng.standard_normal(200)
    columns = np.stack([shared + rng.standard_normal(200), shared], axis=1)
    found = linearise(columns, lambda both: both[..., 0] - both[..., 1])
    lower, upper = influence_bounds(found, None, 0.95)
    assert upper - lower < 0.5


def test_an_estimate_by_its_influence_has_the_bounds_of_the_mean_that_it_is() -> None:
    values = np.random.default_rng(15).gamma(2, size=90)
    found = Linearised(float(values.mean()), values - values.mean())
    assert influence_bounds(found, None, 0.975) == pytest.approx(mean_bounds(values, 0.975))
    groups = np.repeat(np.arange(30), 3)
    assert influence_bounds(found, groups, 0.975) == pytest.approx(mean_bounds(values, 0.975, groups))


def test_groups_that_are_alike_are_one_draw_each() -> None:
    values = np.random.default_rng(16).gamma(2, size=50)
    groups = np.repeat(np.arange(50), 3)
    assert mean_bounds(np.repeat(values, 3), 0.975, groups) == pytest.approx(mean_bounds(values, 0.975))


def test_groups_of_unequal_sizes_make_a_ratio_of_sums() -> None:
    """Where great groups have other values than small ones, the number of rows scatters with the sum."""
    rng = np.random.default_rng(17)
    sizes = rng.integers(1, 9, 60)
    groups = np.repeat(np.arange(60), sizes)
    values = sizes[groups] + rng.standard_normal(len(groups))
    sums = np.bincount(groups, values)
    assert mean_bounds(values, 0.975, groups) == pytest.approx(ratio_bounds(sums, sizes.astype(float), None, 0.975))


@settings(max_examples=25, deadline=None)
@given(shift=st.floats(-1e6, 1e6), scale=st.floats(1e-3, 1e3))
def test_bounds_move_and_stretch_with_the_values(shift: float, scale: float) -> None:
    values = np.random.default_rng(13).gamma(2, size=50)
    lower, upper = mean_bounds(values, 0.95)
    moved = mean_bounds(values * scale + shift, 0.95)
    expected = (lower * scale + shift, upper * scale + shift)
    assert moved == pytest.approx(expected, rel=1e-6, abs=1e-6 * max(1.0, abs(shift)))


def test_rows_that_do_not_differ_have_bounds_without_width() -> None:
    assert mean_bounds(np.full(20, 0.75), 0.95) == (0.75, 0.75)


def test_one_row_has_no_bounds() -> None:
    assert mean_bounds(np.ones(1), 0.95) == (-math.inf, math.inf)


def test_the_same_rows_give_the_same_bounds() -> None:
    values = np.random.default_rng(1).standard_normal(30)
    assert mean_bounds(values, 0.95) == mean_bounds(values, 0.95)


def test_a_lone_row_with_all_of_it_leaves_the_upper_end_open() -> None:
    values = np.zeros(30)
    values[4] = 0.01
    lower, upper = mean_bounds(values, 0.95)
    assert lower < values.mean()
    assert upper == math.inf


def test_many_rows_cost_no_more_and_have_students_bounds() -> None:
    values = np.random.default_rng(18).standard_normal(100_000)
    assert mean_bounds(values, 0.975) == pytest.approx(naive_bounds(values, 0.975), abs=3e-4)


def test_a_difference_that_grows_with_what_it_is_of_reaches_further_away_from_none() -> None:
    """On the scale of logarithms where it is clearly not 0, and the same on both sides of 0."""
    assert growing_bounds(2.0, (1.0, 3.0)) == pytest.approx((1.0, 2 * math.exp(0.5)))
    assert growing_bounds(-2.0, (-3.0, -1.0)) == pytest.approx((-2 * math.exp(0.5), -1.0))
    assert growing_bounds(1.0, (-2.0, 4.0)) == (-2.0, 4.0)
    assert growing_bounds(0.0, (-1.0, 1.0)) == (-1.0, 1.0)


def test_the_jackknife_is_a_loop_over_what_is_left_out() -> None:
    rng = np.random.default_rng(19)
    columns = np.stack([rng.random(40), rng.lognormal(0, 1, 40)], axis=1)
    groups = np.repeat(np.arange(10), 4)

    def ratio(means: Floats) -> Floats:
        return means[..., 0] / means[..., 1]

    for together, draws in ((np.arange(40), 40), (groups, 10)):
        left = np.array([float(ratio(columns[together != draw].mean(axis=0))) for draw in range(draws)])
        error = math.sqrt((draws - 1) / draws * ((left - left.mean()) ** 2).sum())
        found = jackknife(columns, ratio, None if draws == 40 else groups)
        assert found.value == pytest.approx(float(ratio(columns.mean(axis=0))))
        assert scatter_of(found).error == pytest.approx(error)


def test_the_jackknife_sees_what_a_slope_does_not() -> None:
    """A ratio that three of 60 rows have part in: without one of them it is another."""
    columns = np.zeros((60, 2))
    columns[:3] = [[1.0, 1.0], [1.0, 1.0], [0.0, 3.0]]

    def ratio(means: Floats) -> Floats:
        return means[..., 0] / means[..., 1]

    slope, left_out = linearise(columns, ratio), jackknife(columns, ratio, None)
    assert scatter_of(left_out).error > 1.5 * scatter_of(slope).error


def test_a_draw_that_the_statistic_cannot_do_without_leaves_the_slopes() -> None:
    columns = np.zeros((20, 2))
    columns[4] = [1.0, 2.0]
    with np.errstate(invalid="ignore"):
        found = jackknife(columns, lambda means: means[..., 0] / means[..., 1], None)
    assert found.value == 0.5
    assert np.isfinite(found.influence).all()
