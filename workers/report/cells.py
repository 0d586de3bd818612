"""What stands in a table: a value, what stands small below it, and what speaks against it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.domain.measurement import UNITS
from app.domain.metric import METRICS
from app.domain.variants import EXACT, Data, Measured, better_of, difference
from workers.report import wording
from workers.report.places import Place, place_of
from workers.report.variants import Found, Variant, ends_of, is_number

_UNPAIRED = "not paired"
_NO_INTERVAL = "no interval: it may be noise"
_OFTEN_UNSAID = ("runtime", "shapes", "threads", "batch")
"""Conditions that a comparison may leave out; without the others it is of single calls, of the data's shapes."""


@dataclass(frozen=True, slots=True)
class Cell:
    """A value as a table shows it, what stands small below it, and the flags that speak against it."""

    text: str
    small: str | None = None
    flags: tuple[str, ...] = ()


def measured_cell(found: Found | None) -> Cell:
    """A measurement with its interval, or the reason why there is none."""
    if found is None:
        return Cell("–", "not measured")
    if not is_number(found.get("value")):
        return Cell("–", str(found.get("reason") or "not measured"), flags_of(found))
    return Cell(wording.written(found), wording.interval(found), flags_of(found))


def difference_cell(artifact: Variant, place: Place, before: Found | None, after: Found | None, *, first: bool) -> Cell:
    """How an artifact's measurement differs from the original's of the same place.

    The paired comparison or drop where there is one; else by the intervals of both, and nothing where these cannot
    tell a difference from noise. `first`: it is the place that comparisons without conditions are of.
    """
    name = place.name
    if (compared := _compared(artifact, place, first=first)) is not None:
        # What was timed in turn has flags of its own; others say nothing of what disturbed the two.
        in_turn = is_number(compared.get("same_ratio"))
        return compared_cell(compared, flags_of(compared) if in_turn else flags_of(compared, before, after))
    if first and (drop := artifact.drops.get(name)) is not None and is_number(drop.get("value")):
        return Cell(wording.dropped(drop), wording.drop_interval(drop), flags_of(before, after))
    if before is None or after is None or not (is_number(before.get("value")) and is_number(after.get("value"))):
        return Cell("")
    if place.turn or (name in METRICS and METRICS[name].relative_to_original):
        return Cell("")
    return _unpaired(name, before, after)


def compared_cell(compared: Found, flags: tuple[str, ...]) -> Cell:
    """A paired comparison; no difference where there is no interval, as of one process, to tell it from noise."""
    if ends_of(compared) is None and compared.get("name") not in EXACT:
        return Cell("–", _NO_INTERVAL, flags)
    return Cell(wording.factor(compared), wording.factor_interval(compared), flags)


def flags_of(*found: Found | None) -> tuple[str, ...]:
    """What speaks against any of these, each flag once."""
    return tuple(dict.fromkeys(str(flag) for one in found for flag in (one or {}).get("flags") or ()))


def _compared(artifact: Variant, place: Place, *, first: bool) -> Found | None:
    """The paired comparison that was made under the conditions of a place."""
    for compared in artifact.document.get("comparisons") or ():
        if compared.get("name") != place.name or not is_number(compared.get("ratio")):
            continue
        if _is_of(compared.get("conditions") or {}, place, first=first):
            return compared  # type: ignore[no-any-return]
    return None


def _is_of(conditions: Mapping[str, Any], place: Place, *, first: bool) -> bool:
    if not conditions:
        return first
    given = place_of(place.name, conditions)
    told = all(getattr(given, key) in (None, getattr(place, key)) for key in _OFTEN_UNSAID)
    return told and all(getattr(given, key) == getattr(place, key) for key in ("case", "callers", "rate", "turn"))


def _unpaired(name: str, before: Found, after: Found) -> Cell:
    """Two measurements of one place that only their own intervals can tell apart."""
    found = difference(_alone(before, original=True), _bounded(before), _alone(after), _bounded(after))
    flags = flags_of(before, after)
    if found.side == "not_comparable":
        return Cell("–", found.reason, flags)
    if found.basis == "none":
        return Cell("–", _NO_INTERVAL, flags)
    if name not in UNITS:
        sign = -1.0 if better_of(name) == "higher" else 1.0
        change = sign * (found.difference or 0.0)
        drop: dict[str, Any] = {"metric": name, "value": change, "ci95": _turned(found.ci95, sign)}
        return Cell(wording.dropped(drop), _besides(wording.drop_interval(drop), exact=found.basis == "exact"), flags)
    if found.ratio is None:
        return Cell("the same, within noise" if found.side == "within_noise" else "–", _UNPAIRED, flags)
    compared = {
        "name": name,
        "ratio": found.ratio,
        "ci95": found.ratio_ci95,
        "within_noise": found.side == "within_noise",
    }
    text = _besides(wording.factor_interval(compared), exact=found.basis == "exact")
    return Cell(wording.factor(compared), text, flags)


def _besides(interval: str | None, *, exact: bool) -> str | None:
    return interval if exact else ", ".join(filter(None, (interval, _UNPAIRED)))


def _turned(ends: tuple[float, float] | None, sign: float) -> Sequence[float] | None:
    return None if ends is None else sorted(sign * end for end in ends)


def _bounded(found: Found) -> dict[str, Any]:
    """A measurement whose interval is whole, or none."""
    return {**found, "ci95": ends_of(found)}


def _alone(found: Found, *, original: bool = False) -> Measured:
    """A variant of which nothing is known but this: what is paired was looked for before."""
    return Measured(
        id="original" if original else "artifact",
        model="",
        job="",
        is_original=original,
        target="",
        data=Data("evaluation"),
        measurements=[found],
    )
