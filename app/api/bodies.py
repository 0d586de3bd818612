"""JSON bodies, read by hand so that every error in one can be reported at once."""

import json
from typing import Any, NoReturn

from fastapi import Request

from app.errors import FieldError, InvalidRequest, PayloadTooLarge

JSON_BYTES = 1 << 20


async def read_json(request: Request) -> tuple[bytes, Any]:
    """A body as it came and what it says. Raises `PayloadTooLarge` and what `parsed` raises."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > JSON_BYTES:
            raise PayloadTooLarge("A JSON body may have at most 1 MiB.")
    return bytes(raw), parsed(raw)


def parsed(text: str | bytes | bytearray, *, pointer: str = "") -> Any:
    """What a JSON text says.

    Raises `InvalidRequest` (`invalid_json`) for what is no JSON, for numbers that JSON does not have, and for
    text that no database stores.
    """
    try:
        body = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _invalid(pointer, f"This is not JSON: {error}.") from error
    if not _is_storable(body):
        raise _invalid(pointer, "There is a text with a NUL or half a surrogate pair in it.")
    return body


def _invalid(pointer: str, detail: str) -> InvalidRequest:
    return InvalidRequest(detail, code="invalid_json", errors=[FieldError(pointer, "invalid_json", detail)])


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _is_storable(body: Any) -> bool:
    waiting = [body]
    while waiting:
        found = waiting.pop()
        if isinstance(found, str):
            if not found.isascii() and any("\ud800" <= character <= "\udfff" for character in found):
                return False
            if "\0" in found:
                return False
        elif isinstance(found, dict):
            waiting += [*found, *found.values()]
        elif isinstance(found, list):
            waiting += found
    return True
