"""How heavy the tails of a sample are, and what they would go on to beyond its extremes.

The greatest of a sample are fitted by a generalized Pareto distribution, to which the tails of almost any distribution
come near (J. Pickands, "Statistical inference using extreme order statistics", Annals of Statistics 3 (1975)). Its
shape says how many moments there are: from 1/2 on there is no variance, and no interval of a mean holds as it says.
"""

import math
from dataclasses import dataclass

import numpy as np

from workers.evaluation.statistics.clusters import Floats

_LEAST = 5
"""Fewer values beyond a threshold tell no shape."""

_CELLS = 4096
"""Of a completed sample, at least: what it takes beyond the extremes is then known to a thirtieth of a draw."""

_SHAPE, _VALUES = 0.25, 10.0
"""What a tail is drawn towards, and as how many values that counts: between an exponential's shape and no variance."""

_NO_VARIANCE = 0.5
_LIMITS = (-0.5, 0.75)


@dataclass(frozen=True, slots=True)
class Tail:
    """A generalized Pareto distribution of what lies beyond `threshold`, which so many (`count`) values do."""

    threshold: float
    scale: float
    shape: float
    count: int

    def towards(self, shape: float, values: float) -> float:
        """The shape, had so many values more been seen that have this one."""
        return (self.shape * self.count + shape * values) / (self.count + values)


def upper_tail(values: Floats) -> Tail | None:
    """The upper tail of a sample; None where too few lie beyond its threshold.

    It is as long as in A. Vehtari and others, "Pareto smoothed importance sampling", Journal of Machine Learning
    Research 25 (2024).
    """
    count = len(values)
    kept = math.ceil(min(0.2 * count, 3 * math.sqrt(count)))
    if kept < _LEAST or kept >= count:
        return None
    ordered = np.sort(values)[-kept - 1 :]
    beyond = ordered[1:] - ordered[0]
    beyond = beyond[beyond > 0]
    if len(beyond) < _LEAST:
        return None
    shape, scale = _pareto(beyond)
    return Tail(float(ordered[0]), scale, shape, len(beyond))


def is_heavy(draws: Floats) -> bool:
    """Whether a tail of draws is such that their mean has no variance, as far as they tell.

    A tail of fewer values than what it is drawn towards counts for, of fewer than 46 draws, tells nothing.
    """
    found = (upper_tail(draws), upper_tail(-draws))
    return any(
        tail is not None and tail.count >= _VALUES and tail.towards(_SHAPE, _VALUES) > _NO_VARIANCE for tail in found
    )


def completed(values: Floats) -> Floats:
    """Equally likely values: the sample's own, and in place of its extremes what its tails are likely to go on to.

    R. Davidson and E. Flachaire, "Asymptotic and bootstrap inference for inequality and poverty measures", Journal of
    Econometrics 141 (2007), resample from the like.
    """
    copies = max(math.ceil(_CELLS / len(values)), 1)
    found = np.repeat(np.sort(values), copies)
    for sign, ends in ((1, slice(-1, None, -1)), (-1, slice(None, None, 1))):
        tail = upper_tail(sign * values)
        if tail is not None:
            beyond = _spread(tail.count * copies, tail.towards(_SHAPE, _VALUES))
            found[ends][: len(beyond)] = sign * (tail.threshold + tail.scale * beyond[::-1])
    return found


def _spread(cells: int, shape: float) -> Floats:
    """So many equally likely values of the distribution of scale 1; the last is the mean of all beyond it."""
    shape = min(max(shape, _LIMITS[0]), _LIMITS[1])
    shape = shape if abs(shape) > 1e-6 else 1e-6
    left = (np.arange(cells, 0, -1) - 0.5) / cells
    found = np.expm1(-shape * np.log(left)) / shape
    found[-1] = (cells**shape / (1 - shape) - 1) / shape
    return np.asarray(found)


def _pareto(beyond: Floats) -> tuple[float, float]:
    """Shape and scale of positive values in ascending order.

    The posterior mean of J. Zhang and M. Stephens, "A new and efficient estimation method for the generalized Pareto
    distribution", Technometrics 51 (2009).
    """
    count = len(beyond)
    points = 30 + math.isqrt(count)
    quartile = beyond[max(math.floor(count / 4 + 0.5) - 1, 0)]
    places = 1 / beyond[-1] + (1 - np.sqrt(points / (np.arange(1, points + 1) - 0.5))) / (3 * quartile)
    places = np.where(np.abs(places) * beyond[-1] < 1e-9, -1e-9 / beyond[-1], places)
    shapes = np.log1p(-places[:, np.newaxis] * beyond).mean(axis=1)
    likelihood = count * (np.log(-places / shapes) - shapes - 1)
    weights = np.exp(likelihood - likelihood.max())
    place = float(weights @ places / weights.sum())
    if abs(place) * beyond[-1] < 1e-9:
        place = -1e-9 / float(beyond[-1])
    shape = float(np.log1p(-place * beyond).mean())
    return shape, -shape / place
