"""Which candidates may still win, from ever more of the tuning rows: losers and clear winners are found early.

Each look spends an equal part of the error that the whole race may make (Bonferroni), so that looking often makes no
loser a winner. Tuning rows guide; the verdict is another's, on rows that were held out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from app.domain.goal import Constraint
from workers.evaluation.bounds import Bounded, drop_bounds, metric_bounds
from workers.evaluation.scores import Scores

Standing = Literal["out", "through", "open"]
"""`out`: a bound is broken for all that is known; `through`: all hold; `open`: more rows are needed."""

LOOKS = (0.25, 0.5, 1.0)
"""Shares of the tuning rows after which is looked."""

LEAST_ROWS = 40
"""Fewer rows than this tell nothing: no look is taken before."""


@dataclass(frozen=True, slots=True)
class Look:
    """How a candidate stands after so many rows, and each bounded value in the order of the constraints.

    A constraint whose metric has no scores is None among `found`, and leaves the candidate open.
    """

    standing: Standing
    rows: int
    found: tuple[Bounded | None, ...]


def look(
    constraints: Sequence[Constraint],
    original: Mapping[str, Scores],
    artifact: Mapping[str, Scores],
    *,
    share: float,
    confidence: float,
    looks: int = len(LOOKS),
) -> Look:
    """Judge a candidate on the first `share` of the rows; `confidence` is the whole race's, one-sided."""
    each = 1 - (1 - confidence) / looks
    rows = 0
    standings: list[Standing] = []
    found: list[Bounded | None] = []
    for constraint in constraints:
        mine, theirs = artifact.get(constraint.metric), original.get(constraint.metric)
        if mine is None:
            standings.append("open")
            found.append(None)
            continue
        rows = max(rows, _first(len(mine), share))
        mine, theirs = _part(mine, share), None if theirs is None else _part(theirs, share)
        bounded, standing = _judged(constraint, theirs, mine, each)
        found.append(bounded)
        standings.append(standing if len(mine) >= LEAST_ROWS or share >= 1 else "open")
    if "out" in standings:
        return Look("out", rows, tuple(found))
    return Look("open" if "open" in standings else "through", rows, tuple(found))


def _judged(
    constraint: Constraint, original: Scores | None, artifact: Scores, confidence: float
) -> tuple[Bounded | None, Standing]:
    if constraint.max_drop is not None:
        try:
            found = drop_bounds(constraint.metric, original, artifact, confidence, relative=constraint.relative)
        except ValueError:
            return None, "open"
        return found, _against(found.lower, found.upper, constraint.max_drop)
    found = metric_bounds(constraint.metric, artifact, confidence)
    ends: list[Standing] = []
    if constraint.max is not None:
        ends.append(_against(found.lower, found.upper, constraint.max))
    if constraint.min is not None:
        ends.append(_against(-found.upper, -found.lower, -constraint.min))
    return found, "out" if "out" in ends else "open" if "open" in ends else "through"


def _against(lower: float, upper: float, limit: float) -> Standing:
    if lower > limit:
        return "out"
    return "through" if upper <= limit else "open"


def _first(rows: int, share: float) -> int:
    return max(1, round(rows * share))


def _part(scores: Scores, share: float) -> Scores:
    if share >= 1:
        return scores
    return scores.of(np.arange(len(scores)) < _first(len(scores), share))
