"""A model or an artifact as a job measured it, and how two of them differ.

Intervals of differences, where nothing was paired, come from those of the two values: MOVER, the method of variance
estimates recovery (G. Zou and A. Donner, "Construction of confidence limits about effect measures: a general
approach", Statistics in Medicine 27, 2008, equations 9 and 10). It takes the values to be independent; those that share
rows are not, and then a little more is called noise than is.
"""

import json
import math
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from app.domain.measurement import UNITS
from app.domain.metric import METRICS

Ends = tuple[float, float]
Found = Mapping[str, Any]
"""A measurement, comparison or drop as a job's outcome has it."""

Basis = Literal["paired", "through_original", "independent", "exact", "none"]
Side = Literal["better", "worse", "within_noise", "unknown", "not_comparable"]

EXACT = frozenset({"artifact_bytes"})
"""What has no scatter, so that a value without an interval is the whole truth."""

OF_RUNNING = (
    "runtime", "version", "providers", "device", "threads", "batch", "shapes", "case", "callers", "rate",
)  # fmt: skip
"""The conditions under which a model was run for its times and its memory: what ran it, on what, how loaded."""

_OF_TIME = ("target", *OF_RUNNING)
_OF_OUTPUTS = ("source", "output", "labels", "rows")
_PLACE = (*OF_RUNNING, "output", "labels")
"""What tells measurements of one name apart."""

_OF_RUNTIME = frozenset({"version", "providers", "device"})
"""What differs of itself where the runtime does."""

_OF_LOAD = frozenset({"shapes", "case", "callers", "rate"})
"""Conditions that only some measurements have: to have none is another condition than to have one."""


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
    def runtimes(self) -> tuple[str | None, ...]:
        """What ran it while its latency was measured; the first is the one that goals and metrics use."""
        timed = [found for found in self.measurements if found["name"] == "latency_p50"]
        return tuple(dict.fromkeys(_condition(found, "runtime") for found in timed if found.get("value") is not None))

    def on(self, runtime: str | None) -> "Measured":
        """What is known of it on one of its runtimes: of metrics nothing but on the first, which computed them."""
        first = runtime == self.runtimes[0]

        def is_of_it(found: Found) -> bool:
            ran = _condition(found, "runtime")
            return ran == runtime or found["name"] in EXACT or (first and ran is None)

        return replace(
            self,
            measurements=[found for found in self.measurements if is_of_it(found)],
            comparisons=[found for found in self.comparisons if is_of_it(found)],
            drops=self.drops if first else (),
        )

    @property
    def fingerprint(self) -> str | None:
        """The machine, as the first measurement that names it does."""
        return next((found["conditions"]["target"] for found in self.measurements if _condition(found, "target")), None)

    def measured(self, name: str) -> Found | None:
        """The first measurement of a name that has a value: that under the conditions which goals use."""
        return next((one for one in self.measurements if one["name"] == name and one.get("value") is not None), None)

    def compared(self, name: str, conditions: Mapping[str, Any] | None = None) -> Found | None:
        """The paired comparison with the original, under these conditions, or under those that goals use.

        What jobs of earlier versions did not write down is no other condition.
        """
        for found in self.comparisons:
            if found["name"] == name and found.get("ratio") and _holds_under(found, conditions):
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


def running_conditions(found: Found | None) -> dict[str, Any]:
    """What ran a model for this measurement, on what and how loaded: those that are stated."""
    return {key: value for key in OF_RUNNING if (value := _condition(found or {}, key)) is not None}


def running_key(found: Found | None) -> tuple[Any, ...]:
    """The same to group by."""
    return tuple(_frozen(_condition(found or {}, key)) for key in OF_RUNNING)


def place_of(found: Found) -> tuple[Any, ...]:
    """What a measurement is matched by: its name, and the conditions that a job may vary."""
    return (found["name"], *(_frozen(_condition(found, key)) for key in _PLACE))


def same_place(variant: Measured, found: Found) -> Found | None:
    """The measurement of a variant that stands for `found`: that of the name which shares most of its conditions.

    Of several the first.
    """
    named = [one for one in variant.measurements if one["name"] == found["name"]]
    if len(named) < 2:
        return named[0] if named else None
    place = place_of(found)
    return max(named, key=lambda one: sum(map(operator.eq, place_of(one), place)))


def comparable(reference: Measured, before: Found, variant: Measured, after: Found) -> bool:
    """Whether two measurements of one name were made under the same conditions."""
    return not _differences_in_conditions(reference, before, variant, after)


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
    if name in EXACT:
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
    if name in EXACT:
        return {}
    keys = _OF_OUTPUTS if name in METRICS else _OF_TIME
    found: dict[str, tuple[Any, Any]] = {}
    if name in METRICS and _condition(before, "source") == _condition(after, "source") == "synthetic":
        # Made-up rows have the shapes that the model was timed on.
        found |= _differing(reference.measured("latency_p50") or {}, variant.measured("latency_p50") or {}, ["shapes"])
    if name in METRICS and METRICS[name].relative_to_original and reference.model != variant.model:
        found["original"] = reference.model, variant.model
    if name in METRICS and reference.data.digest != variant.data.digest:
        found["dataset"] = reference.data.dataset, variant.data.dataset
    found |= _differing(before, after, keys)
    return {key: pair for key, pair in found.items() if "runtime" not in found or key not in _OF_RUNTIME}


def _differing(before: Found, after: Found, keys: Iterable[str]) -> dict[str, tuple[Any, Any]]:
    pairs = {key: (_condition(before, key), _condition(after, key)) for key in keys}
    return {key: pair for key, pair in pairs.items() if _frozen(pair[0]) != _frozen(pair[1])}


def _holds_under(compared: Found, conditions: Mapping[str, Any] | None) -> bool:
    """Whether a comparison was made under conditions, as far as both name them."""
    given = compared.get("conditions") or {}
    if not conditions or not given:
        return True
    told = {key for key in OF_RUNNING if None not in (given.get(key), conditions.get(key))}
    return all(_frozen(given.get(key)) == _frozen(conditions.get(key)) for key in told | _OF_LOAD)


def _condition(found: Found, key: str) -> Any:
    return (found.get("conditions") or {}).get(key)


def _frozen(value: Any) -> Any:
    """A condition as something that can be matched by: shapes are objects of lists."""
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list | tuple) else value
