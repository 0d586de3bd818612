"""Intervals from what each row adds to an estimate's error: of anything that has influence values.

An estimate of many rows errs, to first order, by the mean of its rows' influence values (F. Hampel, "The
influence curve and its role in robust estimation", Journal of the American Statistical Association 69 (1974)); for
areas under curves they are the structural components of DeLong and others (1988). Rows of one group are summed
before their scatter is taken, as in N. Obuchowski, "Nonparametric analysis of clustered ROC curve data",
Biometrics 53 (1997).

Where few rows carry all of the scatter, the scatter itself is poorly known, and may be missed altogether. So z²
more events of the size of those seen are counted in: with one event this comes near the score interval
(Wilson, Tango), with none it is z² rows that went wholly wrong, and with many it changes nothing.
"""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

from scipy.special import stdtrit

from workers.evaluation.statistics.clusters import Codes, Floats, group_count, group_sums
from workers.evaluation.statistics.proportions import wilson

Ends = tuple[float, float]

_LEAST_FREEDOM = 8.0
"""Fewer degrees of freedom would make intervals of any width; by simulation (`benchmarks/coverage.py`) these do."""


@dataclass(frozen=True, slots=True)
class Linearised:
    """An estimate with the influence of its rows.

    `influence` [rows] has mean 0 and is what a row adds to the error, times the rows. `step` is the influence of a
    row that goes wholly wrong. `units` [rows], where given, are the groups that influence is known of alone. `unseen`
    is variance of the estimate that the influence of these rows does not show. `bias` is by how much it is too high on
    average; of a difference it is not known.
    """

    value: float
    influence: Floats
    step: float = 1.0
    units: Codes | None = None
    unseen: float = 0.0
    bias: float = 0.0

    def less(self, other: "Linearised", sign: float) -> "Linearised":
        """The difference to another estimate of the same rows, times `sign`."""
        return Linearised(
            sign * (self.value - other.value),
            sign * (self.influence - other.influence),
            max(self.step, other.step),
            self.units,
        )

    def relative_to(self, other: "Linearised") -> "Linearised":
        """This estimate as a share of another's; of the same rows. The other's value is not 0."""
        ratio = self.value / abs(other.value)
        influence = (self.influence - ratio * math.copysign(1.0, other.value) * other.influence) / abs(other.value)
        return Linearised(ratio, influence, self.step / abs(other.value), self.units)


@dataclass(frozen=True, slots=True)
class Scatter:
    """How far an estimate may be off: its standard error, the draws it stands on, and how few of them carry it.

    `kurtosis` is the fourth moment of the draws' influence over the square of the second: 3 for normal values, and
    draws over events where the others do not count. `step` is one draw that goes wholly wrong. All at `rows` rows.
    """

    error: float
    draws: float
    kurtosis: float
    step: float
    rows: int

    def scaled(self, factor: float) -> "Scatter":
        """The scatter of `factor` times the rows, which go on as they were."""
        return replace(self, error=self.error / math.sqrt(factor), draws=self.draws * factor, step=self.step / factor)

    def quantile(self, confidence: float) -> float:
        """Of Student's t with as many degrees of freedom as draws, less one."""
        return float(stdtrit(max(self.draws - 1, 1), confidence))

    def reach(self, confidence: float) -> float:
        """How far a one-sided bound lies from the estimate."""
        quantile, normal = self.quantile(confidence), NormalDist().inv_cdf(confidence)
        if self.error == 0:
            return normal * normal * self.step / (1 + normal * normal / self.draws)
        return quantile * self.error * math.sqrt(1 + normal * normal * self.kurtosis / self.draws)


def draw_influence(found: Linearised, groups: Codes | None = None) -> Floats:
    """What each draw adds to an estimate's error, times the draws; rows of one group are one draw."""
    together = found.units if found.units is not None else groups
    if together is None:
        return found.influence
    sums = group_sums(found.influence, together)
    return sums * (len(sums) / len(found.influence))


def scatter_of(found: Linearised, groups: Codes | None = None) -> Scatter:
    """The scatter of an estimate; rows of one group count as one draw."""
    rows = len(found.influence)
    parts = draw_influence(found, groups)
    parts = parts / len(parts)
    draws = len(parts)
    squares = float((parts**2).sum()) + found.unseen
    # What is left of rounding is no scatter.
    if draws < 2 or squares <= (1e-12 * max(abs(found.value), found.step / rows)) ** 2:
        return Scatter(0.0, draws, 0.0, found.step * _rows_a_draw(rows, groups) / rows, rows)
    kurtosis = draws * float((parts**4).sum()) / squares**2
    error = math.sqrt(squares * draws / (draws - 1))
    return Scatter(error, draws, kurtosis, found.step * _rows_a_draw(rows, groups) / rows, rows)


def difference_bounds(value: float, scatter: Scatter, confidence: float) -> Ends:
    """Lower and upper bound of a difference, each one-sided."""
    reach = scatter.reach(confidence)
    return value - reach, value + reach


def bounded_bounds(value: float, scatter: Scatter, confidence: float) -> Ends:
    """Lower and upper bound, each one-sided, of what lies between 0 and 1: on the scale of log odds.

    Student's t has the degrees of freedom that the scatter is known with (F. Satterthwaite, "An approximate
    distribution of estimates of variance components", Biometrics Bulletin 2 (1946)), which are few where few rows
    carry it; half of its relative variance is added, for it is too small more often than too large. At an end of the
    scale, Wilson's interval with as many rows as would each have to go wholly wrong.
    """
    inside = value * (1 - value)
    if inside <= 0 and scatter.error > 0:  # edits can be more than there is to edit
        return difference_bounds(value, scatter, confidence)
    if scatter.error == 0:
        return wilson(
            min(value, 1.0), 1 / scatter.step if scatter.step > 0 else scatter.draws, scatter.quantile(confidence)
        )
    freedom = min(max(2 * scatter.draws / max(scatter.kurtosis - 1, 1e-9), _LEAST_FREEDOM), max(scatter.draws - 1, 1))
    error = scatter.error * math.sqrt(1 + scatter.kurtosis / (2 * scatter.draws))
    reach = float(stdtrit(freedom, confidence)) * error / inside
    odds = math.log(value / (1 - value))
    return 1 / (1 + math.exp(min(reach - odds, 700))), 1 / (1 + math.exp(max(-reach - odds, -700)))


def fisher_bounds(value: float, scatter: Scatter, confidence: float) -> Ends:
    """Lower and upper bound of a correlation, each one-sided, on Fisher's scale, where it scatters evenly."""
    if abs(value) >= 1:
        return -1.0, 1.0
    stretch = 1 - value**2
    reach = replace(scatter, error=scatter.error / stretch, step=scatter.step / stretch).reach(confidence)
    return math.tanh(math.atanh(value) - reach), math.tanh(math.atanh(value) + reach)


def p_value(value: float, scatter: Scatter) -> float | None:
    """Two-sided, of there being no difference; null where nothing scatters."""
    from scipy.special import stdtr

    if scatter.error == 0 or scatter.draws < 2:
        return None
    return float(2 * stdtr(scatter.draws - 1, -abs(value) / scatter.error))


def _rows_a_draw(rows: int, groups: Codes | None) -> float:
    return 1.0 if groups is None else rows / group_count(groups)
