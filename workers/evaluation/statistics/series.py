"""Intervals of the median of a series whose neighbours are alike, such as the times of calls one after another.

Calls that follow each other share what disturbs them, so that many tell less than as many independent ones would:
with a correlation of 0.8 from one to the next, a plain bootstrap's 95 % interval of the median covers it in half of
all cases. How much less is read from the series itself. Its ranks become normal scores, an autoregression is fitted
to those (Yule-Walker; its order by Akaike's criterion), and the arcsine law turns their correlation into that of
being above the median, which is what the scatter of a median depends on. The interval is then that of order
statistics for so many independent samples.

Nothing here imports SciPy, which would take a timing process longer than its warm-up.
"""

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MOST_LAGS = 10
_ROWS_A_LAG = 20
_FAR = 400  # lags beyond which nothing is summed
_MOST_PERSISTENT = 0.99
_LEAST_INDEPENDENT = 4.0  # fewer leave an interval no meaning


def median_bounds(samples: Floats, confidence: float) -> tuple[float, float]:
    """Lower and upper bound of the median, each one-sided at `confidence`.

    `samples` has the shape [calls], in the order they were made. The ends are samples, and at most the least and the
    greatest. Raises ValueError for fewer than two.
    """
    count = len(samples)
    if count < 2:
        raise ValueError("one sample has no interval")
    independent = max(count / correlation_time(samples), _LEAST_INDEPENDENT)
    reach = 0.5 * student_quantile(confidence, independent - 1) / math.sqrt(independent)
    ordered = np.sort(samples)
    lower = math.floor((0.5 - reach) * count - 0.5)
    upper = math.ceil((0.5 + reach) * count - 0.5)
    return float(ordered[max(lower, 0)]), float(ordered[min(upper, count - 1)])


def correlation_time(samples: Floats) -> float:
    """How many samples of the series tell as much of its median as one independent sample would; at least 1."""
    count = len(samples)
    if count < 2 * _ROWS_A_LAG or samples.min() == samples.max():
        return 1.0
    scores = _normal_scores(samples)
    weights = _autoregression(scores, min(_MOST_LAGS, count // _ROWS_A_LAG))
    if len(weights) == 0:
        return 1.0
    persistence = float(weights.sum())
    if persistence > 0:
        # Yule-Walker finds too little: M. H. Quenouille, "Approximate tests of correlation in time-series", 1949.
        weights = weights * min(persistence + (2 + 4 * persistence) / count, _MOST_PERSISTENT) / persistence
    correlations = np.clip(_correlations(weights, min(count - 1, _FAR)), -1.0, 1.0)
    # The arcsine law: W. F. Sheppard, "On the application of the theory of error …", 1899.
    return max(1 + 2 * float((2 / math.pi * np.arcsin(correlations)).sum()), 1.0)


def student_quantile(confidence: float, freedom: float) -> float:
    """Student's t by its expansion in the normal quantile, to 1 % from 4 degrees of freedom on at 97.5 %.

    M. Abramowitz and I. Stegun, "Handbook of Mathematical Functions", 26.7.5.
    """
    z = NormalDist().inv_cdf(confidence)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom ** (order + 1) for order, term in enumerate(terms))


@lru_cache(maxsize=8)
def _quantiles(count: int) -> Floats:
    normal = NormalDist()
    return np.array([normal.inv_cdf((rank + 0.5) / count) for rank in range(count)])


def _normal_scores(samples: Floats) -> Floats:
    """The normal quantile of each sample's rank; equal ones keep their order, as if they differed a little."""
    ranks = np.empty(len(samples), np.intp)
    ranks[np.argsort(samples, kind="stable")] = np.arange(len(samples))
    return _quantiles(len(samples))[ranks]


def _autoregression(scores: Floats, most_lags: int) -> Floats:
    """Weights of the previous values by the Levinson-Durbin recursion, of the order that Akaike's criterion prefers."""
    count = len(scores)
    spectrum = np.fft.rfft(scores - scores.mean(), 2 * count)
    covariance = np.fft.irfft(spectrum * spectrum.conj())[: most_lags + 1] / count
    weights, variance = np.empty(0), float(covariance[0])
    best, least = weights, count * math.log(variance)
    for order in range(1, most_lags + 1):
        partial = float(covariance[order] - weights @ covariance[order - 1 : 0 : -1]) / variance
        weights = np.append(weights - partial * weights[::-1], partial)
        variance *= 1 - partial * partial
        if variance <= 0:
            break
        criterion = count * math.log(variance) + 2 * order
        if criterion < least:
            best, least = weights, criterion
    return best


def _correlations(weights: Floats, lags: int) -> Floats:
    """Correlations at 1 to `lags` of an autoregression with these weights, by the Yule-Walker equations."""
    order = len(weights)
    equations = np.eye(order)
    known = np.zeros(order)
    for lag in range(1, order + 1):
        for back, weight in enumerate(weights, 1):
            if lag == back:
                known[lag - 1] += weight
            else:
                equations[lag - 1, abs(lag - back) - 1] -= weight
    found = list(np.linalg.solve(equations, known))
    while len(found) < lags:
        found.append(float(weights @ np.array(found[: -order - 1 : -1])))
    return np.array(found[:lags])
