"""Which steps a job has, in which folder each works, and how far along each is."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from app.domain.job import Stage

MEMORY_CHILDREN = 3
"""Peaks of fresh processes differ by less than their times do, so that fewer tell as much."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step to run: its name for the child, its folder in scratch, and the stage that callers see."""

    name: str
    folder: str
    stage: Stage
    request: dict[str, Any]


# Where each stage begins, as a share of the whole job; measuring takes most of the time of a small model.
_BEGINS: dict[Stage, float] = {
    "inspect": 0.0,
    "baseline": 0.05,
    "calibrate": 0.12,
    "candidates": 0.25,
    "gate": 0.93,
    "package": 0.96,
}
MEASURING_BEGINS = 0.45
"""The second part of the stage `candidates`: fresh children that measure."""


def progress_at(stage: Stage, share: float, *, measuring: bool = False) -> float:
    """Progress of the whole job when a stage is `share` done, from 0 to 1."""
    stages = list(_BEGINS)
    begin = MEASURING_BEGINS if measuring else _BEGINS[stage]
    later = [*stages[stages.index(stage) + 1 :]]
    end = _BEGINS[later[0]] if later else 1.0
    if stage == "candidates" and not measuring:
        end = MEASURING_BEGINS
    return round(begin + (end - begin) * min(max(share, 0.0), 1.0), 4)


def measuring_steps(
    original: dict[str, Any],
    candidates: list[dict[str, Any]],
    common: dict[str, Any],
    *,
    replicates: int,
    seconds: float,
    batches: Sequence[int] | None = None,
) -> list[Step]:
    """The measurements of a job, each for a child of its own.

    Memory first (children for nothing at all, and for each model), then `replicates` children for latency of each
    candidate beside the original, under each pair of threads and rows a call that the job asks for. `batches` are
    the rows a call that the model takes of those.
    """
    measure = common["spec"]["measure"]
    conditions = tuple(dict.fromkeys(product(measure["threads"], batches or measure["batch"])))
    models = {"zero": None, "original": original, **{found["id"]: found for found in candidates}}
    steps = [
        Step("measure_memory", f"memory-{name}-{number}", "candidates", {**common, "subject": name, "model": model})
        for number in range(1, min(replicates, MEMORY_CHILDREN) + 1)
        for name, model in models.items()
    ]
    steps += [
        Step(
            "measure_latency",
            f"latency-{found['id']}-{threads}x{batch}-{replicate}",
            "candidates",
            {
                **common,
                "candidate_id": found["id"],
                "replicate": replicate,
                "baseline": original,
                "candidate": found,
                "threads": threads,
                "batch": batch,
                "seconds": seconds,
            },
        )
        for replicate in range(1, replicates + 1)
        for threads, batch in conditions
        for found in candidates
    ]
    return steps
