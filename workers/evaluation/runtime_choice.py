"""Which runtime wins, where a model was timed on several."""

from collections.abc import Sequence

from app.domain.measurement import Measurement
from app.domain.variants import ratio_bounds
from workers.evaluation.words import amount, times

_PLACE = ("threads", "batch", "case", "callers", "rate")
_DOUBTS = ("contended", "unstable", "unsettled", "noisy")


def compare_runtimes(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """A sentence on each other runtime beside the first; their processes share nothing, so intervals are combined."""
    timed = [found for found in measurements if found.name == "latency_p50" and found.value]
    said = []
    for other in timed[1:]:
        usual = timed[0]
        runtime, reference = (found.conditions.get("runtime") for found in (other, usual))
        same = all(other.conditions.get(name) == usual.conditions.get(name) for name in _PLACE)
        if same and runtime != reference:
            doubts = sorted({flag for found in (other, usual) for flag in found.flags if flag in _DOUBTS})
            doubt = f" These times are doubtful: {', '.join(doubts)}." if doubts else ""
            said.append(_beside(other, str(runtime), usual, str(reference)) + doubt)
    return tuple(said)


def _beside(other: Measurement, runtime: str, usual: Measurement, reference: str) -> str:
    assert other.value is not None
    assert usual.value is not None
    ends = None
    if other.ci95 is not None and usual.ci95 is not None:
        ends = ratio_bounds(other.value, other.ci95, usual.value, usual.ci95)
    if ends is None:
        times_of = f"{runtime} took {amount(other.value, 'ms')} here and {reference} {amount(usual.value, 'ms')}"
        return f"{times_of}: too few processes timed them to tell which is faster."
    low, high = ends
    if low <= 1 <= high:
        return f"{runtime} is as fast as {reference} here, within noise ({low:.2f} to {times(high)} its latency)."
    ratio = other.value / usual.value
    if ratio < 1:
        return f"{runtime} is {times(1 / ratio)} faster than {reference} here ({1 / high:.2f} to {1 / low:.2f})."
    return f"{runtime} is {times(ratio)} slower than {reference} here ({low:.2f} to {high:.2f})."
