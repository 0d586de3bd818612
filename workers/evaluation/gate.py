"""The verdict on an artifact: does it keep what the goal says, and how sure is that.

A constraint is met when the one-sided bound on the bad side is within the limit, missed when the one
on the good side is beyond it, and undecided between the two.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field

from app.domain.goal import CEILINGS, Constraint, Goal
from app.domain.job import Gate
from app.domain.measurement import Measurement
from app.domain.metric import METRICS
from app.domain.sample_size import rows_to_show
from workers.evaluation.accuracy import NON_FINITE
from workers.evaluation.bounds import Bounded, drop_bounds, metric_bounds, replicate_interval
from workers.evaluation.evidence import Evidence, Source
from workers.evaluation.slices import SliceDrop, worst_slice
from workers.evaluation.statistics.rows_needed import rows_needed
from workers.evaluation.words import amount, difference, plain

_SEVERITY: tuple[Gate, ...] = ("missed", "undecided", "met", "none")
"""The first of these that any constraint has is the verdict on all of them."""

NOT_HELD_OUT = "Nothing was held out"
"""How the reason begins where a metric was computed on rows that helped to make the artifact, or on none."""

_LEAST_ROWS = 2

_EXACT = frozenset({"artifact_bytes"})
"""What has no scatter, however often it is measured."""


class Verdict(BaseModel):
    """What became of one bound of one constraint.

    `value` is the drop for `max_drop` (positive is worse; a share of the original's value where `relative`),
    else the value itself. `ci` are its lower and upper bound, each one-sided at the goal's confidence;
    null where the value has no scatter or too few samples tell. `rows_needed` would decide what is
    undecided, if the rates stay as they are; null where rows do not help. `p_value` is two-sided, of there being no
    drop; null where it is not to be had. `worst_slice` is where the metric drops most, null where rows have no slices.
    What was not measured has no value.
    """

    model_config = ConfigDict(frozen=True)

    constraint: Constraint
    verdict: Gate
    value: float | None
    bound: float
    ci: tuple[float, float] | None = None
    confidence: float
    rows_needed: int | None = Field(default=None, ge=1)
    p_value: float | None = None
    worst_slice: SliceDrop | None = None
    reason: str


@dataclass(frozen=True, slots=True)
class _Limit:
    """One end of a constraint, in terms of what is bounded."""

    value: float
    is_ceiling: bool

    def verdict(self, found: Bounded) -> Gate:
        worst, best = (found.upper, found.lower) if self.is_ceiling else (found.lower, found.upper)
        if self._holds(worst):
            return "met"
        return "undecided" if self._holds(best) else "missed"

    def _holds(self, value: float) -> bool:
        return value <= self.value if self.is_ceiling else value >= self.value


def judge_goal(goal: Goal | None, evidence: Evidence) -> tuple[Gate, tuple[Verdict, ...]]:
    """Judge every constraint; missed if one is, else undecided if one is, else met; none without any."""
    constraints = goal.constraints if goal is not None else ()
    confidence = goal.confidence if goal is not None else 0.95
    verdicts = tuple(
        verdict for constraint in constraints for verdict in judge_constraint(constraint, evidence, confidence)
    )
    return overall(verdict.verdict for verdict in verdicts), verdicts


def overall(verdicts: Iterable[Gate]) -> Gate:
    """The gate from the verdicts on all constraints."""
    return min(verdicts, key=_SEVERITY.index, default="none")


def judge_constraint(constraint: Constraint, evidence: Evidence, confidence: float) -> list[Verdict]:
    """One verdict for each end that the constraint bounds; undecided, with the reason, on what was not measured."""
    name = CEILINGS.get(constraint.metric, constraint.metric)
    measured = evidence.artifact.get(name)
    if measured is None:
        return _without_value(constraint, "undecided", confidence, f"{name} was not measured.")
    if measured.value is None:
        # A broken output is the artifact's own fault; anything else says nothing about it.
        broken = NON_FINITE in measured.flags
        said = "cannot be computed" if broken else "was not measured"
        return _without_value(
            constraint, "missed" if broken else "undecided", confidence, f"{name} {said}: {measured.reason}."
        )
    is_metric = name in METRICS
    found = (_metric if is_metric else _ceiling)(constraint, name, measured, evidence, confidence)
    if isinstance(found, str):
        return _without_value(constraint, "undecided", confidence, found)
    judged_on = evidence.source if is_metric else "evaluation"
    verdicts = [_verdict(constraint, limit, found, measured, confidence, judged_on) for limit in _limits(constraint)]
    if is_metric and constraint.max_drop is not None:
        return [_with_slice(verdict, name, measured, evidence) for verdict in verdicts]
    return verdicts


def _limits(constraint: Constraint) -> list[_Limit]:
    ends = ((constraint.max_drop, True), (constraint.max, True), (constraint.min, False))
    return [_Limit(value, is_ceiling) for value, is_ceiling in ends if value is not None]


def _with_slice(verdict: Verdict, name: str, measured: Measurement, evidence: Evidence) -> Verdict:
    """The verdict, and where the metric drops most, if that is more than overall."""
    scores = evidence.artifact_scores[name]
    worst = worst_slice(name, evidence.original_scores.get(name), scores, verdict.confidence)
    if worst is None:
        return verdict
    reason = f"{verdict.reason} {about_slice(worst, measured.unit)}"
    return verdict.model_copy(update={"worst_slice": worst, "reason": reason})


def about_slice(worst: SliceDrop, unit: str) -> str:
    """A sentence on the slice that drops most."""
    ends = " and ".join(difference(end, unit) for end in worst.ci)
    return (
        f"Of {worst.looked_at} slices {worst.slice} ({worst.rows} rows) drops most, by {difference(worst.drop, unit)} "
        f"(bounds that hold for all slices together: {ends})."
    )


def slice_notes(evidence: Evidence, verdicts: Iterable[Verdict], confidence: float) -> tuple[str, ...]:
    """Where metrics with labels drop most, of those that no verdict says it of."""
    said = {CEILINGS.get(found.constraint.metric, found.constraint.metric) for found in verdicts if found.worst_slice}
    notes = []
    for name, scores in evidence.artifact_scores.items():
        if name in said or METRICS[name].relative_to_original or name not in evidence.original_scores:
            continue
        if (worst := worst_slice(name, evidence.original_scores[name], scores, confidence)) is not None:
            notes.append(f"{name}: {about_slice(worst, METRICS[name].unit)}")
    return tuple(notes)


def _without_value(constraint: Constraint, verdict: Gate, confidence: float, reason: str) -> list[Verdict]:
    return [
        Verdict(
            constraint=constraint,
            verdict=verdict,
            value=None,
            bound=limit.value,
            confidence=confidence,
            reason=reason,
        )
        for limit in _limits(constraint)
    ]


def _metric(
    constraint: Constraint, name: str, measured: Measurement, evidence: Evidence, confidence: float
) -> Bounded | str:
    """Bounds of a metric or of its drop, or why there are none."""
    scores = evidence.artifact_scores.get(name)
    if scores is None:
        return f"The scores of {name} are not there, so it has no bounds."
    if constraint.max_drop is None:
        return metric_bounds(name, scores, confidence)
    original = evidence.original_scores.get(name)
    if original is not None and len(original) != len(scores):
        return f"The drop of {name} cannot be judged: it was computed on other rows for the original."
    try:
        return drop_bounds(name, original, scores, confidence, relative=constraint.relative)
    except ValueError as error:
        return f"The drop of {name} cannot be judged: {error}. Constrain its value with min or max."


def _ceiling(
    constraint: Constraint, name: str, measured: Measurement, evidence: Evidence, confidence: float
) -> Bounded | str:
    """Bounds of a value that children measured, or of a number without scatter; or why there are none."""
    value = float(measured.value or 0.0)
    before, after = evidence.children.get(name, ((), ()))
    if constraint.max_drop is None:
        return replicate_interval(after, confidence) or Bounded(value, value, value)
    original = evidence.original.get(name)
    if original is None or not original.value:
        reason = "it was not measured of the original" if original is None else original.reason or "the original's is 0"
        return f"The drop of {name} cannot be judged: {reason}."
    paired = len(before) == len(after) and all(before)
    ratios = [second / first for first, second in zip(before, after, strict=True)] if paired else []
    plain_ratio = value / original.value
    ratio = replicate_interval(ratios, confidence) or Bounded(plain_ratio, plain_ratio, plain_ratio)
    unit = 1.0 if constraint.relative else original.value
    sign = 1 if measured.better == "lower" else -1
    drops = [sign * (end - 1) * unit for end in (ratio.value, ratio.lower, ratio.upper)]
    return Bounded(drops[0], min(drops[1:]), max(drops[1:]))


def _verdict(
    constraint: Constraint,
    limit: _Limit,
    found: Bounded,
    measured: Measurement,
    confidence: float,
    judged_on: Source,
) -> Verdict:
    verdict = limit.verdict(found)
    needed = None
    reason = _reason(constraint, limit, found, measured, confidence)
    if judged_on != "evaluation":
        verdict = "undecided"
        rows = "random rows" if judged_on == "synthetic" else "the calibration rows"
        reason = f"{NOT_HELD_OUT}: on {rows} {reason} Bring an evaluation dataset."
    elif verdict == "undecided":
        needed = _rows_needed(limit, found, confidence)
        reason += _what_would_decide(found, needed) + _what_would_show(constraint, measured, found, confidence)
    return Verdict(
        constraint=constraint,
        verdict=verdict,
        value=found.value,
        bound=limit.value,
        ci=(found.lower, found.upper) if _has_ends(found) else None,
        confidence=confidence,
        rows_needed=needed,
        p_value=found.p_value if constraint.max_drop is not None else None,
        reason=reason,
    )


def _what_would_decide(found: Bounded, needed: int | None) -> str:
    if found.rows is None:
        return " The processes that measured it differ too much to tell."
    if found.rows < _LEAST_ROWS and found.at_scale is None:
        return " One row shows no scatter: bring more."
    if not math.isfinite(found.upper):
        return " No number of rows bounds it: constrain another metric."
    if needed is None:
        return " It sits so near the limit that no practical number of rows would decide."
    return f" About {needed:,} rows would decide, if the rates stay as they are."


def _what_would_show(constraint: Constraint, measured: Measurement, found: Bounded, confidence: float) -> str:
    """How many rows could show such a drop at all, of a share whose rows are paired, where these are too few."""
    drop, described = constraint.max_drop, METRICS.get(measured.name)
    if not drop or found.rows is None or described is None or not described.share or described.relative_to_original:
        return ""
    # The variance of a drop is the share of rows that differ, less its own square.
    differing = found.error**2 * found.rows + found.value**2
    needed = rows_to_show(drop, differing, confidence)
    if needed is None or needed <= found.rows or constraint.relative:
        return ""
    return (
        f" {found.rows:,} rows cannot show {difference(drop, measured.unit)}: about {needed:,} would, with as many "
        "rows that differ, if the artifact is really no worse."
    )


def _rows_needed(limit: _Limit, found: Bounded, confidence: float) -> int | None:
    at_scale = found.at_scale
    if found.rows is None or (found.rows < _LEAST_ROWS and at_scale is None):
        return None

    def reach(factor: float) -> float:
        assert at_scale is not None
        lower, upper = at_scale(factor)
        return upper - found.value if limit.value > found.value else found.value - lower

    distance = abs(limit.value - found.value)
    return rows_needed(found.rows, distance, found.error, confidence, None if at_scale is None else reach)


def _reason(constraint: Constraint, limit: _Limit, found: Bounded, measured: Measurement, confidence: float) -> str:
    """A sentence with the value, its bounds and the limit."""
    say = _wording(constraint, measured.unit)
    reason = f"{measured.name} is {'worse by ' if constraint.max_drop is not None else ''}{say(found.value)}"
    if _has_ends(found):
        reason += f" (one-sided {confidence * 100:g} % bounds: {say(found.lower)} and {say(found.upper)})"
    elif measured.count == 1 and found.rows is None and measured.name not in _EXACT:
        reason += " (one process measured it, so its scatter is unknown)"
    if found.heavy_tail:
        reason += " (a few rows carry most of it: bounds may be too narrow)"
    return f"{reason}; the limit is {say(limit.value)}."


def _wording(constraint: Constraint, unit: str) -> Callable[[float], str]:
    if constraint.relative:
        return lambda value: f"{plain(value * 100)} % of the original's"
    if constraint.max_drop is not None:
        return lambda value: difference(value, unit)
    return lambda value: amount(value, unit)


def _has_ends(found: Bounded) -> bool:
    return found.lower != found.upper and math.isfinite(found.lower) and math.isfinite(found.upper)
