"""Multipart bodies read as they come: the file goes straight into the store, never onto a disk here."""

from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from fastapi import Request
from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from app.errors import FieldError, InvalidRequest, PayloadTooLarge
from app.services.field_errors import pointer

Kept = TypeVar("Kept")

_FIELD_BYTES = 64 * 1024
_FIELDS = 16


@dataclass(slots=True)
class Form(Generic[Kept]):
    """The plain fields of a form, and what the sink made of its one file."""

    fields: dict[str, str] = field(default_factory=dict)
    file_name: str | None = None
    kept: Kept | None = None


class _Parts:
    """Turns the parser's callbacks into events: ("part", headers), ("data", bytes), ("end", None)."""

    def __init__(self, boundary: bytes) -> None:
        self.events: deque[tuple[str, Any]] = deque()
        self.complete = False
        self._headers: dict[str, bytes] = {}
        self._name = b""
        self._value = b""
        with _malformed():
            self._parser = MultipartParser(
                boundary,
                {
                    "on_part_begin": self._on_part_begin,
                    "on_header_field": self._on_header_field,
                    "on_header_value": self._on_header_value,
                    "on_header_end": self._on_header_end,
                    "on_headers_finished": self._on_headers_finished,
                    "on_part_data": self._on_part_data,
                    "on_part_end": self._on_part_end,
                    "on_end": self._on_end,
                },
            )

    def feed(self, data: bytes) -> None:
        with _malformed():
            self._parser.write(data)

    def _on_part_begin(self) -> None:
        self._headers = {}

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _on_header_end(self) -> None:
        self._headers[self._name.decode("latin-1").lower()] = self._value
        self._name = self._value = b""

    def _on_headers_finished(self) -> None:
        self.events.append(("part", self._headers))

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.events.append(("data", data[start:end]))

    def _on_part_end(self) -> None:
        self.events.append(("end", None))

    def _on_end(self) -> None:
        self.complete = True


@contextmanager
def _malformed() -> Iterator[None]:
    try:
        yield
    except FormParserError as error:
        raise InvalidRequest(
            "The multipart body is malformed. Send it with a multipart/form-data encoder.", code="body_malformed"
        ) from error


async def read_form(
    request: Request, sink: Callable[[AsyncIterator[bytes]], Awaitable[Kept]], *, max_bytes: int
) -> Form[Kept]:
    """Read a form with one part named `file`, whose bytes go through `sink` as they arrive.

    Raises `InvalidRequest` (`body_malformed`, `body_truncated`, `file_missing`, `several_files`,
    `invalid_value`) and `PayloadTooLarge`; what the sink kept by then is the caller's to give up.
    """
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_bytes + _FIELD_BYTES * 4:
        raise PayloadTooLarge(f"This deployment takes uploads of up to {max_bytes} bytes.", code="payload_too_large")
    _, options = parse_options_header(request.headers.get("content-type", ""))
    if not (boundary := options.get(b"boundary")):
        raise InvalidRequest("The multipart body names no boundary.", code="body_malformed")
    parts = _Parts(boundary)
    body = request.stream()

    async def events() -> AsyncIterator[tuple[str, Any]]:
        async for chunk in body:
            parts.feed(chunk)
            while parts.events:
                yield parts.events.popleft()
        if not parts.complete:
            raise InvalidRequest(
                "The upload ended before its last boundary: it was cut off. Send it again.",
                code="body_truncated",
            )

    form: Form[Kept] = Form()
    stream = events()
    async for _kind, headers in stream:
        _, given = parse_options_header(headers.get("content-disposition", b""))
        name = given.get(b"name", b"").decode("utf-8", "replace")
        if name != "file":
            if len(form.fields) == _FIELDS:
                raise PayloadTooLarge(f"The form has more than {_FIELDS} fields.", code="too_many_fields")
            form.fields[name] = await _text_of(stream, name)
        elif form.file_name is None:
            form.file_name = given.get(b"filename", b"").decode("utf-8", "replace") or "unnamed"
            form.kept = await sink(_data_of(stream))
        else:
            raise _invalid("file", "several_files", "Send one part `file`: each file is an upload of its own.")
    if form.kept is None:
        raise _invalid("file", "file_missing", "The form has no part named `file`: send the file as one.")
    return form


def _invalid(name: str, code: str, detail: str) -> InvalidRequest:
    return InvalidRequest(detail, code=code, errors=[FieldError(pointer([name]), code, detail)])


async def _data_of(stream: AsyncIterator[tuple[str, Any]]) -> AsyncIterator[bytes]:
    async for kind, value in stream:
        if kind == "end":
            return
        yield value


async def _text_of(stream: AsyncIterator[tuple[str, Any]], name: str) -> str:
    kept = bytearray()
    async for data in _data_of(stream):
        kept += data
        if len(kept) > _FIELD_BYTES:
            raise PayloadTooLarge(f"The field {name!r} is longer than {_FIELD_BYTES} bytes.", code="field_too_large")
    if 0 in kept:
        raise _invalid(name, "invalid_value", "Text has no NUL characters: send it as UTF-8.")
    return kept.decode("utf-8", "replace")
