"""Answers that FastAPI does not write itself: plain JSON at speed, and content with ranges."""

import base64
import re
from collections.abc import Mapping
from copy import copy
from typing import Any
from urllib.parse import quote

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse
from fastapi.routing import APIRoute
from pydantic_core import to_json

from app.db.tables import Artifact, Blob, Dataset, Model
from app.errors import RangeNotSatisfiable
from app.services.jobs import Tags, knows
from app.storage.store import ObjectStore

# Manifests, reports and logs are written by our own steps, within the limits of a child's result.
_DOCUMENT_BYTES = 256 << 20

_OF_BYTES = "application/octet-stream"

_RANGE = re.compile(r"bytes=([0-9]*)-([0-9]*)", re.IGNORECASE)


def json_answer(document: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Write a document that is known to be right: validating our own output again costs more than reading it."""
    return Response(to_json(document), status, headers, media_type="application/json")


def entity_tags(header: str | None) -> Tags:
    """The entity tags that an `If-None-Match` or `If-Match` header names, weak ones as strong ones (RFC 9110, 13.1)."""
    if header is None:
        return frozenset()
    return frozenset(tag for part in header.split(",") if (tag := part.strip().removeprefix("W/")))


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First byte and the one after the last of a single range; null for all of it (RFC 9110, 14.2).

    Several ranges, and units that are not bytes, are answered with the whole content, as the RFC allows.
    Raises `RangeNotSatisfiable`.
    """
    found = _RANGE.fullmatch(header.strip()) if header else None
    first, last = found.groups() if found is not None else ("", "")
    if not first and not last:
        return None
    if first:
        start, end = _position(first), min(_position(last) + 1, size) if last else size
        if last and _order(last) < _order(first):
            return None
    else:
        start, end = max(size - _position(last), 0), size
    if start >= size:
        raise RangeNotSatisfiable(f"The content has {size} bytes.", content_bytes=size)
    return start, end


def _order(digits: str) -> tuple[int, str]:
    """What numbers compare by. Python refuses to read thousands of digits."""
    digits = digits.lstrip("0")
    return len(digits), digits


def _position(digits: str) -> int:
    """A number, or one that is beyond every content."""
    length, digits = _order(digits)
    return int(digits or "0") if length <= 18 else 10**18


CONTENT: dict[int | str, dict[str, Any]] = {
    200: {"content": {_OF_BYTES: {}}, "description": "The bytes."},
    206: {"content": {_OF_BYTES: {}}, "description": "The bytes that `Range` names."},
    304: {"description": "Not changed since `If-None-Match`."},
}
"""What `content_answer` answers, for the OpenAPI document."""


async def content_answer(
    request: Request, store: ObjectStore, row: Model | Dataset | Artifact, content: Blob
) -> Response:
    """Stream a file, or the part of it that `Range` names; for HEAD, which knows no ranges, nothing is read."""
    etag, size = f'"{row.sha256}"', row.bytes
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(row.sha256)).decode()}:",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(row.file_name)}",
        "X-Content-Type-Options": "nosniff",
    }
    if knows(entity_tags(request.headers.get("if-none-match")), etag):
        return Response(status_code=304, headers=headers)
    heads = request.method == "HEAD"
    in_part = not heads and request.headers.get("if-range") in (None, etag)
    wanted = byte_range(request.headers.get("range"), size) if in_part else None
    start, end = wanted or (0, size)
    headers["Content-Length"] = str(end - start)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    if size == 0 or heads:
        return Response(b"", headers=headers, media_type=_OF_BYTES)
    # Opened before the answer begins, so that a missing object is a problem document and no broken stream.
    chunks = await store.stream(content.location, start, end)
    return StreamingResponse(chunks, 206 if wanted else 200, headers, media_type=_OF_BYTES)


async def document_answer(
    request: Request,
    store: ObjectStore,
    document: Blob,
    *,
    media_type: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Read a document that one of our own steps wrote; for HEAD, only what is known of it."""
    headers = {"Content-Length": str(document.bytes), "X-Content-Type-Options": "nosniff", **(headers or {})}
    if request.method == "HEAD":
        return Response(b"", headers=headers, media_type=media_type)
    content = await anyio.to_thread.run_sync(store.read, document.location, _DOCUMENT_BYTES)
    return Response(content, headers=headers, media_type=media_type)


def head_routes(router: APIRouter) -> APIRouter:
    """HEAD for all that answers GET (RFC 9110, 9.1); the server leaves the content out."""
    heads = APIRouter()
    for route in router.routes:
        if isinstance(route, APIRoute) and "GET" in (route.methods or ()):
            head = copy(route)
            head.methods, head.include_in_schema = {"HEAD"}, False
            heads.routes.append(head)
    return heads
