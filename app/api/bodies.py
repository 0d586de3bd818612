"""JSON bodies, read by hand so that every error in one can be reported at once."""

import json
from typing import Any, NoReturn

from fastapi import Request

from app.errors import FieldError, InvalidRequest, PayloadTooLarge

JSON_BYTES = 1 << 20
MOST_LEVELS = 50


async def read_json(request: Request) -> Any:
    """What a body says. Raises `PayloadTooLarge` and what `parsed` raises."""
    raw = bytearray()
    async for chunk in request.stream():
        raw += chunk
        if len(raw) > JSON_BYTES:
            raise PayloadTooLarge("A JSON body may have at most 1 MiB.")
    return parsed(raw)


def parsed(text: str | bytes | bytearray, *, pointer: str = "") -> Any:
    """What a JSON text says.

    Raises `InvalidRequest` (`invalid_json`) for what is no JSON, for numbers that JSON does not have, for text
    that no database stores, and for what is nested so deeply that reading it can fail.
    """
    try:
        body = json.loads(text, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise _invalid(pointer, f"This is not JSON: {error}.") from error
    if (why_not := _why_not_storable(body)) is not None:
        raise _invalid(pointer, why_not)
    return body


def _invalid(pointer: str, detail: str) -> InvalidRequest:
    return InvalidRequest(detail, code="invalid_json", errors=[FieldError(pointer, "invalid_json", detail)])


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _why_not_storable(body: Any) -> str | None:
    waiting = [(body, 1)]
    while waiting:
        found, depth = waiting.pop()
        if isinstance(found, str):
            if "\0" in found or (not found.isascii() and any("\ud800" <= sign <= "\udfff" for sign in found)):
                return "There is a text with a NUL or half a surrogate pair in it: leave that out."
        elif isinstance(found, dict | list):
            if depth > MOST_LEVELS:
                return f"This is nested in more than {MOST_LEVELS} levels: nothing here takes that many."
            inside = (*found, *found.values()) if isinstance(found, dict) else found
            waiting += [(each, depth + 1) for each in inside]
    return None
