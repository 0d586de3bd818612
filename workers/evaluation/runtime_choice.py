"""Which runtime wins, where a model was timed on several."""

from collections.abc import Sequence

from app.domain.measurement import Measurement
from app.domain.variants import ratio_bounds
from workers.evaluation.words import times

_PLACE = ("threads", "batch", "case", "callers", "rate")
_DOUBTS = ("contended", "unstable", "unsettled", "noisy")


def compare_runtimes(measurements: Sequence[Measurement]) -> tuple[str, ...]:
    """A sentence on each other runtime beside the first; their processes share nothing, so intervals are combined."""
    timed = [found for found in measurements if found.name == "latency_p50" and found.value and found.ci95]
    usual = timed[0] if timed else None
    said = []
    for other in timed[1:]:
        assert usual is not None
        runtime, reference = (found.conditions.get("runtime") for found in (other, usual))
        same = all(other.conditions.get(name) == usual.conditions.get(name) for name in _PLACE)
        if same and runtime != reference and (sentence := _beside(other, usual)):
            doubts = sorted({flag for found in (other, usual) for flag in found.flags if flag in _DOUBTS})
            doubt = f" These times are doubtful: {', '.join(doubts)}." if doubts else ""
            said.append(f"{runtime} is {sentence.format(reference=reference)}{doubt}")
    return tuple(said)


def _beside(other: Measurement, usual: Measurement) -> str | None:
    if other.value is None or usual.value is None or other.ci95 is None or usual.ci95 is None:
        return None
    ends = ratio_bounds(other.value, other.ci95, usual.value, usual.ci95)
    if ends is None:
        return None
    low, high = ends
    if low <= 1 <= high:
        return f"as fast as {{reference}} here, within noise ({low:.2f} to {times(high)} its latency)."
    ratio = other.value / usual.value
    if ratio < 1:
        return f"{times(1 / ratio)} faster than {{reference}} here ({1 / high:.2f} to {1 / low:.2f})."
    return f"{times(ratio)} slower than {{reference}} here ({low:.2f} to {high:.2f})."
