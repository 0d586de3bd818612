"""Jobs: submit, validate, list, poll, cancel, delete; their log and report."""

from typing import Annotated, Literal

import anyio.to_thread
from fastapi import APIRouter, Header, Query, Request
from fastapi.responses import Response

from app.api.answers import document_answer, entity_tags, json_answer
from app.api.bodies import read_json
from app.api.deps import Cursor, Limit, ServicesDep, WatcherDep
from app.api.negotiation import preferred
from app.api.problems import PROBLEMS
from app.api.schemas.documents import JobDocument, Page, Validation, job_document
from app.domain.job import JobSpec
from app.services.jobs import JobView, knows

router = APIRouter(prefix="/jobs", responses=PROBLEMS)

_JSON, _HTML = "application/json", "text/html"

# The page has no script and loads nothing; here a browser is told to believe that whatever it contains.
_PAGE_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "sandbox"
)

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
    body = await read_json(request)
    view, _created = await anyio.to_thread.run_sync(lambda: services.jobs.submit(body, idempotency_key=idempotency_key))
    headers = {"Location": f"/v1/jobs/{view.job.id}", "ETag": view.etag}
    return json_answer(job_document(view), status=202, headers=headers)


@router.post("/validate", response_model=Validation, openapi_extra=_SPEC_BODY)
async def validate_job(request: Request, services: ServicesDep) -> Response:
    """Say what a specification would do, what is wrong with it and what is doubtful; nothing is created."""
    body = await read_json(request)
    checked = await anyio.to_thread.run_sync(services.jobs.validate, body)
    errors = [{"pointer": found.pointer, "code": found.code, "detail": found.detail} for found in checked.errors]
    return json_answer(
        {
            "valid": not errors,
            "spec": checked.spec.model_dump(mode="json") if checked.spec else None,
            "steps": list(checked.spec.stages) if checked.spec and not errors else [],
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
    """Show a job. With `wait`, answer as soon as its entity tag is none of `If-None-Match`."""
    tags = entity_tags(if_none_match)
    found = await watcher.read(job_id, tags)
    if wait:
        known = tags if isinstance(found, str) else frozenset[str]()
        if not tags and isinstance(found, JobView) and found.job.ended_at is None:
            # Who gives no tag has nothing to compare with: for them a change is one from here on.
            known = frozenset({found.etag})
        if known:
            found = await watcher.changed(job_id, known, seconds=wait) or await watcher.read(job_id, tags)
    etag = found if isinstance(found, str) else found.etag
    if isinstance(found, str) or knows(tags, etag):
        return Response(status_code=304, headers={"ETag": etag})
    return json_answer(job_document(found), headers={"ETag": etag, "Cache-Control": "no-store"})


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
async def get_job_log(job_id: str, request: Request, services: ServicesDep) -> Response:
    """The output of the job's children, capped; empty until the job ends."""
    media_type = "text/plain; charset=utf-8"
    if (log := await anyio.to_thread.run_sync(services.jobs.log, job_id)) is None:
        return Response(b"", media_type=media_type)
    return await document_answer(request, services.store, log, media_type=media_type)


@router.get(
    "/{job_id}/report",
    response_class=Response,
    responses={200: {"description": "The report.", "content": {_JSON: {}, _HTML: {"schema": {"type": "string"}}}}},
)
async def get_job_report(
    job_id: str,
    request: Request,
    services: ServicesDep,
    accept: Annotated[
        str | None,
        Header(description="`text/html` for a page with plots that opens without network, else JSON.", max_length=1000),
    ] = None,
    representation: Annotated[
        Literal["json", "html"] | None, Query(alias="format", description="Instead of `Accept`.")
    ] = None,
) -> Response:
    """Everything a job measured: as JSON, raw samples included, or as one self-contained HTML page."""
    wanted = {"json": _JSON, "html": _HTML}[representation] if representation else preferred(accept, (_JSON, _HTML))
    headers = {"Vary": "Accept"}
    if wanted == _JSON:
        report = await anyio.to_thread.run_sync(services.jobs.report, job_id)
        return await document_answer(request, services.store, report, media_type=_JSON, headers=headers)
    page = await anyio.to_thread.run_sync(services.jobs.page, job_id)
    headers |= {
        "Content-Security-Policy": _PAGE_POLICY,
        "Content-Disposition": f'inline; filename="{job_id}.html"',
        "Referrer-Policy": "no-referrer",
    }
    return await document_answer(request, services.store, page, media_type=f"{_HTML}; charset=utf-8", headers=headers)
