"""Jobs: submit, validate, list, poll, cancel, delete; their log and report."""

from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from app.api.answers import json_answer, matches
from app.api.bodies import read_json
from app.api.deps import Cursor, Limit, ServicesDep, WatcherDep
from app.api.problems import PROBLEMS
from app.api.schemas.documents import JobDocument, Page, Validation, job_document
from app.domain.job import STAGES, JobSpec

# Manifests, reports and logs are written by our own steps, within the limits of a child's result.
_DOCUMENT_BYTES = 256 << 20

router = APIRouter(prefix="/jobs", responses=PROBLEMS)

_SPEC_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/JobSpec"}}},
    }
}
# The body is read by hand, so that every error comes at once; this puts its schema into the document.
SPEC_SCHEMA = JobSpec.model_json_schema(ref_template="#/components/schemas/{model}")


@router.post("", status_code=202, response_model=JobDocument, openapi_extra=_SPEC_BODY)
async def submit_job(
    request: Request,
    services: ServicesDep,
    idempotency_key: Annotated[str | None, Header(min_length=1, max_length=255)] = None,
) -> Response:
    """Submit a job. With an `Idempotency-Key`, the same key and body give the same job again."""
    raw, body = await read_json(request)
    view, _created = await anyio.to_thread.run_sync(
        lambda: services.jobs.submit(body, raw, idempotency_key=idempotency_key)
    )
    headers = {"Location": f"/v1/jobs/{view.job.id}", "ETag": view.etag}
    return json_answer(job_document(view), status=202, headers=headers)


@router.post("/validate", response_model=Validation, openapi_extra=_SPEC_BODY)
async def validate_job(request: Request, services: ServicesDep) -> Response:
    """Say what a specification would do, what is wrong with it and what is doubtful; nothing is created."""
    _, body = await read_json(request)
    checked = await anyio.to_thread.run_sync(services.jobs.validate, body)
    errors = [{"pointer": found.pointer, "code": found.code, "detail": found.detail} for found in checked.errors]
    return json_answer(
        {
            "valid": not errors,
            "spec": checked.spec.model_dump(mode="json") if checked.spec else None,
            "steps": list(STAGES) if not errors else [],
            "errors": errors,
            "doubts": checked.doubts,
        }
    )


@router.get("", response_model=Page[JobDocument])
def list_jobs(
    services: ServicesDep,
    limit: Limit = 50,
    cursor: Cursor = None,
    state: Annotated[
        Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"] | None, Query()
    ] = None,
    model: Annotated[str | None, Query(max_length=64)] = None,
    target: Annotated[str | None, Query(max_length=100)] = None,
    label: Annotated[str | None, Query(max_length=320, description="`name:value`")] = None,
) -> Response:
    """List jobs, newest first."""
    views, following = services.jobs.list(
        limit=limit, cursor=cursor, state=state, model=model, target=target, label=label
    )
    return json_answer({"items": [job_document(view) for view in views], "next_cursor": following})


@router.get("/{job_id}", response_model=JobDocument, responses={304: {"description": "Not changed."}})
async def get_job(
    job_id: str,
    services: ServicesDep,
    watcher: WatcherDep,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for a change.")] = 0,
    if_none_match: Annotated[str | None, Header()] = None,
) -> Response:
    """Show a job. With `wait`, answer as soon as its entity tag is not that of `If-None-Match`."""
    known = if_none_match.strip().removeprefix("W/") if if_none_match else None
    found = await watcher.read(job_id, known)
    view = None if isinstance(found, str) else found
    # Who gives no tag has nothing to compare with: for them a change is one from here on.
    present = known if view is None else view.etag if known is None and view.job.ended_at is None else None
    if wait and present is not None:
        view = await watcher.changed(job_id, present, seconds=wait) or view
    if view is None or matches(if_none_match, view.etag):
        return Response(status_code=304, headers={"ETag": (view.etag if view else known) or ""})
    return json_answer(job_document(view), headers={"ETag": view.etag, "Cache-Control": "no-store"})


@router.post("/{job_id}/cancel", status_code=202, response_model=JobDocument)
def cancel_job(job_id: str, services: ServicesDep) -> Response:
    """Cancel a job: at once while it is queued, else as soon as its child is dead."""
    view = services.jobs.cancel(job_id)
    return json_answer(job_document(view), status=202, headers={"ETag": view.etag})


@router.delete("/{job_id}", status_code=204)
def delete_job(job_id: str, services: ServicesDep) -> Response:
    """Delete an ended job and its artifacts."""
    services.jobs.delete(job_id)
    return Response(status_code=204)


@router.get("/{job_id}/log", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def get_job_log(job_id: str, services: ServicesDep) -> Response:
    """The output of the job's children, capped; empty until the job ends."""
    location = await anyio.to_thread.run_sync(services.jobs.log, job_id)
    text = await anyio.to_thread.run_sync(services.store.read, location, _DOCUMENT_BYTES) if location else b""
    return Response(text, media_type="text/plain; charset=utf-8", headers={"X-Content-Type-Options": "nosniff"})


@router.get("/{job_id}/report", response_class=Response, responses={200: {"content": {"application/json": {}}}})
async def get_job_report(job_id: str, services: ServicesDep) -> Response:
    """Everything a job measured, raw samples included, as JSON."""
    location = await anyio.to_thread.run_sync(services.jobs.report, job_id)
    return Response(
        await anyio.to_thread.run_sync(services.store.read, location, _DOCUMENT_BYTES), media_type="application/json"
    )
