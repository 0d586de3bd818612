"""Models and datasets as the API shows them."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel

from app.api.schemas.documents.parts import Failure, moment
from app.db.tables import Dataset, Model


class Tensor(BaseModel):
    """A named array. Unknown axes are null, symbolic ones a name; a dataset's shape has no sample axis."""

    name: str
    dtype: str
    shape: list[int | str | None] | None


class ModelDocument(BaseModel):
    """An uploaded model; what inspection finds is null until its state is `ready`."""

    id: str
    name: str
    file_name: str
    format: str | None
    bytes: int
    sha256: str
    state: Literal["inspecting", "ready", "rejected"]
    error: Failure | None
    inputs: list[Tensor] | None
    outputs: list[Tensor] | None
    opset: int | None
    parameters: int | None
    operators: dict[str, int] | None
    quantized: bool | None
    dynamic: bool | None
    external_data: bool | None
    notes: list[str]
    created_at: datetime


class DatasetDocument(BaseModel):
    """An uploaded dataset; what inspection finds is null until its state is `ready`."""

    id: str
    name: str
    file_name: str
    format: str | None
    bytes: int
    sha256: str
    state: Literal["inspecting", "ready", "rejected"]
    error: Failure | None
    rows: int | None
    fields: list[Tensor] | None
    preprocess: dict[str, Any] | None
    notes: list[str]
    created_at: datetime


_FOUND_IN_MODELS = (
    "format",
    "inputs",
    "outputs",
    "opset",
    "parameters",
    "operators",
    "quantized",
    "dynamic",
    "external_data",
)


def _uploaded(row: Model | Dataset, found_names: tuple[str, ...]) -> dict[str, Any]:
    found = row.inspection or {}
    return {
        "id": row.id,
        "name": row.name,
        "file_name": row.file_name,
        "bytes": row.bytes,
        "sha256": row.sha256,
        "state": row.state,
        "error": row.error,
        "notes": found.get("notes", []),
        "created_at": moment(row.created_at),
        **{name: found.get(name) for name in found_names},
    }


def model_document(row: Model) -> dict[str, Any]:
    """A model as the API shows it."""
    return _uploaded(row, _FOUND_IN_MODELS)


def dataset_document(row: Dataset) -> dict[str, Any]:
    """A dataset as the API shows it."""
    return {**_uploaded(row, ("format", "rows", "fields")), "preprocess": row.preprocess}
