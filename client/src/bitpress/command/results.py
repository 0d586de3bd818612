"""What a job found, as a table a person can read."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import typer

from bitpress.command.output import NOTHING, facts, in_bytes, moment, show, table
from bitpress.command.progress import where_it_stands

if TYPE_CHECKING:
    from rich.table import Table

    from bitpress.types import Candidate, Job, Measurement

_ALWAYS_SHOWN = ("top1", "agreement")
_OF_ANY_ARTIFACT = ("latency_p50", "latency_p99", "artifact_bytes")
_ENDED = ("succeeded", "failed", "cancelled")


def print_job(job: "Job") -> None:
    """Print where a job stands and, once there is something, what it found."""
    error = job["error"]
    show(
        facts(
            [
                ("job", job["id"]),
                ("name", job["name"]),
                ("state", where_it_stands(job)),
                ("progress", None if job["state"] in _ENDED else f"{job['progress']:.0%}"),
                ("error", f"{error['detail']} ({error['code']})" if error else None),
                ("model", job["model"]),
                ("target", job["target"]),
                ("labels", ", ".join(f"{name}={value}" for name, value in job["labels"].items())),
                ("created", moment(job["created_at"])),
                ("ended", moment(job["ended_at"])),
            ]
        )
    )
    if job["candidates"]:
        typer.echo()
        show(result_table(job))
        typer.echo()
        for line in findings(job):
            typer.echo(line)


def result_table(job: "Job") -> "Table":
    """Lay out the original and every candidate: bytes, latency, what it computes, × fp32 and verdict."""
    metrics = _metrics(job)
    baseline = job["baseline"]["measurements"] if job["baseline"] else []
    columns = ["variant", "size", "p50", "p99", *metrics, "× fp32", "gate"]
    original = _numbers(baseline, metrics)
    rows = [["fp32", *original, "1.00" if original[1] != NOTHING else NOTHING, ""]]
    names = _names(job["candidates"])
    for name, candidate in zip(names, job["candidates"], strict=True):
        measured = candidate["measurements"]
        chosen = " (chosen)" if candidate["id"] == job["chosen"] and len(names) > 1 else ""
        verdict = candidate.get("verdict") or (job["gate"] if candidate["id"] == job["chosen"] else None)
        rows.append([name + chosen, *_numbers(measured, metrics), _speed(baseline, measured), verdict or NOTHING])
    return table(columns, rows, right=columns[1:-1])


def findings(job: "Job") -> Iterator[str]:
    """Everything that is to be said below the table: verdicts, conclusion, notes, flags, artifacts."""
    if job["conclusion"]:
        yield job["conclusion"]
    if job["gate"] and job["gate"] != "none":
        yield f"gate: {job['gate']}"
        yield from (f"  {line}" for line in map(_verdict, job["verdicts"]) if line)
    notes = [*job["notes"], *(note for candidate in job["candidates"] for note in candidate.get("notes", []))]
    yield from (f"note: {note}" for note in dict.fromkeys(notes))
    if flags := _flags(job):
        yield f"* measured under doubt: {', '.join(flags)}"
    yield from (f"artifact: {artifact}" for artifact in job["artifacts"])


def _metrics(job: "Job") -> list[str]:
    """The columns of metrics: those always shown and those that were asked for, where there is a value."""
    goal = job["spec"].get("goal") or {}
    bound = [constraint["metric"] for constraint in goal.get("constraints", [])]
    wanted = dict.fromkeys([*_ALWAYS_SHOWN, *bound, *job["spec"].get("metrics", [])])
    measured = [m for candidate in job["candidates"] for m in candidate["measurements"]]
    return [name for name in wanted if name not in _OF_ANY_ARTIFACT and _value(measured, name) is not None]


def _names(candidates: Sequence["Candidate"]) -> list[str]:
    """A name for each candidate: its technique, numbered where one technique made several."""
    techniques = [str(candidate["recipe"].get("technique", "variant")) for candidate in candidates]
    return [
        name if techniques.count(name) == 1 else f"{name} {techniques[:place].count(name) + 1}"
        for place, name in enumerate(techniques)
    ]


def _numbers(measured: Iterable["Measurement"], metrics: Sequence[str]) -> list[str]:
    measured = list(measured)
    size = _found(measured, "artifact_bytes")
    return [
        in_bytes(size["value"]) if size and size["value"] is not None else NOTHING,
        _written(_found(measured, "latency_p50")),
        _written(_found(measured, "latency_p99")),
        *(_written(_found(measured, name), interval=True) for name in metrics),
    ]


def _found(measured: Iterable["Measurement"], name: str) -> "Measurement | None":
    """The first measurement of a name: under the first conditions asked for, which comparisons use."""
    return next((each for each in measured if each["name"] == name), None)


def _value(measured: Iterable["Measurement"], name: str) -> float | None:
    found = _found(measured, name)
    return None if found is None else found["value"]


def _written(measurement: "Measurement | None", *, interval: bool = False) -> str:
    if measurement is None or measurement["value"] is None:
        return NOTHING
    share = measurement["unit"] == "fraction"
    scale = 100 if share else 1
    digits = 3 if measurement["unit"] == "ms" and measurement["value"] < 10 else 4 if measurement["unit"] == "1" else 1
    text = f"{measurement['value'] * scale:.{digits}f}"
    if interval and (ends := measurement.get("ci95")):
        text += f" [{ends[0] * scale:.{digits}f}, {ends[1] * scale:.{digits}f}]"
    unit = "%" if share else "" if measurement["unit"] == "1" else measurement["unit"]
    estimated = "~" if measurement.get("method") == "estimated" else ""
    return f"{estimated}{text} {unit}".rstrip() + ("*" if measurement.get("flags") else "")


def _speed(baseline: Iterable["Measurement"], measured: Iterable["Measurement"]) -> str:
    before, after = _value(baseline, "latency_p50"), _value(measured, "latency_p50")
    return f"{before / after:.2f}" if before and after else NOTHING


def _flags(job: "Job") -> list[str]:
    parts = [*(job["candidates"]), *([job["baseline"]] if job["baseline"] else [])]
    return sorted({flag for part in parts for m in part["measurements"] for flag in m.get("flags", [])})


def _verdict(found: dict[str, object]) -> str:
    constraint = found.get("constraint")
    if isinstance(constraint, dict):
        bounds = ", ".join(f"{name} {value}" for name, value in constraint.items() if value not in (None, False))
        constraint = bounds.removeprefix("metric ")
    said = f"{constraint}: {found.get('verdict')}"
    return f"{said}: {found['reason']}" if found.get("reason") else said
