"""The only table from errors to HTTP: RFC 9457 problem documents, and nothing else, leave the API."""

import difflib
import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app.errors import (
    BitpressError,
    Conflict,
    FieldError,
    Forbidden,
    InvalidRequest,
    NotFound,
    PayloadTooLarge,
    PreconditionFailed,
    RangeNotSatisfiable,
    RejectedInput,
    SandboxError,
    StepError,
    StorageFull,
    Unauthenticated,
    Unavailable,
    UnsupportedMedia,
)
from app.services.field_errors import field_error

log = logging.getLogger(__name__)

STATUS: dict[type[BitpressError], HTTPStatus] = {
    InvalidRequest: HTTPStatus.UNPROCESSABLE_ENTITY,
    Unauthenticated: HTTPStatus.UNAUTHORIZED,
    Forbidden: HTTPStatus.FORBIDDEN,
    NotFound: HTTPStatus.NOT_FOUND,
    Conflict: HTTPStatus.CONFLICT,
    PreconditionFailed: HTTPStatus.PRECONDITION_FAILED,
    RangeNotSatisfiable: HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE,
    PayloadTooLarge: HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    UnsupportedMedia: HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    StorageFull: HTTPStatus.INSUFFICIENT_STORAGE,
    Unavailable: HTTPStatus.SERVICE_UNAVAILABLE,
    # These three end a job or an inspection; only a fault of ours lets one reach a request.
    RejectedInput: HTTPStatus.UNPROCESSABLE_ENTITY,
    StepError: HTTPStatus.INTERNAL_SERVER_ERROR,
    SandboxError: HTTPStatus.INTERNAL_SERVER_ERROR,
    BitpressError: HTTPStatus.INTERNAL_SERVER_ERROR,
}

MEDIA_TYPE = "application/problem+json"


class ProblemField(BaseModel):
    """One thing that is wrong with one field."""

    pointer: str = Field(description="RFC 6901 pointer into the request body.")
    code: str
    detail: str


class Problem(BaseModel):
    """A problem document (RFC 9457)."""

    type: str = "about:blank"
    title: str
    status: int
    code: str = Field(description="Stable, for programs.")
    detail: str = Field(description="A sentence for a person: what is wrong and what to do.")
    errors: list[ProblemField] = []
    stage: str | None = None
    retryable: bool = False


PROBLEMS: dict[int | str, dict[str, Any]] = {
    "default": {
        "description": "A problem document.",
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
}
"""OpenAPI's description of every answer that is not the good one."""


def schemas() -> dict[str, Any]:
    """The schemas that `PROBLEMS` refers to, by name."""
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    return {**problem.pop("$defs"), "Problem": problem}


def status_of(error: BitpressError) -> HTTPStatus:
    """The status of an error: its own class's, or its nearest parent's."""
    return next(STATUS[kind] for kind in type(error).__mro__ if kind in STATUS)


def problem_response(error: BitpressError) -> JSONResponse:
    """Write an error down as a problem document."""
    status = status_of(error)
    body = {"type": "about:blank", "title": status.phrase, "status": status.value, **error.as_dict()}
    headers = {}
    if status is HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, RangeNotSatisfiable):
        headers["Content-Range"] = f"bytes */{error.content_bytes}"
    if error.retryable and status is HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = "2"
    return JSONResponse(body, status.value, headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Make every error of an application a problem document."""

    @app.exception_handler(BitpressError)
    async def expected(_request: Request, error: BitpressError) -> Response:
        return problem_response(error)

    @app.exception_handler(RequestValidationError)
    async def invalid(_request: Request, error: RequestValidationError) -> Response:
        return problem_response(from_validation(error))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> Response:
        status = HTTPStatus(error.status_code)
        headers = dict(error.headers or {})
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_methods(request))
        body: dict[str, Any] = {
            "type": "about:blank",
            "title": status.phrase,
            "status": status.value,
            "code": status.name.lower(),
            "detail": _refusal(request, error, headers.get("Allow", "")),
            "errors": [],
            "stage": None,
            "retryable": False,
        }
        return JSONResponse(body, status.value, headers, media_type=MEDIA_TYPE)

    @app.exception_handler(ClientDisconnect)
    async def gone(_request: Request, _error: ClientDisconnect) -> Response:
        return Response(status_code=499)  # nobody is there to read it

    @app.exception_handler(Exception)
    async def unexpected(request: Request, error: Exception) -> Response:
        log.exception("unexpected error at %s %s", request.method, request.url.path, exc_info=error)
        return problem_response(
            BitpressError("Something went wrong inside the service; its log has the details. Trying again may help.")
        )


def _refusal(request: Request, error: HTTPException, allowed: str) -> str:
    """What to do about something that the router refused."""
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{request.url.path} does not take {request.method}; it takes {allowed}."
    if error.status_code == HTTPStatus.NOT_FOUND:
        near = difflib.get_close_matches(request.url.path, list(request.app.openapi()["paths"]), n=1)
        hint = f"Did you mean {near[0]}?" if near else "GET /docs lists every path there is."
        return f"There is nothing at {request.url.path}. {hint}"
    return f"The request was refused: {error.detail}. GET /docs shows how each is made."


def _methods(request: Request) -> list[str]:
    """What a resource can be asked: the framework names the methods of the first route that has its path alone."""
    return [
        method
        for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
        if any(route.matches({**request.scope, "method": method})[0] is Match.FULL for route in request.app.routes)
    ]


def from_validation(error: RequestValidationError) -> InvalidRequest:
    """Parameters that FastAPI refused: they are named in the detail, for a pointer leads into the body.

    Bodies are read by the routes themselves, so that every error in one comes at once.
    """
    errors = []
    for found in error.errors():
        where, *inside = found["loc"]
        plain = field_error(found, [])
        errors.append(FieldError("", plain.code, f"{where} parameter {inside[0] if inside else ''}: {plain.detail}"))
    return InvalidRequest(errors[0].detail if errors else "The request is not valid.", errors=errors)
