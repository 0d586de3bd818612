"""Intervals of a quantity, such as a time or bytes, that a few fresh processes measured, one value each.

A process is one draw: its memory layout, its threads' places. Within a process samples repeat the
draw, so only the values across processes say how far the next one may be.
"""

import math
import statistics
from collections.abc import Sequence

from scipy.special import stdtrit

LEAST = 2
"""Fewer values have no interval."""


def median(values: Sequence[float]) -> float:
    """The typical process."""
    return statistics.median(values)


def replicate_bounds(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Lower and upper bound of the typical value, each one-sided at `confidence`.

    The wider of two: Student's t on the logarithms, and the order statistics of the sign test, which
    for five values at 97.5 % are the least and the greatest (they reach 96.9 %). The first is right
    for scatter, and at five values is the only one to reach 95 %; the second for two modes, whose rarer one
    the first can leave out. Where a value is zero the first is on the values themselves. Raises ValueError for
    fewer than two values or one below zero.
    """
    count = len(values)
    if count < LEAST:
        raise ValueError("one value has no interval")
    if min(values) < 0:
        raise ValueError("quantities below zero have no interval here")
    if min(values) > 0:
        logs = _student([math.log(value) for value in values], confidence)
        lower, upper = math.exp(logs[0]), math.exp(logs[1])
    else:
        lower, upper = _student(values, confidence)
    ordered, rank = sorted(values), _sign_test_rank(count, confidence)
    return max(min(lower, ordered[rank], median(values)), 0.0), max(upper, ordered[-1 - rank], median(values))


def _student(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """Bounds of a mean, each one-sided."""
    reach = float(stdtrit(len(values) - 1, confidence)) * statistics.stdev(values) / math.sqrt(len(values))
    centre = statistics.fmean(values)
    return centre - reach, centre + reach


def _sign_test_rank(count: int, confidence: float) -> int:
    """From 0, the highest rank whose value lies below the median with that confidence; 0 if none does."""
    rank, below = 0, 0.0
    for successes in range(count // 2):
        below += math.comb(count, successes) / 2**count
        if below > 1 - confidence:
            break
        rank = successes
    return rank
