"""Which variants of a model no other beats, and which is best under constraints, as sure as the intervals are."""

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from app.domain.goal import CEILINGS, Minimizable
from app.domain.measurement import UNITS
from app.domain.metric import ALWAYS, METRICS
from app.domain.variants import EXACT, Ends, Measured, better_of, comparable, difference, ratio_bounds

CONSTRAINT_SYNTAX = r"(?:(max_drop):)?([a-z0-9_]{1,64})(<=|>=)([0-9.eE+-]{1,32})"
"""`top1>=0.9`, `latency_p50<=5`, `max_drop:top1<=0.01`."""

_CONSTRAINT = re.compile(CONSTRAINT_SYNTAX)
_TRADED = ("latency_p50", "artifact_bytes")
_BEYOND_ONE = ("cer", "wer")
"""Shares of the labels' length, which edits may exceed."""
_BOUNDED = sorted({*METRICS, *UNITS, *CEILINGS})

Standing = Literal["met", "missed", "undecided", "unknown"]


class BadConstraint(ValueError):
    """A constraint that cannot be read; `code` is stable."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Bound:
    """One constraint: a value, or the drop from the original, and what it may be at most or must be at least.

    `text` is how the caller wrote it. Shares and their drops are fractions, and a positive drop is worse.
    """

    text: str
    name: str
    is_drop: bool
    at_most: bool
    limit: float

    def standing(self, variant: Measured, original: Measured | None) -> Standing:
        """`met` where the whole interval is inside, `missed` where it is outside, `undecided` between."""
        ends = self._dropped(variant, original) if self.is_drop else _interval(variant, self.name)
        if ends is None:
            return "unknown"
        low, high = ends if self.at_most else (-ends[1], -ends[0])
        limit = self.limit if self.at_most else -self.limit
        if high <= limit:
            return "met"
        return "undecided" if low <= limit else "missed"

    def _dropped(self, variant: Measured, original: Measured | None) -> Ends | None:
        if variant.is_original:
            return 0.0, 0.0
        after = variant.measured(self.name)
        if after is None:
            return None
        if self.name in METRICS and METRICS[self.name].relative_to_original:
            # The original compared with itself is at its best, so the value is the drop, turned round.
            ends = _interval(variant, self.name)
            ideal = METRICS[self.name].ideal
            if ends is None or ideal is None:
                return None
            drops = [ideal - end if better_of(self.name) == "higher" else end - ideal for end in ends]
            return min(drops), max(drops)
        before = original.measured(self.name) if original else None
        if original is None or before is None:
            return None
        found = difference(original, before, variant, after)
        sign = -1 if better_of(self.name) == "higher" else 1
        if found.ci95 is not None:
            both = [sign * end for end in found.ci95]
        elif found.difference is not None and found.basis == "exact":
            both = [sign * found.difference] * 2
        else:
            return None
        return min(both), max(both)


@dataclass(frozen=True, slots=True)
class Placed:
    """A variant on the frontier's axes.

    `costs` are multiples of the original's by name, with their intervals where there are any. `pareto`: no other of the
    group beats it. `standings` are those of the constraints, in their order.
    """

    variant: Measured
    costs: Mapping[str, tuple[float, Ends | None]]
    pareto: bool
    standings: tuple[Standing, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """The variant with the least cost that meets every constraint, judged by the upper end of its interval.

    `indistinguishable` are others that meet them and whose intervals reach as low. Null with a reason where none is.
    """

    variant: Measured | None
    indistinguishable: tuple[Measured, ...] = ()
    reason: str | None = None


def read_bound(text: str) -> Bound:
    """Read a constraint. Raises `BadConstraint`: `invalid_constraint`, `unknown_metric`."""
    found = _CONSTRAINT.fullmatch(text.replace(" ", ""))
    limit = _number(found[4]) if found else None
    if found is None or limit is None:
        raise BadConstraint(
            "invalid_constraint",
            f"{text[:100]!r} is no constraint. Write a name, <= or >= and a number, such as top1>=0.9 or "
            "latency_p50<=5; or the greatest drop from the original, such as max_drop:top1<=0.01.",
        )
    name = CEILINGS.get(found[2], found[2])
    if name not in _BOUNDED:
        near = difflib.get_close_matches(name, _BOUNDED, n=2)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"There are {', '.join(_BOUNDED)}."
        raise BadConstraint("unknown_metric", f"Nothing called {name} is measured. {hint}")
    if found[1] and found[3] == ">=":
        raise BadConstraint("invalid_constraint", f"A drop can only be bounded from above: write {found[1]}:{name}<=….")
    if name in METRICS and METRICS[name].unit == "fraction" and name not in _BEYOND_ONE and not -1 <= limit <= 1:
        drop = f"{found[1]}:" if found[1] else ""
        raise BadConstraint(
            "invalid_constraint",
            f"{name} is a fraction from 0 to 1, and {limit:g} bounds nothing: for {limit:g} % write "
            f"{drop}{name}{found[3]}{limit / 100:g}.",
        )
    return Bound(text, name, bool(found[1]), found[3] == "<=", limit)


def place(variants: Sequence[Measured], bounds: Sequence[Bound]) -> tuple[list[Placed], list[str]]:
    """Put variants that are comparable on common axes, and mark those that no other beats.

    The axes are latency, size and the first metric of the task that all have, else of fidelity; what one lacks is no
    axis. Costs within noise of the original's count as equal to it. Returns the variants and the names of the axes.
    """
    original = next((variant for variant in variants if variant.is_original), None)
    costs = [_costs(variant, original) for variant in variants]
    axes = [name for name in _TRADED if all(name in found for found in costs)]
    accuracy = _accuracy(variants)
    points = [
        (*(_level(cost[name]) for name in axes), *((_loss(variant, accuracy),) if accuracy else ()))
        for variant, cost in zip(variants, costs, strict=True)
    ]
    placed = [
        Placed(
            variant,
            cost,
            pareto=not any(_beats(other, point) for other in points),
            standings=tuple(bound.standing(variant, original) for bound in bounds),
        )
        for variant, cost, point in zip(variants, costs, points, strict=True)
    ]
    return placed, [*axes, *([accuracy] if accuracy else [])]


def choose(placed: Sequence[Placed], bounds: Sequence[Bound], minimize: Minimizable) -> Choice:
    """The best under the constraints; ties go to the one that is measured better."""
    name = CEILINGS[minimize]
    able = [each for each in placed if all(standing == "met" for standing in each.standings)]
    costed = [each for each in able if name in each.costs]
    if not able:
        return Choice(None, reason=_why_none(placed, bounds))
    if not costed:
        return Choice(None, reason=f"{name} was measured of none that meets the constraints.")
    best = min(costed, key=lambda each: (_reach(each, name)[1], each.costs[name][0]))
    reach = _reach(best, name)[1]
    near = tuple(each.variant for each in costed if each is not best and _reach(each, name)[0] <= reach)
    return Choice(best.variant, near)


def _costs(variant: Measured, original: Measured | None) -> dict[str, tuple[float, Ends | None]]:
    """Latency, size and memory as multiples of the original's: paired in one job where they are, else by value."""
    found: dict[str, tuple[float, Ends | None]] = {}
    for name in CEILINGS.values():
        measured = variant.measured(name)
        compared = variant.compared(name, (measured or {}).get("conditions"))
        before = original.measured(name) if original else None
        if variant.is_original and measured is not None:
            found[name] = 1.0, None
        elif compared is not None:
            ends = compared.get("ci95")
            found[name] = float(compared["ratio"]), (float(ends[0]), float(ends[1])) if ends else None
        elif (
            original is not None
            and measured is not None
            and before is not None
            and before["value"]
            and comparable(original, before, variant, measured)
        ):
            value, known = float(measured["value"]), float(before["value"])
            both = measured.get("ci95"), before.get("ci95")
            ends = ratio_bounds(value, tuple(both[0]), known, tuple(both[1])) if both[0] and both[1] else None
            found[name] = value / known, ends
    return found


def _accuracy(variants: Sequence[Measured]) -> str | None:
    """The metric that variants are told apart by; the original is perfect in those that compare with it."""
    tasks = [name for name, metric in METRICS.items() if not metric.relative_to_original]
    if name := next((name for name in tasks if all(variant.measured(name) for variant in variants)), None):
        return name
    made = [variant for variant in variants if not variant.is_original]
    return next((name for name in ALWAYS if made and all(variant.measured(name) for variant in made)), None)


def _loss(variant: Measured, metric: str) -> float:
    """How bad a variant is in a metric, for comparing only."""
    found = variant.measured(metric)
    if found is None:
        return -math.inf  # the original, which is what the metric compares with
    return float(found["value"]) * (-1 if better_of(metric) == "higher" else 1)


def _level(cost: tuple[float, Ends | None]) -> float:
    ratio, ends = cost
    return 1.0 if ends is not None and ends[0] <= 1 <= ends[1] else ratio


def _beats(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first != second and all(mine <= theirs for mine, theirs in zip(first, second, strict=True))


def _reach(placed: Placed, name: str) -> Ends:
    """Where a cost may be: anywhere, where it scatters and has no interval."""
    ratio, ends = placed.costs[name]
    if ends is not None:
        return ends
    return (ratio, ratio) if placed.variant.is_original or name in EXACT else (0.0, math.inf)


def _interval(variant: Measured, name: str) -> Ends | None:
    """Where a value may be; null where nothing tells, since it scatters and has no interval."""
    found = variant.measured(name)
    if found is None:
        return None
    if ends := found.get("ci95"):
        return float(ends[0]), float(ends[1])
    value = float(found["value"])
    if name in METRICS and METRICS[name].extreme:
        return value, math.inf
    return (value, value) if name in EXACT else None


def _why_none(placed: Sequence[Placed], bounds: Sequence[Bound]) -> str:
    for number, bound in enumerate(bounds):
        standings = {each.standings[number] for each in placed}
        if "met" not in standings:
            if "undecided" in standings and bound.name in METRICS and METRICS[bound.name].extreme:
                return (
                    f"No variant is sure to satisfy {bound.text}, and no number of rows bounds it: name another metric."
                )
            if "undecided" in standings:
                return f"No variant is sure to satisfy {bound.text}; more rows or more processes may decide it."
            if standings == {"unknown"}:
                return f"{bound.name} was not measured here, or has no interval."
            if "unknown" in standings:
                return (
                    f"No variant is known to satisfy {bound.text}: of some, {bound.name} was not measured here, or has "
                    "no interval."
                )
            return f"No variant satisfies {bound.text}."
    return "Each constraint is satisfied by some variant, but no variant satisfies all."


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
