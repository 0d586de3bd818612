"""Peak memory of a model: what its child used beyond a child with the smallest model there is."""

import statistics
from collections.abc import Sequence

from app.domain.measurement import Measurement, absent
from workers.evaluation.bounds import TWO_SIDED_95, replicate_interval
from workers.evaluation.replicate import ZERO, MemoryReplicate

_NAME = "peak_memory"


def bytes_above_zero(replicates: Sequence[MemoryReplicate], subject: str) -> list[float]:
    """Each child's peak less the median of the zero children; below 0 is scatter and counts as 0."""
    zeros = [replicate.peak_bytes for replicate in replicates if replicate.subject == ZERO]
    if not zeros:
        return []
    zero = statistics.median(zeros)
    return [max(replicate.peak_bytes - zero, 0.0) for replicate in replicates if replicate.subject == subject]


def peak_memory(replicates: Sequence[MemoryReplicate], subject: str, *, target: str | None = None) -> Measurement:
    """The measurement in bytes; the interval is across children, null where there was one."""
    found = bytes_above_zero(replicates, subject)
    if not found:
        return absent(_NAME, "no child of its own measured it")
    across = replicate_interval(found, TWO_SIDED_95)
    return Measurement(
        name=_NAME,
        value=statistics.median(found),
        unit="bytes",
        better="lower",
        ci95=None if across is None else (across.lower, across.upper),
        count=len(found),
        conditions={"children": len(found), **({"target": target} if target else {})},
    )
