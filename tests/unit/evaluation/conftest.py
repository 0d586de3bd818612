"""Invented results of measuring children."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from workers.evaluation.contention import Context
from workers.evaluation.replicate import LatencyReplicate, Memory, Pair, Warmth

QUIET = Context(seconds=2.0, cpus=2, threads=1, involuntary_switches=3, steal_share=0.0, neighbour_cpus=0.02)
BUSY = QUIET.model_copy(update={"neighbour_cpus": 1.2})


def timings(
    milliseconds: float, seed: Sequence[int], *, rounds: int = 10, calls: int = 20, scatter: float = 0.05
) -> list[list[float]]:
    """Blocks of samples with a tail to the right, their median at `milliseconds`."""
    rng = np.random.default_rng(list(seed))
    samples = milliseconds * rng.lognormal(0, scatter, (rounds, calls))
    return [[float(sample) for sample in block] for block in samples]


def latency_replicate(
    original: float = 10.0,
    artifact: float = 8.0,
    *,
    again: float | None = None,
    replicate: int = 1,
    candidate: str = "cnd_a",
    **changes: Any,
) -> LatencyReplicate:
    """A child in which the original took `original` ms, a second session of it `again`, the artifact `artifact`."""
    shape = {key: changes.pop(key) for key in ("rounds", "calls", "scatter") if key in changes}
    fields: dict[str, Any] = {
        "candidate": candidate,
        "replicate": replicate,
        "threads": 1,
        "batch": 1,
        "rows": 32,
        "load_ms": {"original": 20.0 + replicate, "artifact": 12.0 + replicate},
        "first_ms": {"original": 3 * original, "artifact": 3 * artifact},
        "cpu_seconds": {"original": original / 1000, "artifact": artifact / 1000},
        "warm_up": {name: Warmth(calls=30, seconds=0.1, settled=True) for name in ("original", "artifact")},
        "same": Pair(
            first=timings(original, (replicate, 1), **shape),
            second=timings(original if again is None else again, (replicate, 2), **shape),
        ),
        "against": Pair(
            first=timings(original, (replicate, 3), **shape), second=timings(artifact, (replicate, 4), **shape)
        ),
        "context": QUIET,
        "conditions": {
            name: {"runtime": "onnxruntime", "version": "1.32.0", "session_options": {}}
            for name in ("original", "artifact")
        },
        "seconds": 2.5,
    }
    return LatencyReplicate(**(fields | changes))


def five_children(original: float = 10.0, artifact: float = 8.0, **changes: Any) -> list[LatencyReplicate]:
    """Five children that differ by a little."""
    return [
        latency_replicate(original * shift, artifact * shift, replicate=number, **changes)
        for number, shift in enumerate((1.0, 1.004, 0.997, 1.002, 0.999), start=1)
    ]


def memory(subject: Literal["original", "artifact"], peak_bytes: int) -> Memory:
    return Memory(
        subject=subject,
        loaded_bytes=max(peak_bytes - 50, 0),
        steady_bytes=max(peak_bytes - 10, 0),
        peak_bytes=peak_bytes,
    )
