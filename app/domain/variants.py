"""A model or an artifact as a job measured it, and how two of them differ.

Intervals of differences, where nothing was paired, come from those of the two values: MOVER, the method of variance
estimates recovery (G. Zou and A. Donner, "Construction of confidence limits about effect measures: a general
approach", Statistics in Medicine 27, 2008, equations 9 and 10). It takes the values to be independent; those that share
rows are not, and then a little more is called noise than is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from app.domain.measurement import UNITS
from app.domain.metric import METRICS

Ends = tuple[float, float]
Found = Mapping[str, Any]
"""A measurement, comparison or drop as a job's outcome has it."""

Basis = Literal["paired", "through_original", "independent", "exact", "none"]
Side = Literal["better", "worse", "within_noise", "unknown", "not_comparable"]

_EXACT = frozenset({"artifact_bytes"})
_OF_TIME = ("target", "runtime", "version", "threads", "batch")
_OF_OUTPUTS = ("source", "dataset", "output", "labels", "rows")
_PLACE = ("threads", "batch", "output", "labels")
"""What tells measurements of one name in one job apart."""


@dataclass(frozen=True, slots=True)
class Data:
    """The rows that metrics were computed on: whose role they have in the job, and which bytes they are.

    `source` is `evaluation`, `calibration` or `synthetic`. `digest` is null for random rows, else it tells datasets
    apart, their preprocessing included.
    """

    source: str
    dataset: str | None = None
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One variant of a model with what one job measured of it.

    `id` is the artifact's, where there is one, or the model's where `is_original`; else the candidate's. Comparisons
    and drops are those with the original in the same job.
    """

    id: str
    model: str
    job: str
    is_original: bool
    target: str
    data: Data
    measurements: Sequence[Found]
    candidate: str | None = None
    artifact: str | None = None
    recipe: Mapping[str, Any] | None = None
    comparisons: Sequence[Found] = ()
    drops: Sequence[Found] = ()

    @property
    def fingerprint(self) -> str | None:
        """The machine, as the first measurement that names it does."""
        return next((found["conditions"]["target"] for found in self.measurements if _condition(found, "target")), None)

    def measured(self, name: str) -> Found | None:
        """The first measurement of a name that has a value: that under the conditions which goals use."""
        return next((one for one in self.measurements if one["name"] == name and one.get("value") is not None), None)

    def compared(self, name: str, conditions: Mapping[str, Any] | None = None) -> Found | None:
        """The paired comparison with the original, under these conditions, or under those that goals use."""
        for found in self.comparisons:
            given = found.get("conditions") or {}
            same = all((conditions or given).get(key) in (None, given[key]) for key in given)
            if found["name"] == name and found.get("ratio") and same:
                return found
        return None

    def dropped(self, name: str) -> Found | None:
        """By how much it is worse than the original in a metric, paired by rows."""
        return next((found for found in self.drops if found["metric"] == name), None)


@dataclass(frozen=True, slots=True)
class Difference:
    """How a value differs from the reference's.

    `difference` is value − reference in the measurement's unit, `ratio` value / reference, each with a two-sided 95 %
    interval where there is one; where ratios were paired the difference follows from them, for the reference's value,
    so that the day on which one was measured does not count. `basis` says where that comes from: `paired` (both were
    measured in turn, or on the same rows), `through_original` (each paired with the same original), `independent`
    (MOVER of two intervals), `exact` (numbers without scatter) or `none`. `differs_in` names conditions that are not
    the same, with both values: then there is no difference to state.
    """

    side: Side
    basis: Basis = "none"
    difference: float | None = None
    ci95: Ends | None = None
    ratio: float | None = None
    ratio_ci95: Ends | None = None
    differs_in: Mapping[str, tuple[Any, Any]] = field(default_factory=dict)
    reason: str | None = None


def difference_bounds(value: float, ends: Ends, reference: float, reference_ends: Ends) -> Ends:
    """Interval of value − reference from those of two independent values, at their confidence (MOVER)."""
    below = math.hypot(value - ends[0], reference_ends[1] - reference)
    above = math.hypot(ends[1] - value, reference - reference_ends[0])
    return value - reference - below, value - reference + above


def ratio_bounds(value: float, ends: Ends, reference: float, reference_ends: Ends) -> Ends | None:
    """Interval of value / reference, MOVER on the logarithms; null where anything is not above zero."""
    everything = (value, *ends, reference, *reference_ends)
    if min(everything) <= 0:
        return None
    logs = [math.log(each) for each in everything]
    low, high = difference_bounds(logs[0], (logs[1], logs[2]), logs[3], (logs[4], logs[5]))
    return math.exp(low), math.exp(high)


def place_of(found: Found) -> tuple[Any, ...]:
    """What a measurement is matched by: its name, and the conditions that one job varies."""
    return (found["name"], *(_condition(found, key) for key in _PLACE))


def same_place(variant: Measured, found: Found) -> Found | None:
    """The measurement of a variant that stands for `found`: under the same conditions, else the first of that name."""
    named = [one for one in variant.measurements if one["name"] == found["name"]]
    return next((one for one in named if place_of(one) == place_of(found)), named[0] if named else None)


def difference(reference: Measured, before: Found, variant: Measured, after: Found) -> Difference:
    """How `after`, a measurement of `variant`, differs from `before`, the reference's of the same name."""
    if before.get("value") is None or after.get("value") is None:
        missing = before if before.get("value") is None else after
        return Difference("unknown", reason=str(missing.get("reason") or "It was not measured."))
    differs_in = _differences_in_conditions(reference, before, variant, after)
    if differs_in:
        return Difference(
            "not_comparable",
            differs_in=differs_in,
            reason="Measured under other conditions, so the two numbers are no difference: "
            + "; ".join(f"{name} {one} and {other}" for name, (one, other) in differs_in.items())
            + ".",
        )
    return _paired(reference, before, variant, after) or _independent(before, after)


def better_of(name: str) -> str:
    """Whether more or less of a measurement is better."""
    return METRICS[name].better if name in METRICS else UNITS.get(name, ("1", "higher"))[1]


def _paired(reference: Measured, before: Found, variant: Measured, after: Found) -> Difference | None:
    """What was measured in turn or on the same rows, directly or each with the same original."""
    if reference.model != variant.model or (reference.is_original and variant.is_original):
        return None
    basis: Basis = "paired" if reference.is_original or variant.is_original else "through_original"
    return _by_ratios(reference, before, variant, after, basis) or _by_drops(reference, before, variant, after, basis)


def _by_ratios(reference: Measured, before: Found, variant: Measured, after: Found, basis: Basis) -> Difference | None:
    name, conditions = str(after["name"]), after.get("conditions") or {}
    first = _ratio_to_original(reference, name, conditions)
    second = _ratio_to_original(variant, name, conditions)
    if first is None or second is None:
        return None
    ends = ratio_bounds(*second, *first)
    if ends is None:
        return None
    known, ratio = float(before["value"]), second[0] / first[0]
    side = _side(name, ratio - 1, (ends[0] - 1, ends[1] - 1))
    change, reach = known * (ratio - 1), (known * (ends[0] - 1), known * (ends[1] - 1))
    return Difference(side, basis, change, reach, ratio, ends)


def _by_drops(reference: Measured, before: Found, variant: Measured, after: Found, basis: Basis) -> Difference | None:
    name = str(after["name"])
    first, second = _drop_from_original(reference, name), _drop_from_original(variant, name)
    if first is None or second is None:
        return None
    sign = -1.0 if better_of(name) == "higher" else 1.0
    change = sign * (second[0] - first[0])
    one, other = (sign * end for end in difference_bounds(*second, *first))
    ends = min(one, other), max(one, other)
    ratio = after["value"] / before["value"] if before["value"] else None
    return Difference(_side(name, change, ends), basis, change, ends, ratio)


def _ratio_to_original(variant: Measured, name: str, conditions: Mapping[str, Any]) -> tuple[float, Ends] | None:
    if variant.is_original:
        return 1.0, (1.0, 1.0)
    found = variant.compared(name, conditions)
    if found is None or found.get("ci95") is None:
        return None
    return float(found["ratio"]), (float(found["ci95"][0]), float(found["ci95"][1]))


def _drop_from_original(variant: Measured, name: str) -> tuple[float, Ends] | None:
    if variant.is_original:
        return 0.0, (0.0, 0.0)
    found = variant.dropped(name)
    return None if found is None else (float(found["value"]), (float(found["ci95"][0]), float(found["ci95"][1])))


def _independent(before: Found, after: Found) -> Difference:
    """Two values that know nothing of each other, by their own intervals."""
    name, value, known = str(after["name"]), float(after["value"]), float(before["value"])
    change, ratio = value - known, value / known if known else None
    if name in _EXACT:
        return Difference(_side(name, change, (change, change)), "exact", change, None, ratio)
    if after.get("ci95") is None or before.get("ci95") is None:
        reason = "One of the two has no interval, so nothing tells their difference from noise."
        return Difference("unknown", "none", change, None, ratio, reason=reason)
    (low, high), (least, most) = (map(float, found["ci95"]) for found in (after, before))
    ends = difference_bounds(value, (low, high), known, (least, most))
    return Difference(
        _side(name, change, ends),
        "independent",
        change,
        ends,
        ratio,
        ratio_bounds(value, (low, high), known, (least, most)),
    )


def _side(name: str, change: float, ends: Ends) -> Side:
    if ends[0] <= 0 <= ends[1]:
        return "within_noise"
    return "better" if (change > 0) == (better_of(name) == "higher") else "worse"


def _differences_in_conditions(
    reference: Measured, before: Found, variant: Measured, after: Found
) -> dict[str, tuple[Any, Any]]:
    name = str(after["name"])
    if name in _EXACT:
        return {}
    keys = _OF_OUTPUTS if name in METRICS else ("target",) if name == "peak_memory" else _OF_TIME
    found: dict[str, tuple[Any, Any]] = {}
    if name in METRICS and METRICS[name].relative_to_original and reference.model != variant.model:
        found["original"] = reference.model, variant.model
    for key in keys:
        if key == "dataset":
            pair: tuple[Any, Any] = (reference.data.digest, variant.data.digest)
        else:
            pair = _condition(before, key), _condition(after, key)
        if pair[0] != pair[1]:
            found[key] = (reference.data.dataset, variant.data.dataset) if key == "dataset" else pair
    return found


def _condition(found: Found, key: str) -> Any:
    return (found.get("conditions") or {}).get(key)
