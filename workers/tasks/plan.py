"""Which steps a job has, in which folder each works, and how far along each is."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from app.domain.job import Stage

LOAD_CHILDREN = 5
"""A load lasts longer than a series of calls, and what it is asked for is how it bends, not its last percent: as few
processes as an interval can be made of."""


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


@dataclass(frozen=True, slots=True)
class Condition:
    """What a latency holds for: which candidate (None: the original alone), threads, rows a call, and case."""

    candidate: dict[str, Any] | None
    threads: int
    batch: int
    case: str | None = None
    shapes: dict[str, Any] | None = None
    runtime: str = "onnxruntime"
    usual: bool = True
    """Whether the runtime is the one that goals use."""

    @property
    def subject(self) -> str:
        """The candidate's id, or `original`."""
        return str(self.candidate["id"]) if self.candidate is not None else "original"

    @property
    def key(self) -> str:
        """A name of it that is good for a folder."""
        runtime = "" if self.usual else f"-{self.runtime}"
        return f"{self.subject}-{self.case or f'{self.threads}x{self.batch}'}{runtime}"

    @property
    def text(self) -> str:
        """It in words."""
        who = "the original" if self.candidate is None else self.subject
        shape = f"in the case {self.case!r}" if self.case else f"with {_count(self.batch, 'row')} a call"
        return f"{who} on {self.runtime}, {shape}, {_count(self.threads, 'thread')}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' * (number != 1)}"


def load_steps(
    original: dict[str, Any],
    candidates: Sequence[dict[str, Any]],
    common: dict[str, Any],
    *,
    children: int,
    runtime: str = "onnxruntime",
) -> list[Step]:
    """A child for each time that a model is put under load; none where the job asks for none."""
    if not common["spec"]["measure"].get("load"):
        return []
    models = {"original": original, **{found["id"]: found for found in candidates}}
    return [
        Step(
            "measure_load",
            f"load-{name}-{number}",
            "candidates",
            {**_measured(common), "subject": name, "subject_model": model, "replicate": number, "runtime": runtime},
        )
        for number in range(1, min(children, LOAD_CHILDREN) + 1)
        for name, model in models.items()
    ]


def _measured(common: dict[str, Any]) -> dict[str, Any]:
    """What a measuring child needs to know of a job: reading more takes longer than the model's loading."""
    told = {"measure": common["spec"]["measure"], "datasets": common.get("datasets", {})}
    return told | ({"providers": common["providers"]} if "providers" in common else {})


def conditions(
    candidates: Sequence[dict[str, Any]],
    measure: dict[str, Any],
    batches: Sequence[int] | None = None,
    cases: dict[str, dict[str, Any]] | None = None,
    runtimes: Sequence[str] = ("onnxruntime",),
) -> list[Condition]:
    """Each candidate, or the original alone, under each pair of threads and rows a call, and in each case.

    Under the first pair on every runtime, otherwise on the first.

    `batches` are the rows a call that the model takes of those that are asked for, `cases` shapes by name.
    """
    timed: list[dict[str, Any] | None] = [*candidates] if candidates else [None]
    pairs = list(dict.fromkeys(product(measure["threads"], batches or measure["batch"])))
    usual, *others = runtimes
    found = [Condition(each, threads, batch, runtime=usual) for threads, batch in pairs for each in timed]
    found += [Condition(each, *pairs[0], runtime=runtime, usual=False) for runtime in others for each in timed]
    return found + [
        Condition(each, measure["threads"][0], 1, case, shapes, usual)
        for case, shapes in (cases or {}).items()
        for each in timed
    ]


def profile_steps(
    original: dict[str, Any],
    candidates: Sequence[dict[str, Any]],
    common: dict[str, Any],
    *,
    runtime: str,
    seconds: float,
    peaks: dict[str, Any] | None,
) -> list[Step]:
    """A child for each model, in which it is run operator by operator, under the first of each condition."""
    models = {"original": original, **{found["id"]: found for found in candidates}}
    return [
        Step(
            "profile",
            f"profile-{name}",
            "candidates",
            {
                **_measured(common),
                "subject": name,
                "model": model,
                "runtime": runtime,
                "seconds": seconds,
                "peaks": peaks,
            },
        )
        for name, model in models.items()
    ]


def latency_step(
    condition: Condition, replicate: int, original: dict[str, Any], common: dict[str, Any], *, seconds: float
) -> Step:
    """One more fresh child for a condition."""
    return Step(
        "measure_latency",
        f"latency-{condition.key}-{replicate}",
        "candidates",
        {
            **_measured(common),
            "candidate_id": condition.subject,
            "replicate": replicate,
            "baseline": original,
            "candidate": condition.candidate,
            "case": condition.case,
            "shapes": condition.shapes or {},
            "threads": condition.threads,
            "batch": condition.batch,
            "runtime": condition.runtime,
            "seconds": seconds,
        },
    )
