"""How many rows would decide what the present ones leave open."""

import math
from collections.abc import Callable
from statistics import NormalDist

from app.domain.sample_size import MOST_ROWS, POWER

_GROWTH = 1.02


def rows_needed(
    rows: int,
    distance: float,
    error: float,
    confidence: float,
    reach: Callable[[float], float] | None = None,
) -> int | None:
    """Rows after which a bound at `confidence` clears the limit, at the effect and scatter seen now.

    `distance` is from the estimate to the limit, `error` the estimate's standard error at `rows` rows.
    `reach` tells how far the bound would lie from the estimate with so many times the rows at the same
    rates; without it, it shrinks with the root of the rows. It matters where few events were seen, and the
    standard error is too small, or zero. None where the effect sits so near the limit that ten million
    rows would not do.
    """
    quantile, leave = NormalDist().inv_cdf(confidence), NormalDist().inv_cdf(POWER) * error
    if distance <= 0:
        return None
    if reach is None:
        factor = ((quantile * error + leave) / distance) ** 2
    else:
        factor = 1.0
        while reach(factor) + leave / math.sqrt(factor) > distance:
            factor *= _GROWTH
            if factor * rows > MOST_ROWS:
                return None
    if factor * rows > MOST_ROWS:
        return None
    return max(math.ceil(rows * factor), rows + 1)
