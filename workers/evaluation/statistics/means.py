"""Intervals of what is a smooth function of row means, such as a mean itself or a ratio of sums.

The studentised bootstrap over rows (B. Efron and R. Tibshirani, "An Introduction to the Bootstrap",
1993, section 12.5): each resample is measured in its own standard errors, so that a skewed sample (a
few rows with most of the error) moves both ends by as much as it should. The standard error is that
of the linearised statistic. Paired comparisons put the columns of both sides next to each other, so
that a resample draws the same rows for both. Rows in groups are drawn by whole groups.
"""

import math
from collections.abc import Callable

import numpy as np

from workers.evaluation.statistics.clusters import Codes, Floats, group_count, group_sizes, group_sums
from workers.evaluation.statistics.linear import Linearised

Statistic = Callable[[Floats], Floats]
"""From means of the columns, shape [..., columns], to values, shape [...]."""

# A resample costs about 30 ns a row; this many keep the noise of a 95 % bound below 3 % of its width.
_RESAMPLES = 2_000
_MOST_RESAMPLES = 20_000
_TAIL = 50  # resamples beyond a bound, at least
_CELLS = 100_000  # of the block of counts held at once: what a cache holds
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


def standard_error(columns: Floats, statistic: Statistic) -> float:
    """The linearised standard error of the statistic."""
    return float(linearise(columns, statistic).influence.std(ddof=1)) / math.sqrt(len(columns))


def by_group(columns: Floats, groups: Codes, statistic: Statistic) -> tuple[Floats, Statistic]:
    """Groups in the place of rows: sums of the columns and of ones, and the statistic as one of these."""
    sums = np.concatenate([group_sums(columns, groups), group_sizes(groups)[:, np.newaxis]], axis=1)
    return sums * (group_count(groups) / len(columns)), lambda means: statistic(means[..., :-1] / means[..., -1:])


def bootstrap_bounds(columns: Floats, statistic: Statistic, confidence: float, *, seed: int = 0) -> tuple[float, float]:
    """Lower and upper bound of the statistic, each one-sided at `confidence`.

    `columns` has the shape [rows, columns]. Infinite where a bound cannot be had from so few rows;
    both equal the estimate where no row differs from another.
    """
    rows, width = columns.shape
    value = estimate(columns, statistic)
    if rows < 2:
        return -math.inf, math.inf
    spread = columns.std(axis=0)
    error = standard_error(columns, statistic)
    if error == 0:
        return value, value

    # Moments of the centred columns, so that little is lost where they are near a constant.
    means = columns.mean(axis=0)
    centred = columns - means
    upper = np.triu_indices(width)
    moments = np.concatenate([centred, centred[:, upper[0]] * centred[:, upper[1]]], axis=1)

    resamples = min(max(_RESAMPLES, math.ceil(_TAIL / (1 - confidence))), _MOST_RESAMPLES)
    rng = np.random.default_rng(seed)
    distances = np.empty(resamples)
    block = max(1, min(resamples, _CELLS // rows))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = _counts(rng, size, rows) @ moments / rows
        shifts = drawn[:, :width]
        covariance = np.empty((size, width, width))
        covariance[:, upper[0], upper[1]] = drawn[:, width:]
        covariance[:, upper[1], upper[0]] = drawn[:, width:]
        covariance -= shifts[:, :, np.newaxis] * shifts[:, np.newaxis, :]
        slopes = _slopes(means + shifts, statistic, spread)
        variance = np.einsum("ri,rij,rj->r", slopes, covariance, slopes) / (rows - 1)
        distances[start : start + size] = _studentised(statistic(means + shifts) - value, variance)
    low, high = np.quantile(distances, [confidence, 1 - confidence], method="closest_observation")
    return float(value - low * error), float(value - high * error)


def _counts(rng: np.random.Generator, resamples: int, rows: int) -> Floats:
    """How often each resample draws each row; shape [resamples, rows]."""
    draws = rng.integers(0, rows, (resamples, rows), dtype=np.int32)
    draws += np.arange(resamples, dtype=np.int32)[:, np.newaxis] * rows
    return np.bincount(draws.ravel(), minlength=resamples * rows).reshape(resamples, rows).astype(np.float64)


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
