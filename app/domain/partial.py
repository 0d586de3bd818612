"""What a job that came to no end has found until then: it is shown with the failure, and nothing measured is lost.

Results are what children wrote, which only the next child would have checked: what is not as it should be is left out.
"""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from app.domain.measurement import UNITS, Measurement

INCOMPLETE = "incomplete"
"""Flag of a number that fewer processes, or rows, stand behind than were to."""

UNFINISHED = "unfinished"
"""The folder, and the step, that says what a baseline had found that did not end."""

NOTE = "The job did not come to its end: what was measured until then is shown, and nothing was judged."

Result = Mapping[str, Any]

_MALFORMED = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)


def partial_outcome(results: Mapping[str, Result]) -> dict[str, Any] | None:
    """The outcome of a job from the results of its finished steps, by folder; None before anything was measured."""
    begun = results.get("baseline") or results.get(UNFINISHED)
    if begun is None:
        return None
    notes = [note for note in _list(begun.get("notes")) if isinstance(note, str)]
    return {
        "baseline": {"measurements": [*_objects(begun.get("measurements")), *_timed(results, "original")]},
        "candidates": [
            {
                "id": found["id"],
                "recipe": found["recipe"],
                "session_options": found.get("session_options", {}),
                "notes": found.get("notes", []),
                "measurements": [*_objects(found.get("measurements")), *_timed(results, found["id"])],
            }
            for found in _objects(results.get("candidates", {}).get("candidates"))
            if "id" in found and "recipe" in found
        ],
        "notes": [NOTE, *notes],
    }


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _objects(value: Any) -> list[dict[str, Any]]:
    return [entry for entry in _list(value) if isinstance(entry, dict)]


# What one process says of one model

Reading = Callable[..., float | None]
"""Takes a child's result and the `side` of it: `original`, or `artifact`."""


def _samples(child: Result, side: str) -> list[float]:
    pair = child["against"] if child.get("against") else child["same"]
    return [sample for block in pair["first" if side == "original" else "second"] for sample in block]


def _memory(name: str) -> Reading:
    def read(child: Result, *, side: str) -> float | None:
        memory = child.get("memory")
        return float(memory[name]) if memory and memory["subject"] == side else None

    return read


_OF_SERIES = frozenset({"latency_p50", "latency_mean", "throughput", "cpu_per_inference"})
"""What stands on a process's samples, and not on the process."""

_READINGS: dict[str, Reading] = {
    "latency_p50": lambda child, *, side: statistics.median(_samples(child, side)),
    "latency_mean": lambda child, *, side: statistics.fmean(_samples(child, side)),
    "throughput": lambda child, *, side: 1000 * child["batch"] / statistics.fmean(_samples(child, side)),
    "load_time": lambda child, *, side: float(child["load_ms"][side]),
    "first_run": lambda child, *, side: float(child["first_ms"][side]),
    "cpu_per_inference": lambda child, *, side: child["cpu_seconds"][side] / child["batch"],
    "peak_memory": _memory("peak_bytes"),
    "steady_memory": _memory("steady_bytes"),
}


def _timed(results: Mapping[str, Result], whose: str) -> list[dict[str, Any]]:
    """Medians over the finished processes, under each condition, and then under each load."""
    children = [found for found in results.values() if found.get("kind") == "latency"]
    if whose == "original":
        found = _latencies(children, "original")
    else:
        found = _latencies([child for child in children if child.get("candidate") == whose], "artifact")
    loads = [child for child in results.values() if child.get("kind") == "load" and child.get("subject") == whose]
    return found + _loads(loads)


def _latencies(children: Iterable[Result], side: str) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[Result]] = {}
    for child in children:
        try:
            runtime = child["conditions"][side].get("runtime")
            groups.setdefault((child["threads"], child["batch"], child.get("case"), runtime), []).append(child)
        except _MALFORMED:
            continue
    said: list[dict[str, Any]] = []
    for (threads, batch, case, runtime), alike in groups.items():
        conditions = {"threads": threads, "batch": batch, "runtime": runtime} | ({"case": case} if case else {})
        for name, reading in _READINGS.items():
            values = _read(alike, partial(reading, side=side))
            samples = _read(alike, lambda child: len(_samples(child, side))) if name in _OF_SERIES else None
            said += _median(name, values, conditions, samples)
    return said


def _loads(children: Iterable[Result]) -> list[dict[str, Any]]:
    groups: dict[tuple[Any, ...], list[tuple[float, Result]]] = {}
    for child in children:
        try:
            for point in child["points"]:
                place = (child["threads"], child["batch"], child["conditions"].get("runtime"))
                load = (point["callers"], point.get("rate"))
                groups.setdefault((*place, *load), []).append((child["batch"], point))
        except _MALFORMED:
            continue
    said: list[dict[str, Any]] = []
    for (threads, batch, runtime, callers, rate), points in groups.items():
        conditions = {"threads": threads, "batch": batch, "runtime": runtime, "callers": callers}
        conditions |= {} if rate is None else {"rate": rate}
        rates = _read(points, lambda found: found[0] * len(found[1]["samples_ms"]) / found[1]["seconds"])
        said += _median("throughput", rates, conditions)
        said += _median(
            "latency_p50", _read(points, lambda found: statistics.median(found[1]["samples_ms"])), conditions
        )
    return said


def _read(children: Iterable[Any], reading: Callable[[Any], float | None]) -> list[float]:
    """What each child says, of those that say something."""
    found = []
    for child in children:
        try:
            value = reading(child)
            if value is not None and math.isfinite(value):
                found.append(float(value))
        except _MALFORMED:
            continue
    return found


def _median(
    name: str, values: list[float], conditions: dict[str, Any], counts: list[float] | None = None
) -> list[dict[str, Any]]:
    if not values:
        return []
    unit, better = UNITS[name]
    return [
        Measurement(
            name=name,
            value=statistics.median(values),
            unit=unit,
            better=better,
            count=len(values) if counts is None else int(sum(counts)),
            conditions={**conditions, "children": len(values)},
            flags=(INCOMPLETE,),
        ).model_dump(mode="json")
    ]
