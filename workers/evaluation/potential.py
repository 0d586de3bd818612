"""What fewer bits could do at most, in words, before anybody tries them."""

from workers.evaluation.roofline import Roofline
from workers.evaluation.words import times

_LITTLE = 1.05
"""A bound on the speed-up below this promises nothing that could be seen."""


def potential(found: Roofline) -> tuple[str, ...]:
    """Sentences on what 8 bits, and weights of 4 bits, could do at most on this machine."""
    said = []
    for name, bound in (("8 bits", found.int8), ("Weights of 4 bits", found.int4_weights)):
        share = f"{bound.share:.0%} of its time is in operators that could gain"
        if bound.upper_bound is None:
            continue
        if bound.upper_bound < _LITTLE:
            said.append(f"{name} cannot make it faster here, by its roofline: {share}.")
            continue
        hope = bound.same_efficiency
        # Operators that are faster than a peak says already can hope for more than the bound: then nothing is told.
        hoped = "" if hope is None or hope >= bound.upper_bound else f", and {times(hope)} at its present efficiency"
        said.append(f"{name} could make it {times(bound.upper_bound)} as fast here at most{hoped}: {share}.")
    return tuple(said)
