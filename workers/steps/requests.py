"""What the steps of a job are asked: the types of `request.json` that more than one step shares."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, Field

from app.domain.dataset import Role
from app.domain.job import JobSpec
from app.domain.measure import Measure
from app.domain.target import PROCESSOR
from workers.steps.inputs import DatasetFile, Providers, ScratchPath, StepRequest

Result = TypeVar("Result", bound=BaseModel)


class JobRequest(StepRequest):
    """What every step of a job is told."""

    spec: JobSpec
    """The job's specification with every default filled in."""
    model: ScratchPath
    """The model's `.onnx` file; its external data lie beside it."""
    session_options: dict[str, str] = Field(default_factory=dict)
    """What the model's session requires: those of an artifact that is evaluated."""
    datasets: dict[Role, DatasetFile] = Field(default_factory=dict)
    fingerprint: dict[str, Any] = Field(default_factory=dict)
    """The hardware fingerprint of the worker."""
    providers: Providers = (PROCESSOR,)
    """Of the steps that compare and time models; what is observed and emulated on the way to an artifact is always
    computed on the processor."""
    unpacked_bytes: int | None = Field(default=None, ge=1)
    """What an archive or a dataset may unpack to."""

    @property
    def measure(self) -> Measure:
        """The conditions that the job asks for."""
        return self.spec.measure


class InspectRequest(JobRequest):
    """Do the data fit the model, and are the roles disjoint? Here alone `model` may be an archive."""

    whole: DatasetFile | None = None
    """A dataset whose rows are to be given to the roles; `datasets` is empty then."""


class BaselineRequest(JobRequest):
    """Run the original."""


class CalibrateRequest(JobRequest):
    """Find the ranges of activations."""


class CandidatesRequest(JobRequest):
    """Make the artifact and run it over the rows of the baseline."""

    candidate: str | None = Field(default=None, pattern=r"^cnd_[0-9a-z]{26}$")
    """The candidate's id; left out, it follows from the model and the recipe."""
    baseline: ScratchPath = "baseline"
    """Folder of the baseline step."""
    calibrate: ScratchPath = "calibrate"
    """Folder of the calibrate step."""


class StepLog(StepRequest):
    """How long a step took, for the report."""

    step: str
    seconds: float
    running_seconds: float | None = None
    """Of these, spent in the models' own calls, where that was counted."""
    attempt: int = 1


class SourceFile(StepRequest):
    """An uploaded model or dataset by name, as the manifest states it."""

    id: str
    name: str
    sha256: str
    bytes: int
    rows: int | None = None
    """Datasets only."""
    rows_sha256: str | None = None
    """Datasets only: of the numbers of the rows, where they are not all of the file's (int64, little-endian)."""


class PackageRequest(JobRequest):
    """Write the artifact, its manifest and the report."""

    job: str
    source: SourceFile
    """The model that was optimized."""
    data: dict[Role, SourceFile] = Field(default_factory=dict)
    inspect: ScratchPath = "inspect"
    baseline: ScratchPath = "baseline"
    calibrate: ScratchPath = "calibrate"
    candidates: ScratchPath = "candidates"
    gate: ScratchPath = "gate"
    measurements: tuple[ScratchPath, ...] = ()
    """Folders of the measuring children, whose results hold the raw samples."""
    profiles: dict[str, ScratchPath] = Field(default_factory=dict)
    """Folders of the profiling children, by the id of what they profiled."""
    steps: tuple[StepLog, ...] = ()


def read_result(kind: type[Result], scratch: Path, folder: str) -> Result:
    """Read what an earlier step of this job found."""
    return kind.model_validate_json((scratch / folder / "result.json").read_bytes())
