"""What tells measurements of one name apart: all that a job varies, in a key and in words."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from workers.report.variants import Found, is_number

_RUNTIMES = {"openvino": "OpenVINO", "litert": "LiteRT"}


@dataclass(frozen=True, slots=True)
class Place:
    """What a measurement is of, and what it holds for; null where its conditions do not tell.

    What is no number is text, an object its JSON. `turn` is above 0 only for what nothing else tells from another.
    """

    name: str
    runtime: str | None = None
    case: str | None = None
    shapes: str | None = None
    threads: Any = None
    batch: Any = None
    callers: Any = None
    rate: Any = None
    output: str | None = None
    labels: str | None = None
    options: str | None = None
    turn: int = 0

    @property
    def is_load(self) -> bool:
        """Whether calls came side by side, or at a rate."""
        return self.callers is not None or self.rate is not None


_KEYS = tuple(field.name for field in fields(Place) if field.name not in ("name", "turn"))


def place_of(name: str, conditions: Mapping[str, Any] | None) -> Place:
    """The place of a measurement by its conditions."""
    given = conditions or {}
    return Place(name, **{key: _told(given.get(key)) for key in _KEYS})


def by_place(measurements: Iterable[Found]) -> dict[Place, Found]:
    """Measurements by what tells them apart, in their order; none is lost."""
    found: dict[Place, Found] = {}
    for one in measurements:
        place = place_of(str(one.get("name")), one.get("conditions"))
        while place in found:
            place = replace(place, turn=place.turn + 1)
        found[place] = one
    return found


def sampled_place(sample: Mapping[str, Any]) -> Place:
    """The place of a measuring process by what it wrote down."""
    session = (sample.get("conditions") or {}).get("original") or {}
    known = {key: sample.get(key) for key in ("threads", "batch", "case")}
    return place_of("latency", {**known, "runtime": session.get("runtime"), "shapes": _shapes_of(sample, session)})


def varying(places: Iterable[Place]) -> frozenset[str]:
    """The conditions that tell at least two of these places apart, so that they have to be said."""
    found = list(places)
    several = {key for key in _KEYS if len({_value(place, key) for place in found} - {None}) > 1}
    # Shapes go with the rows a call, and an output with its metric: only where nothing else differs they say more.
    for key in several & {"shapes", "output", "options"}:
        others = [other for other in ("name", *_KEYS) if other != key]
        apart = {tuple(_value(place, other) for other in others) for place in found}
        if len(apart) == len({replace(place, turn=0) for place in found}):
            several.discard(key)
    return frozenset(several)


def described(place: Place, varied: frozenset[str] = frozenset()) -> str:
    """What a measurement holds for, in words: `varied` are the conditions that have to be said, others may be."""
    parts = []
    if place.runtime is not None and "runtime" in varied:
        parts.append(_RUNTIMES.get(place.runtime, place.runtime))
    if place.case is not None:
        parts.append(f"{place.case} ({_shapes(place.shapes)})" if place.shapes else place.case)
    elif place.shapes is not None and "shapes" in varied:
        parts.append(_shapes(place.shapes))
    if place.threads is not None:
        parts.append(counted(place.threads, "thread"))
    if place.batch is not None:
        parts.append(f"{counted(place.batch, 'row')} a call")
    if place.callers is not None:
        parts.append(counted(place.callers, "caller"))
    if place.rate is not None:
        parts.append(rated(place.rate))
    parts += [
        f"{key} {value}"
        for key in ("output", "labels", "options")
        if (value := getattr(place, key)) is not None and (key in varied or key == "labels")
    ]
    return ", ".join(parts)


def counted(number: Any, thing: str) -> str:
    """So many of a thing."""
    return f"{number:g} {thing}{'s' * (number != 1)}" if is_number(number) else f"{thing}s: {number}"


def rated(rate: Any) -> str:
    """A rate at which calls arrive."""
    return f"{rate:,.10g} calls a second arrive" if is_number(rate) else f"rate {rate}"


def _value(place: Place, key: str) -> Any:
    return getattr(place, key)


def _told(value: Any) -> Any:
    if value is None or is_number(value):
        return value
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _shapes_of(sample: Mapping[str, Any], session: Mapping[str, Any]) -> Any:
    return sample.get("shapes") or session.get("shapes")


def _shapes(text: str) -> str:
    """Shapes as `x 1×4×256`."""
    try:
        found = json.loads(text)
        return ", ".join(f"{name} {'×'.join(map(str, shape))}" for name, shape in found.items())
    except (ValueError, AttributeError, TypeError):
        return text
