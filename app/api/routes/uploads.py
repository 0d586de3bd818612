"""Models and datasets: upload, list, show, download, delete."""

from collections.abc import AsyncIterator
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from app.api.answers import CONTENT, content_answer, json_answer
from app.api.bodies import parsed, read_json
from app.api.deps import Cursor, Limit, ServicesDep
from app.api.multipart import read_form
from app.api.problems import PROBLEMS
from app.api.schemas.documents import DatasetDocument, ModelDocument, Page, dataset_document, model_document
from app.domain.dataset import Preprocess
from app.errors import FieldError, InvalidRequest, UnsupportedMedia
from app.services.blobs import Received
from app.services.field_errors import pointer, schema_errors
from app.services.uploads import Datasets, Models

router = APIRouter(responses=PROBLEMS)

State = Annotated[Literal["inspecting", "ready", "rejected"] | None, Query()]
Name = Annotated[str | None, Query(max_length=200)]
Sha256 = Annotated[str | None, Query(pattern="^[0-9a-f]{64}$")]

# These bodies are read by hand; the OpenAPI document is told of their parts here.
PREPROCESS_SCHEMAS = {"Preprocess": Preprocess.model_json_schema(ref_template="#/components/schemas/{model}")}


class FromSource(BaseModel):
    """A model that is in a bucket already."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(min_length=1, max_length=2000, examples=["s3://models/lite0.onnx"])
    name: str | None = Field(default=None, min_length=1, max_length=200)


class DatasetFromSource(FromSource):
    """A dataset that is in a bucket already."""

    preprocess: Preprocess | None = None


class _Described(BaseModel):
    """What a form says of a dataset besides its name."""

    preprocess: Preprocess


def _body(schema: type[BaseModel], *, preprocess: bool) -> dict[str, Any]:
    """OpenAPI's description of a body that we read as it streams."""
    fields: dict[str, Any] = {"file": {"type": "string", "format": "binary"}, "name": {"type": "string"}}
    if preprocess:
        fields["preprocess"] = {"type": "string", "description": "JSON: how images become arrays."}
    form = {"type": "object", "required": ["file"], "properties": fields}
    described = schema.model_json_schema(ref_template="#/components/schemas/{model}")
    described.pop("$defs", None)
    content = {"multipart/form-data": {"schema": form}, "application/json": {"schema": described}}
    return {"requestBody": {"required": True, "content": content}}


@router.post(
    "/models",
    status_code=201,
    response_model=ModelDocument,
    openapi_extra=_body(FromSource, preprocess=False),
)
async def create_model(request: Request, services: ServicesDep) -> Response:
    """Upload a model as multipart, or name one in a bucket. Poll it until its `state` is `ready`."""
    row = await _create(request, services, services.models, FromSource)
    return json_answer(model_document(row), status=201, headers={"Location": f"/v1/models/{row.id}"})


@router.post(
    "/datasets",
    status_code=201,
    response_model=DatasetDocument,
    openapi_extra=_body(DatasetFromSource, preprocess=True),
)
async def create_dataset(request: Request, services: ServicesDep) -> Response:
    """Upload a dataset as multipart, or name one in a bucket. Poll it until its `state` is `ready`."""
    row = await _create(request, services, services.datasets, DatasetFromSource)
    return json_answer(dataset_document(row), status=201, headers={"Location": f"/v1/datasets/{row.id}"})


async def _create(request: Request, services: ServicesDep, uploads: Models | Datasets, schema: type[FromSource]) -> Any:
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind == "multipart/form-data":
        return await _from_form(request, services, uploads, schema)
    if kind == "application/json":
        body = await read_json(request)
        if isinstance(body, dict) and "upload" in body:
            raise InvalidRequest(
                "Resumable uploads are not part of this version. Send the file as multipart/form-data.",
                code="unknown_field",
                errors=[FieldError("/upload", "unknown_field", "Send the file as multipart/form-data instead.")],
            )
        try:
            given = schema.model_validate(body)
        except ValidationError as error:
            errors = schema_errors(error, body)
            raise InvalidRequest(errors[0].detail, code=errors[0].code, errors=errors) from error
        preprocess = getattr(given, "preprocess", None)
        extra = {"preprocess": preprocess.model_dump(mode="json")} if preprocess is not None else {}
        return await uploads.create_from_source(given.source, name=given.name, extra=extra)
    raise UnsupportedMedia("Send multipart/form-data with a part `file`, or JSON with a `source`.")


async def _from_form(
    request: Request, services: ServicesDep, uploads: Models | Datasets, schema: type[FromSource]
) -> Any:
    kept: list[Received] = []

    async def keep(chunks: AsyncIterator[bytes]) -> Received:
        kept.append(await services.blobs.receive(chunks, max_bytes=uploads.max_bytes))
        return kept[0]

    try:
        form = await read_form(request, keep, max_bytes=uploads.max_bytes)
        extra = _extra(form.fields, with_preprocess=schema is DatasetFromSource)
        name = form.fields.get("name") or None
        if name is not None and len(name) > 200:
            raise InvalidRequest(
                "The name is longer than 200 characters.",
                errors=[FieldError("/name", "too_large", "Give at most 200 characters.")],
            )
    except BaseException:
        # The file may have come whole before the rest of the form turned out wrong, or was cut off.
        with anyio.CancelScope(shield=True):
            for received in kept:
                await anyio.to_thread.run_sync(services.blobs.discard, received)
        raise
    return await anyio.to_thread.run_sync(uploads.record, kept[0], form.file_name or "unnamed", name, extra)


def _extra(fields: dict[str, str], *, with_preprocess: bool) -> dict[str, Any]:
    """What a dataset's form says beyond its name."""
    unknown = sorted(set(fields) - {"name"} - ({"preprocess"} if with_preprocess else set()))
    if unknown:
        errors = [FieldError(pointer([name]), "unknown_field", f"There is no field {name!r} here.") for name in unknown]
        raise InvalidRequest(errors[0].detail, code="unknown_field", errors=errors)
    if not fields.get("preprocess"):
        return {}
    body = {"preprocess": parsed(fields["preprocess"], pointer="/preprocess")}
    try:
        return _Described.model_validate(body).model_dump(mode="json")
    except ValidationError as error:
        errors = schema_errors(error, body)
        raise InvalidRequest(errors[0].detail, code=errors[0].code, errors=errors) from error


@router.get("/models", response_model=Page[ModelDocument])
def list_models(
    services: ServicesDep,
    limit: Limit = 50,
    cursor: Cursor = None,
    state: State = None,
    name: Name = None,
    sha256: Sha256 = None,
) -> Response:
    """List models, newest first."""
    rows, following = services.models.list(limit=limit, cursor=cursor, state=state, name=name, sha256=sha256)
    return json_answer({"items": [model_document(row) for row in rows], "next_cursor": following})


@router.get("/models/{model_id}", response_model=ModelDocument)
def get_model(model_id: str, services: ServicesDep) -> Response:
    """Show a model and what inspection found in it."""
    return json_answer(model_document(services.models.get(model_id)))


@router.delete("/models/{model_id}", status_code=204)
def delete_model(model_id: str, services: ServicesDep) -> Response:
    """Delete a model that no job uses."""
    services.models.delete(model_id)
    return Response(status_code=204)


@router.get("/models/{model_id}/content", response_class=Response, responses=CONTENT)
async def get_model_content(model_id: str, request: Request, services: ServicesDep) -> Response:
    """Download a model as it was uploaded."""
    row, content = await anyio.to_thread.run_sync(services.models.content, model_id)
    return await content_answer(request, services.store, row, content)


@router.get("/datasets", response_model=Page[DatasetDocument])
def list_datasets(
    services: ServicesDep,
    limit: Limit = 50,
    cursor: Cursor = None,
    state: State = None,
    name: Name = None,
    sha256: Sha256 = None,
) -> Response:
    """List datasets, newest first."""
    rows, following = services.datasets.list(limit=limit, cursor=cursor, state=state, name=name, sha256=sha256)
    return json_answer({"items": [dataset_document(row) for row in rows], "next_cursor": following})


@router.get("/datasets/{dataset_id}", response_model=DatasetDocument)
def get_dataset(dataset_id: str, services: ServicesDep) -> Response:
    """Show a dataset and what inspection found in it."""
    return json_answer(dataset_document(services.datasets.get(dataset_id)))


@router.delete("/datasets/{dataset_id}", status_code=204)
def delete_dataset(dataset_id: str, services: ServicesDep) -> Response:
    """Delete a dataset that no job uses."""
    services.datasets.delete(dataset_id)
    return Response(status_code=204)


@router.get("/datasets/{dataset_id}/content", response_class=Response, responses=CONTENT)
async def get_dataset_content(dataset_id: str, request: Request, services: ServicesDep) -> Response:
    """Download a dataset as it was uploaded."""
    row, content = await anyio.to_thread.run_sync(services.datasets.content, dataset_id)
    return await content_answer(request, services.store, row, content)
