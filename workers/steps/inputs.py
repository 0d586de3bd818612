"""What a step is given, whatever it does: files in scratch, rows to run on, and whom to tell how far it is.

Every path is relative to the scratch folder, which is all that a child may touch. Apart from the requests of a job's
other steps, whose types take a measuring process longer to load than its model.
"""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from app.domain.dataset import Preprocess, Role
from app.domain.measure import Measure, Runtime
from app.domain.target import PROCESSOR

Progress = Callable[[float, str], None]
"""Told how far a step is, from 0 to 1, and what it does."""


def _inside(path: str) -> str:
    parts = PurePosixPath(path)
    if parts.is_absolute() or ".." in parts.parts or "\0" in path:
        raise ValueError("a path is relative to the scratch folder and stays inside it")
    return path


Providers = Annotated[tuple[str, ...], Field(min_length=1)]
"""onnxruntime's execution providers to run a model on, the first choice first; nothing is run on any other."""

ScratchPath = Annotated[str, Field(min_length=1), AfterValidator(_inside)]
"""A path inside the scratch folder, relative to it."""


class StepRequest(BaseModel):
    """What every request is made of: frozen, with a sentence for each field; unknown fields are left alone."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class DatasetFile(StepRequest):
    """An uploaded dataset as it lies in scratch."""

    path: ScratchPath
    file_name: str
    """The name that it was uploaded under; its suffix tells the format."""
    preprocess: Preprocess | None = None
    """For images: how pixels become inputs."""
    rows: ScratchPath | None = None
    """A file with the numbers of the rows that are meant; left out, all of them."""


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


class MeasuringRequest(StepRequest):
    """What every measuring child is told."""

    runtime: Runtime = "onnxruntime"
    """What runs the model in this child."""
    providers: Providers = (PROCESSOR,)

    measure: Measure
    """The conditions that the job asks for."""
    datasets: dict[Role, DatasetFile] = Field(default_factory=dict)
