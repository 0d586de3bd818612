"""Which latencies are not known as well as the job asks, after the processes that have measured them so far."""

from pathlib import Path

from pydantic import BaseModel

from workers.evaluation.bounds import TWO_SIDED_95, replicate_interval
from workers.evaluation.evidence import by_conditions
from workers.evaluation.latency import per_child
from workers.evaluation.replicate import LatencyReplicate, Subject
from workers.steps.inputs import Progress, ScratchPath
from workers.steps.requests import JobRequest


class PrecisionRequest(JobRequest):
    """Look at what the timing children left."""

    groups: dict[str, tuple[ScratchPath, ...]]
    """Folders of the children of each condition, by the condition's name."""


class PrecisionResult(BaseModel):
    """Conditions whose interval is wider than asked, by their names."""

    wide: tuple[str, ...]


def run(request: PrecisionRequest, scratch: Path, folder: Path, progress: Progress) -> PrecisionResult:
    """Compare each interval across children, of the original's median and of the candidate's, with `measure.width`."""
    wide = []
    for name, folders in request.groups.items():
        children = [
            LatencyReplicate.model_validate_json((scratch / each / "result.json").read_bytes()) for each in folders
        ]
        if any(_is_wide(group, request.spec.measure.width) for group in by_conditions(children)):
            wide.append(name)
    return PrecisionResult(wide=tuple(wide))


def _is_wide(children: list[LatencyReplicate], width: float) -> bool:
    subjects: tuple[Subject, ...] = ("original", "artifact") if children[0].against is not None else ("original",)
    for subject in subjects:
        found = replicate_interval(per_child("latency_p50", children, subject), TWO_SIDED_95)
        if found is None or found.upper - found.lower > width * found.value:
            return True
    return False
