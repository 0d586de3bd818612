"""Intervals of the median of series whose neighbours are alike, on simulated series whose median is known."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from workers.evaluation.statistics.series import correlation_time, median_bounds, student_quantile


def series(correlation: float, calls: int, count: int, *, seed: int = 0) -> np.ndarray:
    """Normal series around 0 in which each value remembers so much of the one before, shape [count, calls]."""
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal((count, calls))
    found = np.empty_like(noise)
    found[:, 0] = noise[:, 0]
    for call in range(1, calls):
        found[:, call] = correlation * found[:, call - 1] + math.sqrt(1 - correlation**2) * noise[:, call]
    return found


def coverage(samples: np.ndarray, truth: float) -> float:
    ends = np.array([median_bounds(one, 0.975) for one in samples])
    return float(((ends[:, 0] <= truth) & (truth <= ends[:, 1])).mean())


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.8])
@pytest.mark.parametrize("shape", ["normal", "skewed"])
def test_the_median_is_inside_as_often_as_promised(correlation: float, shape: str) -> None:
    """1,500 series: the standard error of a coverage of 95 % is 0.6 points."""
    samples = series(correlation, 140, 1_500)
    if shape == "skewed":
        samples = np.exp(samples)
    assert coverage(samples, 0.0 if shape == "normal" else 1.0) >= 0.93


def test_what_ignores_the_likeness_of_neighbours_would_be_seen() -> None:
    """The same simulation with an interval for independent samples: order statistics by the binomial."""
    samples = np.sort(series(0.8, 140, 500), axis=1)
    low = int(stats.binom.ppf(0.025, 140, 0.5))
    inside = (samples[:, low - 1] <= 0) & (samples[:, 140 - low] >= 0)
    assert inside.mean() < 0.7


def test_of_independent_samples_it_is_hardly_wider_than_the_exact_interval() -> None:
    low = int(stats.binom.ppf(0.025, 140, 0.5))
    ours, exact = [], []
    for one in series(0.0, 140, 400, seed=1):
        lower, upper = median_bounds(one, 0.975)
        ordered = np.sort(one)
        ours.append(upper - lower)
        exact.append(ordered[140 - low] - ordered[low - 1])
    assert np.mean(ours) < 1.3 * np.mean(exact)


def test_its_width_is_that_of_the_medians_scatter() -> None:
    samples = series(0.5, 500, 400, seed=2)
    widths = [upper - lower for lower, upper in (median_bounds(one, 0.975) for one in samples)]
    assert np.mean(widths) == pytest.approx(2 * 1.96 * np.median(samples, axis=1).std(), rel=0.15)


@pytest.mark.parametrize(("correlation", "expected"), [(0.0, 1.0), (0.5, 2.2), (0.8, 5.9)])
def test_how_many_calls_tell_as_much_as_one_alone(correlation: float, expected: float) -> None:
    """By the arcsine law: one and twice the sum of 2/π · asin(ρ^lag)."""
    exact = 1 + 2 * sum(2 / math.pi * math.asin(correlation**lag) for lag in range(1, 200))
    assert exact == pytest.approx(expected, rel=0.15)
    found = np.median([correlation_time(one) for one in series(correlation, 2_000, 100, seed=3)])
    assert found == pytest.approx(exact, rel=0.2)


@pytest.mark.parametrize("freedom", [3, 5, 10, 40])
@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.975])
def test_student_s_quantile_is_scipy_s(freedom: int, confidence: float) -> None:
    assert student_quantile(confidence, freedom) == pytest.approx(stats.t.ppf(confidence, freedom), rel=0.01)


@given(arrays.arrays(np.float64, st.integers(2, 300), elements=st.floats(1e-6, 1e6)))
def test_ends_are_samples_on_either_side_of_the_median(samples: np.ndarray) -> None:
    lower, upper = median_bounds(samples, 0.975)
    assert lower in samples
    assert upper in samples
    assert lower <= np.median(samples) <= upper


@given(st.floats(1e-3, 1e3), st.integers(2, 500))
def test_a_series_without_scatter_has_no_width(value: float, calls: int) -> None:
    assert median_bounds(np.full(calls, value), 0.975) == (value, value)


def test_one_sample_has_no_interval() -> None:
    with pytest.raises(ValueError, match="one sample"):
        median_bounds(np.array([1.0]), 0.975)
