"""Intervals of shares and of paired drops, against SciPy, plain slow references and simulation."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.stats import binomtest

from workers.evaluation.statistics.proportions import (
    Pairs,
    count_pairs,
    drop_bounds,
    drop_score,
    relative_drop_bounds,
    relative_drop_score,
    share_bounds,
)

COUNTS = st.integers(0, 60)
SOME_PAIRS = st.builds(Pairs, st.integers(1, 60), COUNTS, COUNTS, COUNTS)


def score_by_search(pairs: Pairs, contrast: tuple[float, float, float, float]) -> float:
    """The score statistic of Σ contrast·rate = 0, its restricted likelihood maximised numerically."""
    weights = np.array(contrast)
    counts = np.array([pairs.both, pairs.lost, pairs.gained, pairs.neither], dtype=float)
    total = counts.sum()

    def surprise(rates: NDArray[np.float64]) -> float:
        return -float(np.sum(counts * np.log(np.maximum(rates, 1e-300)))) / float(total)

    found = [
        minimize(
            surprise,
            start,
            method="SLSQP",
            bounds=[(1e-12, 1)] * 4,
            constraints=[
                {"type": "eq", "fun": lambda rates: rates.sum() - 1},
                {"type": "eq", "fun": lambda rates: weights @ rates},
            ],
            options={"maxiter": 1000, "ftol": 1e-14},
        )
        for start in ([0.25] * 4, [0.1, 0.4, 0.4, 0.1], [0.7, 0.1, 0.1, 0.1])
    ]
    best = min((entry for entry in found if abs(weights @ entry.x) < 1e-7), key=lambda entry: entry.fun)
    return float(weights @ counts / math.sqrt(total * (weights**2) @ best.x))


@pytest.mark.parametrize("counts", [(19, 20, 30, 38), (80, 9, 3, 8), (11, 33, 10, 16), (40, 1, 6, 2)])
@pytest.mark.parametrize("drop", [-0.3, -0.05, 0.01, 0.2, 0.45])
def test_scores_equal_a_restricted_likelihood_found_by_search(counts: tuple[int, int, int, int], drop: float) -> None:
    pairs = Pairs(*counts)
    assert drop_score(pairs, drop) == pytest.approx(
        score_by_search(pairs, (-drop, 1 - drop, -1 - drop, -drop)), abs=1e-4
    )
    assert relative_drop_score(pairs, drop) == pytest.approx(score_by_search(pairs, (-drop, 1 - drop, -1, 0)), abs=1e-4)


@given(rows=st.integers(1, 2000), share=st.floats(0, 1), confidence=st.sampled_from([0.9, 0.95, 0.975, 0.995]))
def test_share_bounds_are_scipys_wilson_interval_but_for_few_events(rows: int, share: float, confidence: float) -> None:
    right = round(share * rows)
    wilson, exact = (
        binomtest(right, rows).proportion_ci(2 * confidence - 1, method=method) for method in ("wilson", "exact")
    )
    few_right, few_wrong = 0 < right <= 3 and 2 * right < rows, 0 < rows - right <= 3 and 2 * right > rows
    expected = (
        min(wilson.low, exact.low) if few_right else wilson.low,
        max(wilson.high, exact.high) if few_wrong else wilson.high,
    )
    assert share_bounds(right, rows, confidence) == pytest.approx(expected, abs=1e-9)


@settings(deadline=None)
@given(pairs=SOME_PAIRS, confidence=st.sampled_from([0.5, 0.8, 0.95, 0.99]))
def test_bounds_hold_the_estimate_and_lie_where_the_score_is_the_quantile(pairs: Pairs, confidence: float) -> None:
    lower, upper = drop_bounds(pairs, confidence)
    assert -1 <= lower <= pairs.drop + 1e-9
    assert pairs.drop - 1e-9 <= upper <= 1
    wider = drop_bounds(pairs, min(confidence + 0.009, 0.999))
    assert wider[0] <= lower + 1e-9
    assert upper <= wider[1] + 1e-9
    if -0.999 < lower < pairs.drop - 1e-6:
        assert drop_score(pairs, lower) == pytest.approx(NormalDist().inv_cdf(confidence), abs=1e-3)


@given(pairs=SOME_PAIRS)
def test_exchanging_the_models_mirrors_the_drop(pairs: Pairs) -> None:
    lower, upper = drop_bounds(pairs, 0.95)
    other = drop_bounds(Pairs(pairs.both, pairs.gained, pairs.lost, pairs.neither), 0.95)
    assert other == pytest.approx((-upper, -lower), abs=1e-6)


@given(pairs=SOME_PAIRS)
def test_relative_bounds_hold_the_relative_drop(pairs: Pairs) -> None:
    lower, upper = relative_drop_bounds(pairs, 0.95)
    seen = 1 - (pairs.both + pairs.gained) / (pairs.both + pairs.lost)
    assert lower <= seen + 1e-9
    assert seen - 1e-9 <= upper <= 1


def test_a_relative_drop_is_the_drop_over_the_originals_share_where_that_is_one() -> None:
    pairs = Pairs(190, 10, 0, 0)  # the original is always right
    assert relative_drop_bounds(pairs, 0.95) == pytest.approx(share_drop_as_wilson(pairs), abs=2e-3)


def share_drop_as_wilson(pairs: Pairs) -> tuple[float, float]:
    lower, upper = share_bounds(pairs.both, pairs.rows, 0.95)
    return 1 - upper, 1 - lower


@pytest.mark.parametrize("rows", [1, 10, 100, 5000])
def test_without_disagreement_the_bounds_are_those_of_the_rule_of_z_squared(rows: int) -> None:
    reach = 1.6448536**2 / (rows + 1.6448536**2)
    assert drop_bounds(Pairs(rows, 0, 0, 0), 0.95) == pytest.approx((-reach, reach), abs=1e-6)
    assert drop_bounds(Pairs(0, 0, 0, rows), 0.95) == pytest.approx((-reach, reach), abs=1e-6)


def test_all_lost_and_all_gained_reach_the_ends() -> None:
    assert drop_bounds(Pairs(0, 10, 0, 0), 0.95)[1] == 1
    assert drop_bounds(Pairs(0, 0, 10, 0), 0.95)[0] == -1


def test_a_model_that_was_never_right_has_no_relative_drop() -> None:
    with pytest.raises(ValueError, match="never right"):
        relative_drop_bounds(Pairs(0, 0, 5, 10), 0.95)


def test_pairs_are_counted_row_by_row() -> None:
    original = np.array([1, 1, 0, 0, 1], bool)
    artifact = np.array([1, 0, 1, 0, 1], bool)
    assert count_pairs(original, artifact) == Pairs(both=2, lost=1, gained=1, neither=1)


@pytest.mark.parametrize(
    ("rows", "rates"),
    [(140, (0.80, 0.05, 0.03, 0.12)), (300, (0.90, 0.01, 0.01, 0.08)), (60, (0.50, 0.20, 0.10, 0.20))],
)
def test_one_sided_bounds_of_the_drop_cover(rows: int, rates: tuple[float, ...]) -> None:
    """Each end misses about 5 % of the time; more than 7 % would be a broken promise."""
    rng = np.random.default_rng(7)
    draws, counts = np.unique(rng.multinomial(rows, rates, size=1500), axis=0, return_counts=True)
    drop, relative = rates[1] - rates[2], (rates[1] - rates[2]) / (rates[0] + rates[1])
    missed = np.zeros(4)
    for draw, times in zip(draws, counts, strict=True):
        pairs = Pairs(*(int(count) for count in draw))
        lower, upper = drop_bounds(pairs, 0.95)
        relative_lower, relative_upper = relative_drop_bounds(pairs, 0.95)
        missed += times * np.array([lower > drop, upper < drop, relative_lower > relative, relative_upper < relative])
    assert (missed / 1500).max() < 0.07
    assert (missed[:2].sum() / 1500) > 0.02, "wider than it must be"


@settings(max_examples=20)
@given(factor=st.integers(2, 50))
def test_more_rows_at_the_same_rates_narrow_the_bounds(factor: int) -> None:
    pairs = Pairs(85, 5, 2, 8)
    lower, upper = drop_bounds(pairs, 0.95)
    scaled = pairs.scaled(factor)
    assert scaled.rows == factor * pairs.rows
    narrower = drop_bounds(scaled, 0.95)
    assert lower < narrower[0] < pairs.drop < narrower[1] < upper
