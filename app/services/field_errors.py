"""From pydantic's findings about a body to field errors: where in the body, which code, and what to do."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from app.domain.job import JobSpec
from app.domain.recipe import TECHNIQUES
from app.errors import FieldError

# What pydantic calls a mistake, and what we call it.
_CODES = {
    "missing": "field_missing",
    "extra_forbidden": "unknown_field",
    "union_tag_invalid": "unknown_technique",
    "union_tag_not_found": "technique_missing",
    "literal_error": "not_allowed",
    "value_error": "contradiction",
    "json_invalid": "invalid_json",
}

# What it says in Python's words, and we in JSON's.
_DETAILS = {
    "missing": "This field is required: give it.",
    "tuple_type": "This must be a list.",
    "dict_type": "This must be an object.",
    "model_type": "This must be an object.",
    "model_attributes_type": "This must be an object.",
    "union_tag_invalid": f"There is no such technique here; choose one of {', '.join(TECHNIQUES)}.",
    "union_tag_not_found": f"Name a technique: one of {', '.join(TECHNIQUES)}.",
}


def schema_errors(error: ValidationError, body: Any) -> list[FieldError]:
    """Turn pydantic's findings about a body into field errors, one for each place in it."""
    found: dict[str, FieldError] = {}
    for finding in error.errors(include_url=False):
        each = field_error(finding, _place(finding, body))
        if (before := found.get(each.pointer)) is not None:
            # Each member of a union says what it would have taken.
            each = FieldError(each.pointer, before.code, f"{before.detail} Or: {each.detail}")
        found[each.pointer] = each
    return list(found.values())


def _place(finding: Mapping[str, Any], body: Any) -> list[str | int]:
    """Where in the body a finding is. Pydantic's own location also names members of unions, which no body has."""
    place: list[str | int] = []
    here = body
    for part in finding["loc"]:
        if (isinstance(here, dict) and part in here) or (isinstance(here, list) and part in range(len(here))):
            here = here[part]
        elif finding["type"] != "missing" or part != finding["loc"][-1]:
            continue
        place.append(part)
    return place


def field_error(finding: Mapping[str, Any], place: list[str | int]) -> FieldError:
    """Turn one of pydantic's findings into a field error."""
    kind = str(finding["type"])
    code = _CODES.get(kind, "too_large" if kind.endswith("too_long") else "invalid_value")
    detail = _DETAILS.get(kind, str(finding["msg"]).removeprefix("Value error, "))
    if code == "unknown_field":
        name = str(finding["loc"][-1])
        detail = f"There is no option {name!r} here."
        if near := difflib.get_close_matches(name, _OPTIONS, n=2):
            detail += f" Did you mean {' or '.join(map(repr, near))}?"
    elif kind.startswith("union_tag"):
        place = [*place, "technique"]
    detail = detail[:1].upper() + detail[1:]
    return FieldError(pointer(place), code, detail if detail.endswith((".", "?")) else detail + ".")


def _options_in(kind: Any) -> set[str]:
    """Names of the fields of a type and of all that its fields hold."""
    names: set[str] = set()
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, option in kind.model_fields.items():
            names |= {name} | _options_in(option.annotation)
    return names.union(*map(_options_in, get_args(kind)))


_OPTIONS = sorted(_options_in(JobSpec))


def pointer(parts: Sequence[str | int]) -> str:
    """An RFC 6901 JSON pointer."""
    return "".join("/" + str(part).replace("~", "~0").replace("/", "~1") for part in parts)


def places(pointer: str) -> list[str]:
    """The parts of a JSON pointer."""
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]
