"""How many rows would decide what the present ones leave open."""

import math
from collections.abc import Callable
from statistics import NormalDist

POWER = 0.8
"""With the rows told, the verdict falls four times in five, if the rates are what they seem."""

_MOST = 10_000_000


def rows_needed(
    rows: int,
    distance: float,
    error: float,
    confidence: float,
    decided: Callable[[float], bool] | None = None,
) -> int | None:
    """Rows after which a bound at `confidence` clears the limit, at the effect and scatter seen now.

    `distance` is from the estimate to the limit, `error` the estimate's standard error at `rows` rows.
    `decided` tells whether so many times the rows, at the same rates, would decide: it answers where few
    events leave the standard error too small, or at zero. None where the effect sits at the limit,
    so that no number of rows below ten million helps.
    """
    if distance == 0:
        return None
    quantiles = NormalDist().inv_cdf(confidence) + NormalDist().inv_cdf(POWER)
    needed = math.ceil(rows * (quantiles * error / distance) ** 2)
    if needed > _MOST:
        return None
    if decided is not None:
        factor = max(needed / rows, 1.0)
        while not decided(factor):
            factor *= 1.05
            if factor * rows > _MOST:
                return None
        needed = max(needed, math.ceil(factor * rows))
    return max(needed, rows + 1)
