"""Memory of a model: what its child used beyond a child with the smallest model there is."""

import statistics
from collections.abc import Sequence
from typing import Any

from app.domain.measurement import Measurement, absent
from workers.evaluation.bounds import TWO_SIDED_95, replicate_interval
from workers.evaluation.replicate import ZERO, MemoryReplicate


def bytes_above_zero(replicates: Sequence[MemoryReplicate], subject: str, field: str = "peak_bytes") -> list[float]:
    """Each child's bytes less the median of the zero children; below 0 is scatter and counts as 0.

    `field` is one of those of `MemoryReplicate` that hold bytes; empty where no zero or no child has it.
    """
    zeros = _values(replicates, ZERO, field)
    if not zeros:
        return []
    zero = statistics.median(zeros)
    return [max(value - zero, 0.0) for value in _values(replicates, subject, field)]


def footprint(replicates: Sequence[MemoryReplicate], subject: str, *, target: str | None = None) -> list[Measurement]:
    """`peak_memory` and `steady_memory` in bytes; intervals are across children, null where there was one.

    What a model holds once it is loaded (weights, and what the runtime made of them) and what its calls add to that
    (the arena of activations) are told apart in the conditions of the steady one.
    """
    stated = {"target": target} if target else {}
    loaded, steady = (bytes_above_zero(replicates, subject, field) for field in ("loaded_bytes", "steady_bytes"))
    parts: dict[str, Any] = {}
    if loaded and len(loaded) == len(steady):
        parts["loaded_bytes"] = statistics.median(loaded)
        parts["added_by_calls"] = statistics.median(
            max(after - before, 0.0) for before, after in zip(loaded, steady, strict=True)
        )
    return [
        _measured("peak_memory", bytes_above_zero(replicates, subject), stated),
        _measured("steady_memory", steady, stated | parts),
    ]


def _values(replicates: Sequence[MemoryReplicate], subject: str, field: str) -> list[float]:
    found = [getattr(replicate, field) for replicate in replicates if replicate.subject == subject]
    return [float(value) for value in found if value is not None]


def _measured(name: str, found: Sequence[float], conditions: dict[str, Any]) -> Measurement:
    if not found:
        return absent(name, "no child of its own measured it")
    across = replicate_interval(found, TWO_SIDED_95)
    return Measurement(
        name=name,
        value=statistics.median(found),
        unit="bytes",
        better="lower",
        ci95=None if across is None else (across.lower, across.upper),
        count=len(found),
        conditions={"children": len(found), **conditions},
    )
