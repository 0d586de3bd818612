"""What a job found, as a table a person can read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer

from bitpress.command.conditions import ran
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
    if job["candidates"] or job["baseline"]:
        typer.echo()
        show(result_table(job) if job["candidates"] else measurement_table(job))
        typer.echo()
        for line in findings(job):
            typer.echo(line)


def result_table(job: "Job") -> "Table":
    """Lay out the original and every candidate: bytes, latency, what it computes, × fp32 and verdict."""
    baseline = job["baseline"]["measurements"] if job["baseline"] else []
    metrics = _metrics(job)
    titles = [f"{name} {unit}".rstrip() for name, unit in metrics.items()]
    columns = ["variant", "size", "p50 ms", "p99 ms", *titles, "× fp32", "gate"]
    rows = [["fp32", *_numbers(baseline, metrics), "1.00", ""]]
    names = _names(job["candidates"])
    for name, candidate in zip(names, job["candidates"], strict=True):
        chosen = candidate["id"] == job["chosen"]
        verdict = candidate.get("verdict") or (job["gate"] if chosen else None)
        rows.append(
            [
                name + (" (chosen)" if chosen and len(names) > 1 else ""),
                *_numbers(candidate["measurements"], metrics),
                _speed(candidate),
                verdict or NOTHING,
            ]
        )
    return table(columns, rows, right=columns[1:-1])


def measurement_table(job: "Job") -> "Table":
    """Lay out everything that was measured of one model, with its interval and what it holds for."""
    rows = [
        [
            each["name"],
            _written(each, interval=True),
            "" if each["value"] is None else {"fraction": "%", "1": "", "bytes": ""}.get(each["unit"], each["unit"]),
            _holds_for(each) if each["value"] is not None else str(each.get("reason")),
        ]
        for each in (job["baseline"]["measurements"] if job["baseline"] else [])
    ]
    return table(["measured", "value [95 %]", "unit", "holds for"], rows, right=["value [95 %]"])


def findings(job: "Job") -> Iterator[str]:
    """Everything that is to be said below the table: verdicts, conclusion, notes, flags, artifacts."""
    if job["conclusion"]:
        yield job["conclusion"]
    if job["gate"] and job["gate"] != "none":
        yield f"gate: {job['gate']}"
        yield from (f"  {_verdict(found)}" for found in job["verdicts"])
    notes = [*job["notes"], *(note for candidate in job["candidates"] for note in candidate.get("notes", []))]
    yield from (f"note: {note}" for note in dict.fromkeys(notes))
    if flags := _flags(job):
        yield f"* measured under doubt: {', '.join(flags)}"
    yield from (f"artifact: {artifact}" for artifact in job["artifacts"])


def _holds_for(measurement: "Measurement") -> str:
    found = measurement.get("conditions", {})
    return ", ".join([*ran(found), *([f"rows {found['rows']}"] if "rows" in found else [])])


def _metrics(job: "Job") -> dict[str, str]:
    """The metrics that have a column, with their units: those always shown and those that were asked for."""
    goal = job["spec"].get("goal") or {}
    bound = [constraint["metric"] for constraint in goal.get("constraints", [])]
    asked = [each if isinstance(each, str) else each["name"] for each in job["spec"].get("metrics", [])]
    wanted = dict.fromkeys([*_ALWAYS_SHOWN, *bound, *asked])
    measured = [each for candidate in job["candidates"] for each in candidate["measurements"]]
    found = {each["name"]: each["unit"] for each in measured if each["value"] is not None}
    signs = {"fraction": "%", "1": ""}
    return {
        name: signs.get(found[name], found[name]) for name in wanted if name in found and name not in _OF_ANY_ARTIFACT
    }


def _names(candidates: Sequence["Candidate"]) -> list[str]:
    """A name for each candidate: its technique, numbered where one technique made several."""
    techniques = [str(candidate["recipe"].get("technique", "variant")) for candidate in candidates]
    return [
        name if techniques.count(name) == 1 else f"{name} {techniques[:place].count(name) + 1}"
        for place, name in enumerate(techniques)
    ]


def _numbers(measured: Sequence["Measurement"], metrics: Iterable[str]) -> list[str]:
    size = _found(measured, "artifact_bytes")
    return [
        in_bytes(size["value"] if size else None),
        _written(_found(measured, "latency_p50")),
        _written(_found(measured, "latency_p99")),
        *(_written(_found(measured, name), interval=name != "agreement") for name in metrics),
    ]


def _found(measured: Sequence["Measurement"], name: str) -> "Measurement | None":
    """The first measurement of a name: under the first conditions asked for, which comparisons use."""
    return next((each for each in measured if each["name"] == name), None)


def _written(measurement: "Measurement | None", *, interval: bool = False) -> str:
    if measurement is None or measurement["value"] is None:
        return NOTHING
    text = _number(measurement["value"], measurement["unit"])
    if interval and (ends := measurement.get("ci95")):
        text += f" [{', '.join(_number(end, measurement['unit']) for end in ends)}]"
    estimated = "~" if measurement.get("method") == "estimated" else ""
    return estimated + text + ("*" if measurement.get("flags") else "")


def _number(value: float, unit: str) -> str:
    """A value as its column shows it: a fraction in percent, milliseconds to the microsecond."""
    if unit == "fraction":
        return f"{100 * value:.1f}"
    if unit == "bytes":
        return in_bytes(value)
    return f"{value:.3f}" if unit == "ms" and value < 10 else f"{value:.1f}" if unit in ("ms", "dB") else f"{value:.4g}"


def _speed(candidate: "Candidate") -> str:
    """How many times as fast as the original, by the paired comparison of the two."""
    for compared in candidate.get("comparisons", []):
        if compared["name"] == "latency_p50" and compared["ratio"]:
            return f"{1 / compared['ratio']:.2f}" + (" (noise)" if compared.get("within_noise") else "")
    return NOTHING


def _flags(job: "Job") -> list[str]:
    parts = [*(job["candidates"]), *([job["baseline"]] if job["baseline"] else [])]
    return sorted({flag for part in parts for m in part["measurements"] for flag in m.get("flags", [])})


def _verdict(found: Mapping[str, Any]) -> str:
    constraint = found.get("constraint") or {}
    bounds = ", ".join(f"{name} {value}" for name, value in constraint.items() if value not in (None, False))
    return f"{found['verdict']}: {found.get('reason') or bounds.removeprefix('metric ')}"
