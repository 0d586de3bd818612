"""`bitpress optimize`: from files and options to a job, and to its artifact."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bitpress.command.exits import ExitCode, exit_code_of_job
from bitpress.command.jobs import Timeout, follow
from bitpress.command.output import Json, print_json, say
from bitpress.command.progress import bytes_bar
from bitpress.command.results import print_job
from bitpress.command.session import connected
from bitpress.command.specification import goal_of, json_object, recipe_of, split
from bitpress.command.uploads import check_source, dataset_id, model_id
from bitpress.errors import ApiError

if TYPE_CHECKING:
    from bitpress.client import Client
    from bitpress.types import Job


def optimize(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model file, an id (mdl_…) or s3://bucket/key.")],
    technique: Annotated[
        str | None, typer.Option("--technique", "-t", metavar="NAME", help="See `bitpress techniques`.")
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option("--option", "-O", metavar="NAME=VALUE", help="Of the technique; calibration.method=percentile."),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="The whole recipe; options above win.")
    ] = None,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(metavar="NODE", help="Nodes that stay in float: a name, a pattern, or op_type=Softmax."),
    ] = None,
    calibration: Annotated[
        str | None, typer.Option(metavar="FILE|ID", help="Data from which ranges are found.")
    ] = None,
    tuning: Annotated[str | None, typer.Option(metavar="FILE|ID", help="Data that guide a search.")] = None,
    evaluation: Annotated[str | None, typer.Option(metavar="FILE|ID", help="Data held out, which judge.")] = None,
    preprocess: Annotated[
        str | None, typer.Option(metavar="JSON|@FILE", help="How images in these files become inputs.")
    ] = None,
    goal: Annotated[str | None, typer.Option(metavar="JSON|@FILE", help="The whole goal.")] = None,
    minimize: Annotated[
        str | None, typer.Option(metavar="WHAT", help="latency, size or memory, or weights: latency=2,size=1.")
    ] = None,
    max_drop: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=NUMBER", help="Largest loss allowed: top1=0.01 is one point."),
    ] = None,
    at_least: Annotated[
        list[str] | None, typer.Option(metavar="METRIC=NUMBER", help="Least value allowed: top1=0.9.")
    ] = None,
    at_most: Annotated[
        list[str] | None,
        typer.Option(metavar="METRIC=NUMBER", help="Greatest value allowed: latency_p50=5 (in ms)."),
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Also measured; see `bitpress metrics`.")
    ] = None,
    target: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where it will run; see `bitpress targets`.")
    ] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, metavar="NUMBER", help="Threads to measure with.")] = None,
    batch: Annotated[
        list[int] | None, typer.Option(min=1, metavar="NUMBER", help="Rows a call to measure with.")
    ] = None,
    priority: Annotated[int | None, typer.Option(min=0, max=9, metavar="NUMBER", help="9 is served first.")] = None,
    name: Annotated[str | None, typer.Option(metavar="TEXT", help="A name for the job.")] = None,
    label: Annotated[list[str] | None, typer.Option(metavar="NAME=VALUE", help="A mark of your own.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run; create no job.")] = False,
    wait: Annotated[bool, typer.Option("--wait", "-w", help="Wait for the end and print what was found.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FOLDER", help="Wait, and save artifact, manifest and report here."),
    ] = None,
    timeout: Timeout = None,
    json: Json = False,
) -> None:
    """Make a model smaller or faster, and measure what that costs.

    Files are uploaded where the service does not have them yet. Options that take several values are
    given several times.
    """
    # All that can be wrong with the options is said before anything is uploaded.
    made = recipe_of(recipe, technique, option or (), keep_float or ())
    if "technique" not in made:
        raise typer.BadParameter("name one, such as dynamic_int8: see `bitpress techniques`", param_hint="--technique")
    given: dict[str, Any] = {
        "recipe": made,
        "goal": goal_of(goal, minimize, max_drop or (), at_least or (), at_most or ()),
        "metrics": metric,
        "measure": {name: value for name, value in (("threads", threads), ("batch", batch)) if value},
        "target": target,
        "priority": priority,
        "name": name,
        "labels": dict(split(each, "--label") for each in label or ()),
    }
    prepared = json_object(preprocess, "--preprocess") or None
    roles = {"calibration": calibration, "tuning": tuning, "evaluation": evaluation}
    for source, prefix in ((model, "mdl"), *((it, "dst") for it in roles.values() if it)):
        check_source(source, prefix)
    with connected() as client:
        spec: dict[str, Any] = {"model": model_id(client, model)}
        data = {role: dataset_id(client, it, prepared) for role, it in roles.items() if it}
        spec |= {"datasets": data} if data else {}
        spec |= {part: value for part, value in given.items() if value not in (None, {}, [])}
        if dry_run:
            print_validation(client, spec, json)
            return
        job = client.submit(spec)
        if wait or output is not None:
            job = finish(client, job, timeout, output)
            print_json(job) if json else print_job(job)
            raise typer.Exit(exit_code_of_job(job))
        if json:
            print_json(job)
        else:
            typer.echo(job["id"])
            say(f"{job['id']} is {job['state']}; `bitpress jobs wait {job['id']}` follows it")


def finish(client: "Client", job: "Job", timeout: float | None, output: Path | None) -> "Job":
    """Follow a job to its end, and save what it made where a folder is named."""
    say(f"{job['id']} is {job['state']}")
    job = follow(client, job["id"], timeout)
    if output is not None and job["state"] == "succeeded":
        save(client, job, output)
    return job


def save(client: "Client", job: "Job", folder: Path) -> None:
    """Write a job's report and its artifacts, each with its manifest, into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for artifact in job["artifacts"]:
        with bytes_bar(f"downloading {artifact}") as told:
            path = client.download(artifact, folder, on_progress=told)
        _write(path.with_name(f"{path.name}.manifest.json"), client.manifest(artifact))
        say(f"saved {path}")
    report = folder / f"{job['id']}.report.json"
    _write(report, client.report(job["id"]))
    say(f"saved {report}")
    try:
        drawn = client.report_page(job["id"])
    except ApiError as error:
        if error.status != 404:
            raise
        say(f"the report is there as JSON only: {error}")
    else:
        report.with_suffix(".html").write_bytes(drawn)
        say(f"saved {report.with_suffix('.html')}, for a browser")


def _write(path: Path, document: Any) -> None:
    path.write_text(json_format.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def print_validation(client: "Client", spec: dict[str, Any], json: bool) -> None:
    """Say what a job would do and what is wrong with it; exits with failure where something is."""
    found = client.validate(spec)
    if json:
        print_json(found)
    else:
        for error in found["errors"]:
            typer.echo(f"wrong: {error['pointer'] or '/'}: {error['detail']} ({error['code']})")
        for doubt in found["doubts"]:
            typer.echo(f"doubtful: {doubt}")
        if found["valid"]:
            typer.echo(f"would run: {', '.join(found['steps'])}")
    if not found["valid"]:
        raise typer.Exit(ExitCode.FAILED)
