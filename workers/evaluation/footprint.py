"""Memory of a model: what the processes that had it alone held beyond a one-node model."""

import statistics
from collections.abc import Sequence
from typing import Any

from app.domain.measurement import Measurement, absent
from workers.evaluation.bounds import TWO_SIDED_95, replicate_interval
from workers.evaluation.replicate import LatencyReplicate, Memory, Subject

UNREADABLE = "this platform does not tell a process's memory"
FEW = "it was alone in none of the processes: two at least are needed"


def memories(replicates: Sequence[LatencyReplicate], subject: Subject) -> list[Memory]:
    """What each child says in which that model was alone at first."""
    found = [replicate.memory for replicate in replicates]
    return [memory for memory in found if memory is not None and memory.subject == subject]


def footprint(
    replicates: Sequence[LatencyReplicate], subject: Subject, conditions: dict[str, Any]
) -> list[Measurement]:
    """`peak_memory` and `steady_memory` in bytes; intervals are across children, null where there was one.

    What a model holds once it is loaded and what its calls add to that (the arena of activations) are told apart in
    the conditions of the steady one.
    """
    found = memories(replicates, subject)
    parts: dict[str, Any] = {}
    if found:
        parts["loaded_bytes"] = statistics.median(memory.loaded_bytes for memory in found)
        parts["added_by_calls"] = statistics.median(
            max(memory.steady_bytes - memory.loaded_bytes, 0) for memory in found
        )
    reason = UNREADABLE if all(replicate.memory is None for replicate in replicates) else FEW
    return [
        _measured("peak_memory", [memory.peak_bytes for memory in found], conditions, reason),
        _measured("steady_memory", [memory.steady_bytes for memory in found], conditions | parts, reason),
    ]


def _measured(name: str, found: Sequence[float], conditions: dict[str, Any], reason: str) -> Measurement:
    if not found:
        return absent(name, reason).model_copy(update={"conditions": conditions})
    across = replicate_interval(found, TWO_SIDED_95)
    return Measurement(
        name=name,
        value=float(statistics.median(found)),
        unit="bytes",
        better="lower",
        ci95=None if across is None else (across.lower, across.upper),
        count=len(found),
        conditions=conditions | {"children": len(found)},
    )
