"""Intervals of a positive quantity that a few fresh processes measured, one value each.

A process is one draw: its memory layout, its threads' places. Within a process samples repeat the
draw, so only the values across processes say how far the next one may be.
"""

import math
import statistics
from collections.abc import Sequence

from scipy.stats import binom
from scipy.stats import t as student

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
    reach = float(student.ppf(confidence, count - 1)) * statistics.stdev(logs) / math.sqrt(count)
    centre = statistics.fmean(logs)
    ordered = sorted(values)
    # The largest rank whose order statistic is below the median with the confidence asked for.
    rank = max(int(binom.ppf(1 - confidence, count, 0.5)), 1) - 1
    return (
        min(math.exp(centre - reach), ordered[rank], median(values)),
        max(math.exp(centre + reach), ordered[-1 - rank], median(values)),
    )
