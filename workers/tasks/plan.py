"""Which steps a job has, in which folder each works, and how far along each is."""

from dataclasses import dataclass
from typing import Any

from app.domain.job import Stage


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
) -> list[Step]:
    """The measurements of a job, each for a child of its own.

    Memory first (one child for nothing at all, one for each model), then `replicates` children for latency
    of each candidate beside the original.
    """
    steps = [Step("measure_memory", "memory-zero", "candidates", {**common, "model": None})]
    models = {"original": original, **{found["id"]: found for found in candidates}}
    steps += [
        Step("measure_memory", f"memory-{name}", "candidates", {**common, "subject": name, "model": model})
        for name, model in models.items()
    ]
    for replicate in range(1, replicates + 1):
        steps += [
            Step(
                "measure_latency",
                f"latency-{found['id']}-{replicate}",
                "candidates",
                {
                    **common,
                    "candidate_id": found["id"],
                    "replicate": replicate,
                    "baseline": original,
                    "candidate": found,
                    "seconds": seconds,
                },
            )
            for found in candidates
        ]
    return steps
