"""What a profile says of itself: in how many runs of one process, by which clock, and how near to what was timed."""

from collections.abc import Mapping, Sequence
from typing import Any

from workers.evaluation.potential import profile_doubts
from workers.evaluation.words import amount
from workers.report.variants import Variant, is_number

_FEW_STEPS = 10
"""Of its clock: less than that is known to no better than a tenth."""


def doubts_of(report: Mapping[str, Any], variant: Variant) -> tuple[str, ...]:
    """The flags of a variant's profile: of operators, of the roofline, and of bounds that follow from them."""
    timed = variant.measured("latency_p50") or {}
    unprofiled = _profile(report, variant).get("unprofiled_ms")
    flags = [str(flag) for flag in timed.get("flags") or ()]
    return profile_doubts(unprofiled if is_number(unprofiled) else None, timed.get("value"), flags)


def doubts_of_all(report: Mapping[str, Any], variants: Sequence[Variant]) -> dict[str, tuple[str, ...]]:
    """The same of every variant that has a profile, by its id."""
    profiled = report.get("operators") or {}
    return {variant.id: doubts_of(report, variant) for variant in variants if profiled.get(variant.id)}


def operator_time(report: Mapping[str, Any], ms: float | None) -> str:
    """An operator's time in ms; after `~` where that is but a few steps of the clock."""
    if ms is None:
        return "–"
    step = _resolution(report)
    return f"{'~' if step is not None and ms < _FEW_STEPS * step else ''}{ms:.3f}"


def sentences(report: Mapping[str, Any], variants: Sequence[Variant]) -> list[str]:
    """How the times of operators came about: the profile of each of these models, and the clock."""
    said = []
    for variant in variants:
        profile = _profile(report, variant)
        keys = ("runs", "operators_ms", "unprofiled_ms")
        if not all(is_number(profile.get(key)) for key in keys):
            continue
        runs, total, whole = (profile[key] for key in keys)
        timed = variant.measured("latency_p50")
        beside = f", and {amount(float(timed['value']), 'ms')} where it was timed" if timed else ""
        said.append(
            f"{variant.name}: medians over {runs:,} runs in one process; operators add up to {amount(total, 'ms')}, "
            f"and a whole inference without the profiler took {amount(whole, 'ms')} there{beside}."
        )
    step = _resolution(report)
    if step is not None:
        said.append(
            f"The profiler's clock steps by {amount(1000 * step, 'µs')}: what is after ~ is less than {_FEW_STEPS} "
            "steps, and known to a step at best."
        )
    return said


def _profile(report: Mapping[str, Any], variant: Variant) -> Mapping[str, Any]:
    found = (report.get("profiles") or {}).get(variant.id)
    return found if isinstance(found, Mapping) else {}


def _resolution(report: Mapping[str, Any]) -> float | None:
    """The coarsest step of any profile's clock, in ms."""
    steps = [found.get("resolution_ms") for found in (report.get("profiles") or {}).values()]
    return max((float(step) for step in steps if is_number(step) and step > 0), default=None)
