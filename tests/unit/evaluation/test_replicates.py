"""Intervals across a few children."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, t

from workers.evaluation.statistics.replicates import median, replicate_bounds

VALUES = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=12)


@given(values=VALUES)
def test_bounds_hold_the_median_and_widen_with_confidence(values: list[float]) -> None:
    lower, upper = replicate_bounds(values, 0.95)
    wider = replicate_bounds(values, 0.99)
    assert wider[0] <= lower <= median(values) <= upper <= wider[1]


@given(values=VALUES)
def test_bounds_of_the_reciprocals_are_the_reciprocals_of_the_bounds(values: list[float]) -> None:
    """What is true of latencies is true of throughputs, where the median has one middle value."""
    values = values if len(values) % 2 else values[1:] + [1.0, 2.0][: 2 - (len(values) - 1) % 2]
    if len(values) < 3 or len(values) % 2 == 0:
        return
    lower, upper = replicate_bounds(values, 0.975)
    assert replicate_bounds([1 / value for value in values], 0.975) == pytest.approx((1 / upper, 1 / lower), rel=1e-9)


def test_it_is_students_interval_on_logarithms_where_that_is_the_wider() -> None:
    values = [1.0, 1.02, 0.98]
    logs = np.log(values)
    reach = t.ppf(0.975, 2) * logs.std(ddof=1) / math.sqrt(3)
    expected = (math.exp(logs.mean() - reach), math.exp(logs.mean() + reach))
    assert replicate_bounds(values, 0.975) == pytest.approx(expected)


def test_two_modes_are_both_inside() -> None:
    """0.084 ms in four processes and 0.163 in the fifth: an engineer must see both."""
    lower, upper = replicate_bounds([0.084, 0.0841, 0.163, 0.0839, 0.0842], 0.975)
    assert lower < 0.084
    assert upper >= 0.163


@pytest.mark.parametrize("count", [6, 9, 20])
def test_order_statistics_of_the_sign_test(count: int) -> None:
    """With values so skewed that the t interval is narrower on one side, the ranks are the binomial's."""
    values = [1.0] * (count // 2) + [1.0 + 1e-9 * index for index in range(1, count - count // 2)] + [1e9]
    rank = int(binom.ppf(0.025, count, 0.5))
    lower, upper = replicate_bounds(values, 0.975)
    assert lower <= sorted(values)[rank - 1]
    assert upper >= sorted(values)[-rank]


@pytest.mark.parametrize("count", [3, 5, 8])
def test_bounds_cover_the_typical_process(count: int) -> None:
    rng = np.random.default_rng(21)
    trials = 1500
    both = upper_only = 0
    for _ in range(trials):
        values = [float(value) for value in np.exp(0.03 * rng.standard_normal(count))]
        lower, upper = replicate_bounds(values, 0.975)
        both += lower <= 1 <= upper
        upper_only += replicate_bounds(values, 0.95)[1] >= 1
    assert both / trials > 0.935
    assert upper_only / trials > 0.935


def test_a_zero_among_the_values_has_bounds_on_the_values_themselves() -> None:
    reach = t.ppf(0.95, 2) * np.std([0, 3, 6], ddof=1) / math.sqrt(3)
    assert replicate_bounds([0.0, 3.0, 6.0], 0.95) == pytest.approx((0, 3 + reach))


@pytest.mark.parametrize("values", [[1.0], [1.0, -2.0]])
def test_what_has_no_interval_is_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="interval"):
        replicate_bounds(values, 0.95)
