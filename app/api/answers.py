"""Answers that FastAPI does not write itself: plain JSON at speed, and content with ranges."""

import base64
import re
from typing import Any
from urllib.parse import quote

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from pydantic_core import to_json

from app.errors import RangeNotSatisfiable
from app.storage.store import ObjectStore

# No content has a position of more digits; numbers of thousands of digits are refused by Python itself.
_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})", re.IGNORECASE)


def json_answer(document: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Write a document that is known to be right: validating our own output again costs more than reading it."""
    return Response(to_json(document), status, headers, media_type="application/json")


def matches(header: str | None, etag: str) -> bool:
    """Whether an `If-None-Match` or `If-Match` header names the entity tag (RFC 9110, 13.1)."""
    if header is None:
        return False
    return header.strip() == "*" or etag in (part.strip().removeprefix("W/") for part in header.split(","))


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
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < start:
            return None
    else:
        start, end = max(size - int(last), 0), size
        if int(last) == 0:
            start = size
    if start >= size:
        raise RangeNotSatisfiable(f"The content has {size} bytes.", content_bytes=size)
    return start, end


async def content_answer(
    request: Request,
    store: ObjectStore,
    location: str,
    *,
    size: int,
    sha256: str,
    file_name: str,
    media_type: str,
) -> Response:
    """Stream an object, or the part of it that `Range` names."""
    etag = f'"{sha256}"'
    headers = {
        "ETag": etag,
        "Accept-Ranges": "bytes",
        "Cache-Control": "private, max-age=31536000, immutable",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(file_name)}",
        "X-Content-Type-Options": "nosniff",
    }
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    if_range = request.headers.get("if-range")
    wanted = byte_range(request.headers.get("range"), size) if if_range in (None, etag) else None
    start, end = wanted or (0, size)
    headers["Content-Length"] = str(end - start)
    if wanted is not None:
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    if size == 0:
        return Response(b"", headers=headers, media_type=media_type)
    # Opened before the answer begins, so that a missing object is a problem document and no broken stream.
    chunks = await store.stream(location, start, end)
    return StreamingResponse(chunks, 206 if wanted else 200, headers, media_type=media_type)
