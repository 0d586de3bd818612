"""What a job that fails has found until then: it is shown with the failure, and nothing measured is lost."""

import statistics
from collections.abc import Mapping
from typing import Any

from app.domain.measurement import UNITS, Measurement

INCOMPLETE = "incomplete"
"""Flag of a number that fewer processes stand behind than were to measure it."""


def partial_outcome(results: Mapping[str, dict[str, Any]]) -> dict[str, Any] | None:
    """The outcome of a job from the results of its finished steps, by folder; None before anything was measured."""
    baseline = results.get("baseline")
    if baseline is None:
        return None
    made = results.get("candidates", {}).get("candidates", [])
    return {
        "baseline": {"measurements": [*baseline.get("measurements", []), *_latencies(results, "original")]},
        "candidates": [
            {
                "id": found["id"],
                "recipe": found["recipe"],
                "session_options": found.get("session_options", {}),
                "notes": found.get("notes", []),
                "measurements": [*found.get("measurements", []), *_latencies(results, "artifact", found["id"])],
            }
            for found in made
        ],
        "notes": ["The job did not come to its end: what was measured until then is shown, and nothing was judged."],
    }


def _latencies(results: Mapping[str, dict[str, Any]], side: str, candidate: str | None = None) -> list[dict[str, Any]]:
    """The median over the finished processes of each one's median, under each condition."""
    groups: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for found in results.values():
        if found.get("kind") == "latency" and candidate in (None, found.get("candidate")):
            place = (found["threads"], found["batch"], found.get("case"), found["conditions"][side].get("runtime"))
            groups.setdefault(place, []).append(found)
    unit, better = UNITS["latency_p50"]
    said = []
    for (threads, batch, case, runtime), children in groups.items():
        medians = [statistics.median(_samples(child, side)) for child in children]
        conditions = {"threads": threads, "batch": batch, "runtime": runtime, "children": len(children)}
        said.append(
            Measurement(
                name="latency_p50",
                value=statistics.median(medians),
                unit=unit,
                better=better,
                count=sum(len(_samples(child, side)) for child in children),
                conditions=conditions | ({"case": case} if case else {}),
                flags=(INCOMPLETE,),
            ).model_dump(mode="json")
        )
    return said


def _samples(child: dict[str, Any], side: str) -> list[float]:
    pair = child["against"] if child.get("against") else child["same"]
    return [sample for block in pair["first" if side == "original" else "second"] for sample in block]
