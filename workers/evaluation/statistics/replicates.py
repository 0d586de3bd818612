"""Intervals of a positive quantity that a few fresh processes measured, one value each.

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
    the first can leave out. Raises ValueError for fewer than two values or one that is not positive.
    """
    count = len(values)
    if count < LEAST:
        raise ValueError("one value has no interval")
    if min(values) <= 0:
        raise ValueError("only positive quantities have an interval on a logarithmic scale")
    logs = [math.log(value) for value in values]
    reach = float(stdtrit(count - 1, confidence)) * statistics.stdev(logs) / math.sqrt(count)
    centre = statistics.fmean(logs)
    ordered, rank = sorted(values), _sign_test_rank(count, confidence)
    return (
        min(math.exp(centre - reach), ordered[rank], median(values)),
        max(math.exp(centre + reach), ordered[-1 - rank], median(values)),
    )


def _sign_test_rank(count: int, confidence: float) -> int:
    """From 0, the highest rank whose value lies below the median with that confidence; 0 if none does."""
    rank, below = 0, 0.0
    for successes in range(count // 2):
        below += math.comb(count, successes) / 2**count
        if below > 1 - confidence:
            break
        rank = successes
    return rank
