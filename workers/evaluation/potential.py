"""What fewer bits could do at most, in words, before anybody tries them."""

from collections.abc import Sequence

from workers.evaluation.roofline import Roofline
from workers.evaluation.words import times

_LITTLE = 1.05
"""A bound on the speed-up below this promises nothing that could be seen."""


APART = 0.1
"""Of the latency: a profile whose own inferences took so much longer or shorter is not of the model as it was timed."""

PROFILE_APART = "profile_apart"

_SAYS = {
    "contended": "other work ran on the machine",
    PROFILE_APART: "its inferences took another time than those that were timed",
}


def profile_doubts(unprofiled_ms: float | None, p50_ms: float | None, flags: Sequence[str]) -> tuple[str, ...]:
    """What speaks against a profile, which is of one process alone.

    `unprofiled_ms` is an inference in that process without the profiler, `p50_ms` the latency under the same
    conditions across processes, `flags` what speaks against that.
    """
    found = ["contended"] if "contended" in flags else []
    if unprofiled_ms and p50_ms and not 1 - APART <= unprofiled_ms / p50_ms <= 1 + APART:
        found.append(PROFILE_APART)
    return tuple(found)


def potential(found: Roofline, doubts: Sequence[str] = ()) -> tuple[str, ...]:
    """Sentences on what 8 bits, and weights of 4 bits, could do at most on this machine.

    `doubts` are those of the profile that it is from.
    """
    reasons = " and ".join(_SAYS.get(doubt, doubt) for doubt in doubts)
    doubtful = f" Doubtful, as it follows from one profile: {reasons}." if reasons else ""
    said = []
    for name, bound in (("8 bits", found.int8), ("Weights of 4 bits", found.int4_weights)):
        share = f"{bound.share:.0%} of its time is in operators that could gain"
        if bound.upper_bound is None:
            continue
        if bound.upper_bound < _LITTLE:
            said.append(f"{name} cannot make it faster here, by its roofline: {share}.{doubtful}")
            continue
        hope = bound.same_efficiency
        # Operators that are faster than a peak says already can hope for more than the bound: then nothing is told.
        hoped = "" if hope is None or hope >= bound.upper_bound else f", and {times(hope)} at its present efficiency"
        said.append(f"{name} could make it {times(bound.upper_bound)} as fast here at most{hoped}: {share}.{doubtful}")
    return tuple(said)
