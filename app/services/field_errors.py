"""From pydantic's findings about a body to field errors: where in the body, which code, and what to do."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from app.domain.job import JobSpec
from app.domain.recipe import TECHNIQUES
from app.errors import FieldError

MOST_ERRORS = 200
"""More of them help nobody, and take long to find words for."""

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
    "union_tag_invalid": f"There is no such technique here; choose one of {', '.join(TECHNIQUES)}.",
    "union_tag_not_found": f"Name a technique: one of {', '.join(TECHNIQUES)}.",
    "string_too_long": "This is too long: give at most {max_length} characters.",
    "string_too_short": "This is too short: give at least {min_length} characters.",
    "too_long": "This has too many entries: give at most {max_length}.",
    "too_short": "This has too few entries: give at least {min_length}.",
}

# How a sentence that begins with "This must be" goes on. Of a union, each member adds what it would have taken.
_MUST_BE = {
    "string_type": "a text",
    "string_pattern_mismatch": "a text of the form {pattern}",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of a usual size",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "greater_than": "a number above {gt}",
    "greater_than_equal": "a number of {ge} or more",
    "less_than": "a number below {lt}",
    "less_than_equal": "a number of {le} or less",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "literal_error": "{expected}",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "an object",
    "model_type": "an object",
    "model_attributes_type": "an object",
}
_BEGINNING = "This must be "

_PATTERNS = {
    r"^(mdl|art)_[0-9a-z]{26}$": "the id of an uploaded model, as POST /v1/models returned it, or of an artifact",
    r"^dst_[0-9a-z]{26}$": "the id of an uploaded dataset, as POST /v1/datasets returned it",
    r"^[0-9a-f]{64}$": "a SHA-256: 64 digits of 0-9 and a-f",
}


def schema_errors(error: ValidationError, body: Any) -> list[FieldError]:
    """Turn pydantic's findings about a body into field errors, one for each place in it.

    Where parts of a value are wrong, nothing is said of the whole: a list that lacks the entries that were
    not valid, or the other member of a union.
    """
    found: dict[str, FieldError] = {}
    for finding in error.errors(include_url=False)[:MOST_ERRORS]:
        each = field_error(finding, _place(finding, body))
        before = found.get(each.pointer)
        found[each.pointer] = each if before is None else _either(before, each)
    wholes = {each.pointer[:end] for each in found.values() for end, sign in enumerate(each.pointer) if sign == "/"}
    errors = [each for each in found.values() if each.pointer not in wholes]
    if (more := error.error_count() - MOST_ERRORS) > 0:
        errors.append(FieldError("", "more_errors", f"{more} more things are wrong: mend these first."))
    return errors


def _either(one: FieldError, other: FieldError) -> FieldError:
    """Two members of a union, each with what it would have taken."""
    if other.detail in one.detail:
        return one
    if one.detail.startswith(_BEGINNING) and other.detail.startswith(_BEGINNING):
        detail = f"{one.detail.removesuffix('.')}, or {other.detail.removeprefix(_BEGINNING)}"
    else:
        detail = f"{one.detail} Or: {other.detail}"
    return FieldError(one.pointer, one.code, detail)


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
    detail = _detail(kind, finding)
    if code == "unknown_field":
        name = str(finding["loc"][-1])
        detail = f"There is no option {name!r} here: leave it out."
        if near := difflib.get_close_matches(name, _OPTIONS, n=2):
            detail = f"There is no option {name!r} here. Did you mean {' or '.join(map(repr, near))}?"
    elif kind.startswith("union_tag"):
        place = [*place, "technique"]
    if finding["loc"][-1:] == ("[key]",):
        detail = detail.replace("This", "This name", 1)
    detail = detail[:1].upper() + detail[1:]
    return FieldError(pointer(place), code, detail if detail.endswith((".", "?")) else detail + ".")


def _detail(kind: str, finding: Mapping[str, Any]) -> str:
    """What is wrong, and what would be right."""
    context: Mapping[str, Any] = finding.get("ctx") or {}
    told = {name: f"{given:.15g}" if isinstance(given, float) else given for name, given in context.items()}
    if kind in ("string_too_short", "too_short") and told["min_length"] == 1:
        return "This must not be empty."
    if (known := _PATTERNS.get(str(told.get("pattern")))) is not None:
        return _BEGINNING + known
    if (ending := _MUST_BE.get(kind)) is not None:
        return _BEGINNING + ending.format(**told)
    if (whole := _DETAILS.get(kind)) is not None:
        return whole.format(**told)
    return str(finding["msg"]).removeprefix("Value error, ")


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
