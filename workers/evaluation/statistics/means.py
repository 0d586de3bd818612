"""Intervals of ratios of sums, such as means, and of anything that influence values make a mean of.

The studentised bootstrap (B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993, section 12.5): each
resample is measured in its own standard errors, so that a skewed sample (a few rows with most of the error) moves both
ends by as much as it should. A sample lacks what lies beyond its extremes, so resamples are drawn from one whose tails
go on (`tails`). A ratio's bounds are the ratios that its draws do not contradict (E. Fieller, "Some problems in
interval estimation", Journal of the Royal Statistical Society B 16 (1954)): they need no division by a sum that is
itself uncertain. Rows in groups are drawn by whole groups.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from workers.evaluation.statistics import tails
from workers.evaluation.statistics.clusters import Codes, Floats, group_sizes, group_sums
from workers.evaluation.statistics.linear import Ends, Linearised, draw_influence

Statistic = Callable[[Floats], Floats]
"""From means of the columns, shape [..., columns], to values, shape [...]."""

# This many keep the noise of a 95 % bound below 3 % of its width.
_RESAMPLES = 2_000
_MOST_RESAMPLES = 20_000
_TAIL = 50  # resamples beyond a bound, at least
_CELLS = 50_000  # of the block of resamples held at once: what a cache holds
_MOST_DRAWS = 20_000
"""Of a resample: the skew of more is less than what these have, so that theirs is safe, and costs no more."""

_STEP = 1e-5  # of the spread
_LEAST_STEP = 1e-10  # of the value


def estimate(columns: Floats, statistic: Statistic) -> float:
    """The statistic of all rows; `columns` has the shape [rows, columns]."""
    return float(statistic(columns.mean(axis=0)))


def linearise(columns: Floats, statistic: Statistic, step: float = 1.0) -> Linearised:
    """The statistic of all rows with the influence of each; `step` is that of a row that goes wholly wrong."""
    means = columns.mean(axis=0)
    slopes = _slopes(means[np.newaxis], statistic, columns.std(axis=0))[0]
    return Linearised(estimate(columns, statistic), (columns - means) @ slopes, step)


def jackknife(columns: Floats, statistic: Statistic, groups: Codes | None, step: float = 1.0) -> Linearised:
    """As `linearise`, the influence by leaving out each draw.

    Of a mean of ratios, some of which few rows have part in, that is their scatter, and the slope is less (B. Efron and
    C. Stein, "The jackknife estimate of variance", Annals of Statistics 9 (1981)). Where a draw alone has a part that
    the statistic cannot do without, the slopes are all there is.
    """
    rows = len(columns)
    sums, sizes = (columns, np.ones(rows)) if groups is None else (group_sums(columns, groups), group_sizes(groups))
    found = linearise(columns, statistic, step)
    if len(sums) < 2:
        return found
    without = statistic((columns.sum(axis=0) - sums) / (rows - sizes)[:, np.newaxis])
    if not np.isfinite(without).all():
        return found
    influence = (len(sums) - 1) * (without.mean() - without)
    if groups is None:
        return Linearised(found.value, influence, step)
    return Linearised(found.value, (influence * rows / len(sums) / sizes)[groups], step, groups)


def ratio_bounds(
    numerators: Floats, denominators: Floats, groups: Codes | None, confidence: float, *, seed: int = 0
) -> Ends:
    """Lower and upper bound of the ratio of two sums, each one-sided at `confidence`.

    Both have the shape [rows], and the denominators' sum is above 0. Infinite where a bound cannot be had from so few
    rows; both equal the ratio where no row differs from another.
    """
    if groups is not None:
        numerators, denominators = group_sums(numerators, groups), group_sums(denominators, groups)
    value = float(numerators.sum() / denominators.sum())
    draws = len(numerators)
    if draws < 2:
        return -math.inf, math.inf
    # Of each draw what it has beyond its part of the ratio: of mean 0, and little is lost to rounding.
    excess = numerators - value * denominators
    scale = float(np.abs(excess).max())
    if scale <= 1e-15 * float(np.abs(numerators).max()):
        return value, value
    excess = excess / scale
    low, high = student_quantiles(excess, confidence, seed=seed)
    middle = float(denominators.mean())
    apart = denominators - middle
    own, both, other = (float(each) / (draws - 1) / draws for each in (excess @ excess, excess @ apart, apart @ apart))
    variances = (own, both, other)
    below = _crossing(middle, variances, high)
    above = _crossing(middle, variances, low)
    return value - scale * below, value + scale * above


def influence_bounds(found: Linearised, groups: Codes | None, confidence: float, *, seed: int = 0) -> Ends:
    """As `ratio_bounds`, of an estimate by the influence of its rows."""
    parts = draw_influence(found, groups)
    return ratio_bounds(parts + found.value, np.ones(len(parts)), None, confidence, seed=seed)


def growing_bounds(value: float, ends: Ends) -> Ends:
    """Bounds of a difference that grows with what it is of, such as of two exponentials, from those of its influence.

    The estimate's error is then the less the smaller it is by chance. Where it is clearly not 0, the end away from 0
    is as far off on the scale of its logarithm.
    """
    lower, upper = ends
    if value > 0 and upper < 2 * value:
        return lower, value * math.exp(upper / value - 1)
    if value < 0 and lower > 2 * value:
        return value * math.exp(lower / value - 1), upper
    return ends


def student_quantiles(draws: Floats, confidence: float, *, seed: int = 0) -> Ends:
    """How many of its own standard errors a mean may lie from the truth, below and above, each one-sided.

    `draws` [draws] have mean 0. Never less than of Student's t, though a skewed mean errs less far to one side.
    """
    population = tails.completed(draws)
    population = population - population.mean()
    count = min(len(draws), _MOST_DRAWS)
    resamples = min(max(_RESAMPLES, math.ceil(_TAIL / (1 - confidence))), _MOST_RESAMPLES)
    distances = np.empty(resamples)
    block = max(1, min(resamples, _CELLS // count))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = population.take(_places(len(population), size, count, seed + start))
        shifts = drawn.mean(axis=1)
        variance = np.einsum("rd,rd->r", drawn, drawn) / count - shifts**2
        distances[start : start + size] = _studentised(shifts, variance / (count - 1))
    low, high = np.quantile(distances, [1 - confidence, confidence], method="closest_observation")
    reach = float(stdtrit(len(draws) - 1, confidence))
    return min(float(low), -reach), max(float(high), reach)


@lru_cache(maxsize=32)
def _places(population: int, resamples: int, draws: int, seed: int) -> NDArray[np.intp]:
    """What resamples draw, [resamples, draws]; the same again for the next sample of this size."""
    return np.random.default_rng(seed).integers(0, population, (resamples, draws), dtype=np.intp)


def _crossing(middle: float, variances: tuple[float, float, float], quantile: float) -> float:
    """How far from the ratio the draws contradict another: where it lies so many of its own standard errors off.

    `variances` are of the mean excess, of it with the mean denominator, and of that one.
    """
    if not math.isfinite(quantile):
        return math.inf
    own, both, other = (quantile * quantile * each for each in variances)
    square = middle * middle - other
    if square <= 0:
        return math.inf
    # (middle · r)² = q² · (own - 2r · both + r² · other), of which the root on the quantile's side.
    side = math.copysign(1.0, quantile)
    return (side * both + math.sqrt(both * both + square * own)) / square


def _studentised(shifts: Floats, variance: Floats) -> Floats:
    """Shifts in their own standard errors; a resample of equal rows is infinitely far off."""
    error = np.sqrt(np.maximum(variance, 0.0))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(error > 0, shifts / error, np.where(shifts == 0, 0.0, np.copysign(np.inf, shifts)))


def _slopes(means: Floats, statistic: Statistic, scale: Floats) -> Floats:
    """The statistic's gradient at each row of `means`, by central differences; shape of `means`."""
    slopes = np.zeros_like(means)
    for column in range(means.shape[-1]):
        # Small against the spread, for some columns vary in their last digits only; but not lost in rounding.
        step = np.maximum(_STEP * scale[column], _LEAST_STEP * np.abs(means[:, column]))
        step[step == 0] = 1.0
        above, below = means.copy(), means.copy()
        above[:, column] += step
        below[:, column] -= step
        slopes[:, column] = (statistic(above) - statistic(below)) / (above[:, column] - below[:, column])
    return slopes
