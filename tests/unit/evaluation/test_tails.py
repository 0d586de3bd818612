"""How heavy a tail is, and what a sample lacks of it: against SciPy's distributions, on known tails."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from workers.evaluation.statistics.tails import completed, is_heavy, upper_tail

Floats = NDArray[np.float64]


def shapes(shape: float, rows: int, sets: int = 60) -> Floats:
    """The shapes found of samples of a generalized Pareto distribution, which is its own tail."""
    rng = np.random.default_rng(4)
    drawn = stats.genpareto.rvs(shape, size=(sets, rows), random_state=rng)
    found = [upper_tail(one) for one in drawn]
    return np.array([tail.shape for tail in found if tail is not None])


@pytest.mark.parametrize("shape", [-0.3, 0.0, 0.4, 0.9])
def test_the_shape_of_a_known_tail_is_found(shape: float) -> None:
    found = shapes(shape, 2000)
    assert len(found) == 60
    # What lies beyond 1,865 of 2,000 values scatters by about (1 + shape) / √135.
    assert found.mean() == pytest.approx(shape, abs=0.06)
    assert found.std() < 1.5 * (1 + max(shape, 0)) / math.sqrt(135)


def test_it_agrees_with_the_likelihood_of_the_same_values() -> None:
    """The posterior mean is near the maximum of the likelihood, which SciPy finds by search."""
    rng, pairs = np.random.default_rng(8), []
    for _ in range(10):
        values = rng.lognormal(0, 1, 2000)
        tail = upper_tail(values)
        assert tail is not None
        beyond = np.sort(values)[-tail.count :] - tail.threshold
        shape, _, scale = stats.genpareto.fit(beyond, floc=0)
        pairs.append((tail.shape - shape, math.log(tail.scale / scale)))
    assert np.abs(np.mean(pairs, axis=0)).max() < 0.05


def test_too_few_or_equal_values_have_no_tail() -> None:
    assert upper_tail(np.arange(10.0)) is None
    assert upper_tail(np.ones(200)) is None
    assert upper_tail(np.repeat([0.0, 1.0], [197, 3])) is None


def test_what_is_completed_has_the_samples_body_and_goes_on_beyond_it() -> None:
    values = np.random.default_rng(2).exponential(size=150)
    found = completed(values)
    assert (np.diff(found) >= 0).all()
    assert np.median(found) == pytest.approx(np.median(values), rel=0.02)
    assert found.mean() == pytest.approx(values.mean(), rel=0.1)
    assert found[-1] > values.max()
    # One of 4,000 exponential values lies beyond log(4,000).
    assert 0.5 * math.log(len(found)) < found[-1] < 3 * math.log(len(found))


@pytest.mark.parametrize("shape", [0.1, 0.4])
def test_beyond_the_threshold_it_is_the_known_distribution(shape: float) -> None:
    """Shares of the completed sample beyond far places, against the distribution it was drawn from."""
    rng, far = np.random.default_rng(3), stats.genpareto.ppf(0.995, shape)
    seen = [(completed(stats.genpareto.rvs(shape, size=400, random_state=rng)) > far).mean() for _ in range(100)]
    assert np.mean(seen) == pytest.approx(0.005, rel=0.3)


def test_samples_without_a_tail_are_left_as_they_are() -> None:
    values = np.repeat([0.0, 1.0], [60, 3])
    found = completed(values)
    assert sorted(set(found)) == [0.0, 1.0]
    assert found.mean() == pytest.approx(values.mean())


@settings(max_examples=25, deadline=None)
@given(shift=st.floats(-1e3, 1e3), scale=st.floats(1e-3, 1e3))
def test_it_moves_and_stretches_with_the_values(shift: float, scale: float) -> None:
    values = np.random.default_rng(13).lognormal(size=80)
    expected = completed(values) * scale + shift
    assert completed(values * scale + shift) == pytest.approx(expected, rel=1e-5, abs=1e-5 * max(scale, abs(shift)))


def test_both_sides_are_completed_alike() -> None:
    values = np.random.default_rng(14).lognormal(size=140)
    assert completed(-values) == pytest.approx(-completed(values)[::-1])


@pytest.mark.parametrize("shape", ["standard_normal", "exponential", "uniform", "logistic"])
def test_ordinary_samples_are_not_called_heavy(shape: str) -> None:
    rng = np.random.default_rng(5)
    drawn = getattr(rng, shape)(size=(300, 140))
    assert np.mean([is_heavy(one - one.mean()) for one in drawn]) < 0.05


def test_samples_that_no_interval_holds_of_are() -> None:
    rng = np.random.default_rng(6)
    for drawn in (rng.lognormal(0, 2, (100, 500)), rng.pareto(1.5, (100, 500)), rng.standard_cauchy((100, 500))):
        assert np.mean([is_heavy(one - one.mean()) for one in drawn]) > 0.7


def test_so_few_rows_that_they_tell_nothing_are_not_called_heavy() -> None:
    few, more = (((np.arange(rows) + 0.5) / rows) ** -1.5 for rows in (45, 60))
    tail = upper_tail(few)
    assert tail is not None
    assert tail.shape > 0.9
    assert not is_heavy(few)
    assert is_heavy(more)
