"""What the steps are asked: the types of `request.json` that more than one step shares.

Every path is relative to the scratch folder, which is all that a child may touch.
"""

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.domain.dataset import Preprocess
from app.domain.job import JobSpec, Role

Result = TypeVar("Result", bound=BaseModel)

Progress = Callable[[float, str], None]
"""Told how far a step is, from 0 to 1, and what it does."""


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError("a path is relative to the scratch folder and stays inside it")
    return path


ScratchPath = Annotated[str, Field(min_length=1), AfterValidator(_inside)]
"""A path inside the scratch folder, relative to it."""


class StepRequest(BaseModel):
    """What every request is made of: frozen, with a sentence for each field; unknown fields are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore", use_attribute_docstrings=True)


class DatasetFile(StepRequest):
    """An uploaded dataset as it lies in scratch."""

    path: ScratchPath
    file_name: str
    """The name that it was uploaded under; its suffix tells the format."""
    preprocess: Preprocess | None = None
    """For images: how pixels become inputs."""


class ModelFile(StepRequest):
    """A model file and what its session needs."""

    path: ScratchPath
    session_options: dict[str, str] = Field(default_factory=dict)


class RowSource(StepRequest):
    """The rows that a model is run on: a dataset's, or seeded random ones where there is none."""

    dataset: DatasetFile | None = None
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Shapes of inputs with dynamic axes, batch axis included, for random rows."""
    seed: int = 0


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
    unpacked_bytes: int | None = Field(default=None, ge=1)
    """What an archive or a dataset may unpack to."""


class InspectRequest(JobRequest):
    """Do the data fit the model, and are the roles disjoint? Here alone `model` may be an archive."""


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
    steps: tuple[StepLog, ...] = ()


def read_result(kind: type[Result], scratch: Path, folder: str) -> Result:
    """Read what an earlier step of this job found."""
    return kind.model_validate_json((scratch / folder / "result.json").read_bytes())
