"""The step that inspects an uploaded dataset."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from app.domain.dataset import DatasetInspection, Preprocess
from workers.formats.datasets.inspection import inspect_dataset
from workers.formats.datasets.opening import open_dataset
from workers.formats.limits import InputLimits
from workers.steps.inputs import Progress, ScratchPath


class InspectDatasetRequest(BaseModel):
    """A dataset as it was uploaded; `preprocess` says how pictures become arrays."""

    model_config = ConfigDict(frozen=True)

    path: ScratchPath
    file_name: str
    preprocess: Preprocess | None = None
    limits: InputLimits = Field(default_factory=InputLimits)


def run(request: InspectDatasetRequest, scratch: Path, folder: Path, progress: Progress) -> DatasetInspection:
    """Describe a dataset after reading every value of it. Raises RejectedInput."""
    with open_dataset(scratch / request.path, request.file_name, request.preprocess, request.limits) as dataset:
        return inspect_dataset(dataset, progress)
