"""`bitpress report`, `bitpress frontier`, `bitpress compare`"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from bitpress.command.conditions import ran
from bitpress.command.output import NOTHING, Json, in_bytes, print_json, print_table, say
from bitpress.command.session import connected, id_of, is_id

JobId = Annotated[str, typer.Argument(metavar="JOB", callback=id_of("job"), help="An id: job_…")]

ModelId = Annotated[str, typer.Argument(metavar="MODEL", callback=id_of("mdl"), help="An id: mdl_…")]

_TRADED = ("latency_p50", "artifact_bytes")

_SIDES = {
    "better": "better",
    "worse": "worse",
    "within_noise": "within noise",
    "unknown": "unknown",
    "not_comparable": "not comparable",
}


def report(
    job: JobId,
    html: Annotated[bool, typer.Option("--html", help="One page with plots, which opens without network.")] = False,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="A file or a folder; of a page, the present folder.")
    ] = None,
) -> None:
    """Get a job's report: JSON with every sample on stdout, or a page in a file, whose path is printed."""
    with connected() as client:
        if not html and output is None:
            print_json(client.report(job))
            return
        content = client.report_page(job) if html else _as_json(client.report(job))
        target = output or Path()
        if target.is_dir():
            target = target / f"{job}.{'html' if html else 'json'}"
        target.write_bytes(content)
    if html:
        say("Open it in a browser; it needs no network.")
    typer.echo(target)


def _as_json(document: object) -> bytes:
    import json

    return (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode()


def frontier(
    model: ModelId,
    target: Annotated[str | None, typer.Option(help="Only what was measured on this target or fingerprint.")] = None,
    minimize: Annotated[str, typer.Option(help="latency, size or memory.")] = "latency",
    constraint: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="top1>=0.9, latency_p50<=5, max_drop:top1<=0.01; may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Show every measured variant of a model, which no other beats, and which is best under constraints."""
    with connected() as client:
        found = client.frontier(model, target=target, minimize=minimize, constraints=constraint or ())
        if json:
            print_json(found)
            return
        if not found["groups"]:
            say("no job that succeeded has measured this model")
        for number, group in enumerate(found["groups"]):
            if number:
                typer.echo()
            _print_group(group, found["minimize"])


def compare(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Artifacts or models; the first is the reference.")],
    json: Json = False,
) -> None:
    """Compare artifacts and models: every difference from the first, with its interval."""
    for each in ids:
        if not is_id(each, "art") and not is_id(each, "mdl"):
            raise typer.BadParameter(f"{each!r} is not an id of the form art_… or mdl_…")
    with connected() as client:
        found = client.compare(*ids)
        if json:
            print_json(found)
            return
        rows, doubts = [], set()
        for row in found["measurements"]:
            first = next((value["measurement"] for value in row["values"] if value["measurement"]), None)
            for place, value in enumerate(row["values"]):
                measured, difference = value["measurement"], value["difference"]
                name = "" if place else row["name"] + _conditions(first)
                rows.append([name, value["id"], _value(measured), *_differs(difference)])
                doubts.update(_doubts(measured))
        print_table(["measured", "of", "value", "× reference", "difference", "basis"], rows, right=["value"])
        _print_doubts(doubts)


def _print_group(group: Mapping[str, Any], minimize: str) -> None:
    data = group["data"]
    where = f"on {group['target']} ({group['fingerprint'] or 'machine unknown'})"
    typer.echo(f"{where}, {data['source']} rows{' ' + data['dataset'] if data['dataset'] else ''}")
    if said := ran(group.get("conditions") or {}, version=True):
        typer.echo(f"timed with {', '.join(said)}")
    best = group["best"]
    doubts: set[str] = set()
    names = [*_TRADED, *(axis for axis in group["axes"] if axis not in _TRADED)]
    rows = []
    for variant in group["variants"]:
        values = {each["name"]: each for each in reversed(variant["measurements"])}
        marks = ["best"] if variant["id"] == best["variant"] else []
        marks += ["pareto"] if variant["pareto"] else []
        paired = next((each for each in variant.get("comparisons", ()) if each["name"] == "latency_p50"), None)
        doubts.update(*(_doubts(values.get(name)) for name in names), _doubts(paired))
        rows.append(
            [
                variant["id"],
                str((variant["recipe"] or {}).get("technique", "original")),
                *(_value(values.get(name)) for name in names),
                _ratio(variant["costs"].get("latency_p50") or {}) + ("*" if _doubts(paired) else ""),
                ", ".join(each["standing"] for each in variant["constraints"]),
                ", ".join(marks),
            ]
        )
    print_table(["variant", "technique", *names, "× fp32", "constraints", ""], rows, right=[*names, "× fp32"])
    _print_doubts(doubts)
    if best["variant"] is None:
        typer.echo(f"none is best: {best['reason']}")
    elif best["indistinguishable"]:
        near = ", ".join(best["indistinguishable"])
        typer.echo(f"least {minimize}: {best['variant']}; not to be told from it: {near}")


def _conditions(measured: Mapping[str, Any] | None) -> str:
    """What it holds for, where that is not what most have: one thread, one row a call, ONNX Runtime."""
    conditions = (measured or {}).get("conditions") or {}
    told = ran(conditions, [name for name in ("threads", "batch") if conditions.get(name) == 1])
    return f" ({', '.join(told)})" if told else ""


def _doubts(measured: Mapping[str, Any] | None) -> list[str]:
    """The flags that speak against a value."""
    return list((measured or {}).get("flags") or ())


def _print_doubts(doubts: Collection[str]) -> None:
    if doubts:
        typer.echo(f"* measured under doubt: {', '.join(sorted(doubts))}")


def _value(measured: Mapping[str, Any] | None) -> str:
    if measured is None or measured["value"] is None:
        return NOTHING
    value, unit = measured["value"], measured["unit"]
    doubt = "*" if _doubts(measured) else ""
    if unit == "bytes":
        return in_bytes(value) + doubt
    if unit == "fraction":
        return f"{100 * value:.1f} %{doubt}"
    return f"{value:.4g}" + ("" if unit == "1" else f" {unit}") + doubt


def _ratio(found: Mapping[str, Any]) -> str:
    if not found:
        return NOTHING
    ends = found.get("ci95")
    return f"{found['ratio']:.4g}" + (f" [{ends[0]:.4g}, {ends[1]:.4g}]" if ends else "")


def _differs(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return ["", "", ""]
    if found["side"] == "not_comparable":
        return ["", f"not comparable: other {', '.join(found['differs_in'])}", ""]
    ratio = _ratio({"ratio": found["ratio"], "ci95": found["ratio_ci95"]}) if found["ratio"] is not None else NOTHING
    text = _SIDES[found["side"]]
    if found["ci95"]:
        text += f", {found['difference']:+.3g} [{found['ci95'][0]:+.3g}, {found['ci95'][1]:+.3g}]"
    return [ratio, text, found["basis"].replace("_", " ")]
