"""Two models side by side: the ratio of what each child measured of both, and whether to believe it."""

import statistics
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict

from workers.evaluation.bounds import TWO_SIDED_95, replicate_interval
from workers.evaluation.replicate import LatencyReplicate, Pair
from workers.evaluation.timing import CALLS_A_BLOCK

SAME = (0.98, 1.02)
"""A session against a second one of the same model must come out in here, or the machine was not fit to
tell two models apart."""

DISTURBED_SHARE = 0.25
"""With more than this share of the children disturbed, a median over them is no safe place."""


class Comparison(BaseModel):
    """An artifact's value as a multiple of the original's.

    `ci95` is across children that measured both; null where both are exact or there was one child.
    `within_noise`: the interval covers 1. `same_ratio` is the original against a second session of itself.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    ratio: float
    ci95: tuple[float, float] | None = None
    within_noise: bool = False
    same_ratio: float | None = None
    children: int | None = None
    flags: tuple[str, ...] = ()
    conditions: dict[str, Any] = {}


def compare_latency(replicates: Sequence[LatencyReplicate]) -> Comparison:
    """Compare the p50 of children that timed the same two models under the same conditions."""
    ratios = [block_ratio(replicate.against) for replicate in replicates if replicate.against is not None]
    return _compared(
        "latency_p50",
        ratios,
        same_ratio=same_ratio(replicates),
        flags=flags_of(replicates),
        conditions=replicates[0].place(),
    )


def compare_paired(
    name: str, original: Sequence[float], artifact: Sequence[float], *, conditions: dict[str, Any] | None = None
) -> Comparison:
    """Compare two values of each child; both positive, in the same order of children."""
    ratios = [after / before for before, after in zip(original, artifact, strict=True)]
    return _compared(name, ratios, conditions=conditions)


def compare_exact(name: str, original: float, artifact: float) -> Comparison:
    """Compare two numbers that have no scatter, such as bytes of a file."""
    return Comparison(name=name, ratio=artifact / original, within_noise=original == artifact)


def block_ratio(pair: Pair) -> float:
    """The second session's time as a multiple of the first's in one child.

    The median over rounds of the ratio of the blocks' medians: what drifts slower than a round cancels.
    """
    return statistics.median(
        statistics.median(second) / statistics.median(first)
        for first, second in zip(pair.first, pair.second, strict=True)
    )


def same_ratio(replicates: Sequence[LatencyReplicate]) -> float:
    """The original against itself, the median over children."""
    return statistics.median(block_ratio(replicate.same) for replicate in replicates)


def flags_of(replicates: Sequence[LatencyReplicate]) -> tuple[str, ...]:
    """What speaks against these timings.

    `noisy`: the original differs from itself. `contended`: other work was seen in more than a quarter of the
    children; `clock_jumped`: a clock was set, or ran fast, or the machine slept in so many. `unsettled`: most warm-ups
    ended before the drift did. `short_blocks`: the model is too slow for blocks of 20 calls.
    """
    many = len(replicates) * DISTURBED_SHARE
    found = []
    if not SAME[0] <= same_ratio(replicates) <= SAME[1]:
        found.append("noisy")
    if sum(bool(replicate.contention()) for replicate in replicates) > many:
        found.append("contended")
    if sum(bool(replicate.context.clock_jumps()) for replicate in replicates) > many:
        found.append("clock_jumped")
    warm_ups = [warmth for replicate in replicates for warmth in replicate.warm_up.values()]
    if 2 * sum(not warmth.settled for warmth in warm_ups) > len(warm_ups):
        found.append("unsettled")
    if any(len(block) < CALLS_A_BLOCK for each in replicates for block in (each.against or each.same).first):
        found.append("short_blocks")
    return tuple(found)


def _compared(
    name: str,
    ratios: Sequence[float],
    *,
    same_ratio: float | None = None,
    flags: tuple[str, ...] = (),
    conditions: dict[str, Any] | None = None,
) -> Comparison:
    found = replicate_interval(ratios, TWO_SIDED_95)
    return Comparison(
        name=name,
        ratio=statistics.median(ratios),
        ci95=None if found is None else (found.lower, found.upper),
        within_noise=found is not None and found.lower <= 1 <= found.upper,
        same_ratio=same_ratio,
        children=len(ratios),
        flags=flags,
        conditions=conditions or {},
    )
