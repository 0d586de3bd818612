"""How many rows it takes to show that an artifact is no worse than the original by more than so much."""

import math
from statistics import NormalDist

POWER = 0.8
"""With the rows told, it is shown four times in five, if the rates are what they seem."""

MOST_ROWS = 10_000_000
"""More are no practical number."""

USUAL_DISCORDANCE = 0.02
"""An assumption, and said to be one: the share of rows that only one of original and artifact gets right."""


def rows_to_show(drop: float, discordance: float, confidence: float, *, design_effect: float = 1.0) -> int | None:
    """Rows after which the one-sided upper bound of a paired drop of two shares is within `drop`.

    It supposes that the artifact is really as good as the original, and that they differ in `discordance` of the rows.
    `design_effect` is how many rows tell as much as one alone, where they come in groups. Where no row differs it is
    Tango's interval that tells: z² / (rows + z²). Source of the rest: R. Connor, "Sample size for testing differences
    in proportions for the paired-sample design", Biometrics 43 (1987). None where ten million rows would not do. Raises
    ValueError for a drop of 0.
    """
    if drop <= 0:
        raise ValueError("no number of rows shows that there is no drop at all")
    if drop * MOST_ROWS < 1:  # less than a row of them all
        return None
    quantile, leave = NormalDist().inv_cdf(confidence), NormalDist().inv_cdf(POWER)
    scatter = ((quantile + leave) * math.sqrt(discordance) / drop) ** 2
    least = quantile**2 * (1 / drop - 1)
    rows = max(scatter, least, 1.0) * design_effect
    return math.ceil(rows) if rows <= MOST_ROWS else None
