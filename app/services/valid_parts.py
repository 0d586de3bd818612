"""What of a job's specification can be read although parts of it are wrong: the rest is checked all the same."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError

from app.domain.job import JobSpec
from app.errors import FieldError
from app.services.field_errors import MOST_ERRORS, places, pointer, schema_errors

Place = tuple[str, ...]

# What is left out below each name: null for all of it.
_Gone = dict[str, "_Gone | None"]

_STAND_INS = {"model": "mdl_" + "0" * 26}


@dataclass(frozen=True, slots=True)
class ValidParts:
    """A specification, null where nothing of the body can be read.

    `kept` has, of each list of the body that lost entries, the indexes that the others have there.
    """

    spec: JobSpec | None
    kept: dict[Place, list[int]] = field(default_factory=dict)

    def in_body(self, found: FieldError) -> FieldError:
        """An error of the specification, at the place that it has in the body."""
        return FieldError(pointer(_original(places(found.pointer), self.kept)), found.code, found.detail)


def valid_parts(body: dict[str, Any], errors: Sequence[FieldError]) -> ValidParts:
    """Read a body without the fields and entries that are wrong, and without what is wrong once those are gone."""
    gone: _Gone = {}
    kept: dict[Place, list[int]] = {}
    rest = body
    while True:
        wrong = [_original(_present(rest, places(found.pointer)), kept) for found in errors]
        marked = [_leave_out(gone, place) for place in wrong]
        kept = {}
        rest = _STAND_INS | _without(body, gone, kept, ())
        try:
            return ValidParts(JobSpec.model_validate(rest), kept)
        except ValidationError as error:
            if not any(marked) or error.error_count() > MOST_ERRORS:
                return ValidParts(None)
            errors = schema_errors(error, rest)


def _original(place: Sequence[str], kept: dict[Place, list[int]]) -> Place:
    """Where in the body something is that has this place without the entries that were left out."""
    found: Place = ()
    for part in place:
        left = kept.get(found, [])
        found = (*found, str(left[int(part)]) if part.isdecimal() and int(part) < len(left) else part)
    return found


def _present(body: Any, place: Sequence[str]) -> Sequence[str]:
    """A place in a body; of something that is missing, the place of what lacks it."""
    here = body
    for depth, part in enumerate(place):
        if isinstance(here, dict) and part in here:
            here = here[part]
        elif isinstance(here, list) and part.isdecimal() and int(part) < len(here):
            here = here[int(part)]
        else:
            return place[:depth]
    return place


def _leave_out(gone: _Gone, place: Place) -> bool:
    """Mark a place to be left out; false where it was marked before, or is the whole body."""
    for depth, part in enumerate(place):
        if depth == len(place) - 1:
            new = gone.get(part, {}) is not None
            gone[part] = None
            return new
        below = gone.setdefault(part, {})
        if below is None:
            return False
        gone = below
    return False


def _without(value: Any, gone: _Gone, kept: dict[Place, list[int]], place: Place) -> Any:
    """A copy of a value without what is marked, as deep as there are marks; fills `kept`."""

    def inner(name: str, inside: Any) -> Any:
        below = gone.get(name)
        return _without(inside, below, kept, (*place, name)) if below else inside

    if isinstance(value, list):
        left = [index for index in range(len(value)) if gone.get(str(index), {}) is not None]
        if len(left) < len(value):
            kept[place] = left
        return [inner(str(index), value[index]) for index in left]
    return {name: inner(name, inside) for name, inside in value.items() if gone.get(name, {}) is not None}
