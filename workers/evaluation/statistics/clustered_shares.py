"""Shares of rows that come in groups: the intervals of independent rows, with as many rows as tell as much.

The design effect (L. Kish, "Survey Sampling", 1965) is the variance over that of independent rows. Of few events
it is a guess, so z² more are counted in whose groups are alike throughout, the worst that there is; and less than
one is not believed.
"""

from statistics import NormalDist

from workers.evaluation.statistics.clusters import Codes, Floats, group_count, group_sums
from workers.evaluation.statistics.linear import Ends, Scatter
from workers.evaluation.statistics.proportions import Pairs, clopper_pearson, count_pairs, drop_ends, wilson


def share(right: Floats, groups: Codes | None, confidence: float) -> Ends:
    """Lower and upper bound of a share, each one-sided; `right` has 0 or 1 for each row, [rows]."""
    return wilson(*_alone(right, groups, confidence), quantile(groups, confidence))


def certain_share(right: Floats, groups: Codes | None, confidence: float) -> Ends:
    """As `share`, of bounds that hold at least as often as they say, of few rows and far out too."""
    return clopper_pearson(*_alone(right, groups, confidence), confidence)


def paired_drop(original: Floats, artifact: Floats, groups: Codes | None, confidence: float) -> Ends:
    """Lower and upper bound of the drop between two shares of the same rows, each one-sided."""
    return drop_ends(grouped_pairs(original, artifact, groups, confidence), quantile(groups, confidence))


def _alone(right: Floats, groups: Codes | None, confidence: float) -> tuple[float, float]:
    """The share, and how many independent rows would tell as much."""
    value, rows = float(right.mean()), len(right)
    events = min(value, 1 - value) * rows
    return value, rows / design_effect(right - value, groups, events, confidence)


def grouped_pairs(original: Floats, artifact: Floats, groups: Codes | None, confidence: float) -> Pairs:
    """The four outcomes of rows judged twice, counted as so many independent rows as tell as much."""
    pairs = count_pairs(original == 1.0, artifact == 1.0)
    lost = original - artifact
    return pairs.thinned(design_effect(lost - lost.mean(), groups, pairs.differing, confidence))


def design_effect(influence: Floats, groups: Codes | None, events: float, confidence: float) -> float:
    """How many rows in groups tell as much as one alone; `influence` has mean 0, [rows]."""
    if groups is None:
        return 1.0
    count, rows = group_count(groups), len(influence)
    alike = rows / count
    alone = float((influence**2).sum())
    if alone == 0 or count < 2:
        return alike
    together = float((group_sums(influence, groups) ** 2).sum()) * count / (count - 1)
    more = NormalDist().inv_cdf(confidence) ** 2
    seen = together / alone
    return max((events * seen + more * max(alike, seen)) / (events + more), 1.0)


def quantile(groups: Codes | None, confidence: float) -> float:
    """Of the normal distribution, or of Student's where the groups' own scatter is what is known."""
    if groups is None:
        return NormalDist().inv_cdf(confidence)
    return Scatter(0.0, group_count(groups), 0.0, 0.0, len(groups)).quantile(confidence)
