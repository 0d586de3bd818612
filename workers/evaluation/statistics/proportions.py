"""Intervals of shares: of one share, and of the drop between two shares of the same rows.

Every bound here is one-sided at `confidence`; a two-sided interval takes both at (1 + confidence) / 2.
The paired ones are score intervals: all drops that a score test does not reject, its variance taken
at the drop under test. That is why they hold for few rows and for no disagreement at all, where the
usual (Wald) interval has no width.

Closed forms, a bisection and scipy.special: every step that judges rows would pay for importing scipy.stats (0.7 s),
which the tests hold these against.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray
from scipy.special import bdtr, betaincinv

_FEW = 3
"""Events up to which the normal distribution is no help on the side of none (Brown, Cai and DasGupta)."""

_EDGE = 1e-12
_HALVINGS = 48


@dataclass(frozen=True, slots=True)
class Pairs:
    """The same rows judged twice: by the original and by the artifact.

    `both` right, `lost` (only the original was right), `gained` (only the artifact), `neither`.
    """

    both: float
    lost: float
    gained: float
    neither: float

    @property
    def rows(self) -> float:
        return self.both + self.lost + self.gained + self.neither

    @property
    def drop(self) -> float:
        """By how much the artifact's share is below the original's."""
        return (self.lost - self.gained) / self.rows

    @property
    def original(self) -> float:
        """The original's share."""
        return (self.both + self.lost) / self.rows

    @property
    def differing(self) -> float:
        """Rows that one of the two had right."""
        return self.lost + self.gained

    def scaled(self, factor: float) -> "Pairs":
        """The counts to expect of `factor` times as many rows at the same rates."""
        both, lost, gained = (round(count * factor) for count in (self.both, self.lost, self.gained))
        return Pairs(both, lost, gained, max(round(self.rows * factor) - both - lost - gained, 0))

    def thinned(self, effect: float) -> "Pairs":
        """The same rates of fewer rows: as many as independent ones would need to tell as much."""
        return Pairs(self.both / effect, self.lost / effect, self.gained / effect, self.neither / effect)


def count_pairs(original: NDArray[np.bool_], artifact: NDArray[np.bool_]) -> Pairs:
    """Count the four outcomes; both arrays say of the same rows which were right, shape [rows]."""
    return Pairs(
        both=int(np.sum(original & artifact)),
        lost=int(np.sum(original & ~artifact)),
        gained=int(np.sum(~original & artifact)),
        neither=int(np.sum(~original & ~artifact)),
    )


def share_bounds(right: int, rows: int, confidence: float) -> tuple[float, float]:
    """Lower and upper bound of a share, each one-sided."""
    return wilson(right / rows, rows, NormalDist().inv_cdf(confidence))


def wilson(share: float, rows: float, quantile: float) -> tuple[float, float]:
    """All shares that lie within so many of their own standard errors of the one seen.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", Journal of the
    American Statistical Association 22 (1927). Up to three events, the bound on the side of none is the exact one, as
    L. Brown, T. Cai and A. DasGupta have it, "Interval estimation for a binomial proportion", Statistical Science 16
    (2001), section 4.1.1: Wilson's alone holds a rate of 0.15 in all rows 86 times in 100.
    """
    squared = quantile**2
    centre = (share + squared / (2 * rows)) / (1 + squared / rows)
    reach = math.sqrt(squared * (share * (1 - share) / rows + squared / (4 * rows * rows))) / (1 + squared / rows)
    # At none and at all right the ends are exact, and rounding must not move them.
    lower, upper = (0.0 if share == 0 else centre - reach), (1.0 if share == 1 else centre + reach)
    if 0 < share * rows <= _FEW + _EDGE or 0 < (1 - share) * rows <= _FEW + _EDGE:
        exact = clopper_pearson(share, rows, NormalDist().cdf(quantile))
        lower = min(lower, exact[0]) if share < 0.5 else lower
        upper = max(upper, exact[1]) if share > 0.5 else upper
    return lower, upper


def clopper_pearson(share: float, rows: float, confidence: float) -> tuple[float, float]:
    """Lower and upper bound of a share, each one-sided, that hold at least as often as they say.

    C. Clopper and E. Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial",
    Biometrika 26 (1934).
    """
    right, wrong = share * rows, (1 - share) * rows
    lower = 0.0 if right <= _EDGE else float(betaincinv(right, wrong + 1, 1 - confidence))
    upper = 1.0 if wrong <= _EDGE else float(betaincinv(right + 1, wrong, confidence))
    return lower, upper


def drop_bounds(pairs: Pairs, confidence: float) -> tuple[float, float]:
    """Lower and upper bound of the drop between two shares of the same rows, each one-sided.

    T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998).
    """
    return drop_ends(pairs, NormalDist().inv_cdf(confidence))


def drop_ends(pairs: Pairs, quantile: float) -> tuple[float, float]:
    """The drops that lie within so many of their own standard errors of the one seen."""
    seen = pairs.drop
    lower = _crossing(lambda drop: drop_score(pairs, drop) - quantile, -1 + _EDGE, seen)
    upper = _crossing(lambda drop: drop_score(pairs, drop) + quantile, seen, 1 - _EDGE)
    return lower, upper


def drop_score(pairs: Pairs, drop: float) -> float:
    """Tango's standardised distance between the drop seen and a supposed one; falls as `drop` grows."""
    rows, lost, gained = pairs.rows, pairs.lost, pairs.gained
    # The most likely rate of gained rows, if the drop were `drop`: the larger root of a quadratic.
    half = 2 * rows
    linear = -lost - gained + (2 * rows - lost + gained) * drop
    constant = -gained * drop * (1 - drop)
    rate = (math.sqrt(max(linear * linear - 4 * half * constant, 0.0)) - linear) / (2 * half)
    return _standardised(lost - gained - rows * drop, rows * (2 * rate + drop * (1 - drop)))


def relative_drop_bounds(pairs: Pairs, confidence: float) -> tuple[float, float]:
    """Lower and upper bound of the drop as a share of the original's share, each one-sided.

    The score interval of a ratio of paired proportions: J. Nam and W. Blackwelder, "Analysis of the
    ratio of marginal probabilities in a matched-pair setting", Statistics in Medicine 21 (2002).
    Raises ValueError where the original was never right: there is nothing to be relative to.
    """
    return relative_drop_ends(pairs, NormalDist().inv_cdf(confidence))


def relative_drop_ends(pairs: Pairs, quantile: float) -> tuple[float, float]:
    """The relative drops that lie within so many of their own standard errors of the one seen."""
    right = pairs.both + pairs.lost
    if right == 0:
        raise ValueError("the original was never right")
    seen = (pairs.lost - pairs.gained) / right
    least = -1.0
    while relative_drop_score(pairs, least) < quantile:  # a ratio has no upper end of its own
        least *= 2
    lower = _crossing(lambda drop: relative_drop_score(pairs, drop) - quantile, least, seen)
    upper = _crossing(lambda drop: relative_drop_score(pairs, drop) + quantile, seen, 1 - _EDGE)
    return lower, upper


def relative_drop_score(pairs: Pairs, drop: float) -> float:
    """The standardised distance between the relative drop seen and a supposed one; falls as `drop` grows."""
    rows, ratio = pairs.rows, 1 - drop
    original, artifact = pairs.both + pairs.lost, pairs.both + pairs.gained
    known = (rows - pairs.neither) / rows  # what the other three rates add up to
    # The most likely rate t of lost rows, if artifact = ratio · original, maximises
    # both·ln(known - (1 + ratio)t) + lost·ln t + gained·ln(t - (1 - ratio)known): again a quadratic.
    square = (1 + ratio) * rows
    linear = original * (1 - ratio * ratio) + pairs.lost + pairs.gained
    constant = pairs.lost * (1 - ratio) * known
    rate = (linear + math.sqrt(max(linear * linear - 4 * square * constant, 0.0))) / (2 * square)
    variance = (1 + ratio) * rate - (1 - ratio) * known
    return _standardised(ratio * original - artifact, rows * variance)


def mcnemar(pairs: Pairs) -> float:
    """The two-sided p-value of there being no drop: how likely lost and gained rows are so unequal by chance.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12 (1947), exact by the binomial distribution, of counts that are no whole numbers too.
    """
    return min(1.0, 2 * float(bdtr(math.floor(min(pairs.lost, pairs.gained)), round(pairs.differing), 0.5)))


def _standardised(distance: float, variance: float) -> float:
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _crossing(excess: Callable[[float], float], low: float, high: float) -> float:
    """Where a falling function crosses zero; the nearer end where it does not."""
    if low >= high:  # what was seen lies at the end of the scale
        return max(low, high, key=abs)
    if excess(low) <= 0:
        return low
    if excess(high) >= 0:
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return (low + high) / 2
