"""The step that inspects an uploaded model."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from app.domain.model import ModelInspection
from workers.formats.limits import InputLimits
from workers.formats.model_files import open_model
from workers.formats.onnx.inspection import inspect_onnx
from workers.steps.inputs import Progress, ScratchPath


class InspectModelRequest(BaseModel):
    """A model as it was uploaded: a file, or an archive of a set."""

    model_config = ConfigDict(frozen=True)

    path: ScratchPath
    file_name: str
    limits: InputLimits = Field(default_factory=InputLimits)


def run(request: InspectModelRequest, scratch: Path, folder: Path, progress: Progress) -> ModelInspection:
    """Describe a model and make sure that the runtime loads it; nothing is run.

    An archive is unpacked into `folder/files`. Raises RejectedInput.
    """
    files = open_model(scratch / request.path, folder / "files", request.limits)
    found = inspect_onnx(files.main, beside=files.beside, limits=request.limits, progress=progress)
    if files.main == scratch / request.path:
        return found.model_copy(update={"files": (request.file_name,)})
    return found
