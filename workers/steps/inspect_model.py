"""The step that inspects an uploaded model."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from app.domain.model import ModelInspection
from app.errors import RejectedInput, StepError
from workers.formats.limits import InputLimits
from workers.formats.model_files import open_model
from workers.formats.onnx.inspection import inspect_onnx
from workers.formats.signatures import model_format
from workers.formats.tflite.inspection import inspect_tflite
from workers.formats.torch.inspection import inspect_torch
from workers.runtimes.session import load
from workers.steps.inputs import Progress, ScratchPath


class InspectModelRequest(BaseModel):
    """A model as it was uploaded: a file, or an archive of a set."""

    model_config = ConfigDict(frozen=True)

    path: ScratchPath
    file_name: str
    limits: InputLimits = Field(default_factory=InputLimits)


def run(request: InspectModelRequest, scratch: Path, folder: Path, progress: Progress) -> ModelInspection:
    """Describe a model and make sure that the runtime loads it; nothing is run.

    An archive is unpacked into `folder/files`. A TFLite model is loaded where this worker has LiteRT, and its notes
    say so where it has not. Raises RejectedInput.
    """
    files = open_model(scratch / request.path, folder / "files", request.limits)
    found_format = model_format(files.main)
    if found_format == "tflite":
        described = inspect_tflite(files.main, limits=request.limits, progress=progress)
        progress(0.3, "loading the model")
        notes = (*described.notes, *_loads_on_litert(files.main))
        return described.model_copy(update={"files": (request.file_name,), "notes": notes})
    if found_format != "onnx":
        described = inspect_torch(files.main, limits=request.limits, progress=progress)
        return described.model_copy(update={"files": (request.file_name,)})
    found = inspect_onnx(files.main, beside=files.beside, limits=request.limits, progress=progress)
    if files.main == scratch / request.path:
        return found.model_copy(update={"files": (request.file_name,)})
    return found


def _loads_on_litert(path: Path) -> tuple[str, ...]:
    """What to note; nothing where it loads. Raises RejectedInput `unsupported_operator` or `invalid_model`."""
    try:
        load(path, runtime="litert").close()
    except StepError as error:
        if error.code == "runtime_unavailable":
            return ("Whether LiteRT loads it was not tried: the worker that looked has no LiteRT.",)
        codes = {"provider_unavailable": "unsupported_operator", "model_does_not_load": "invalid_model"}
        raise RejectedInput(error.detail, code=codes.get(error.code, "invalid_model")) from error
    return ()
