"""From a job's specification to its end: say what it would do, or submit it, follow it, and save what it made."""

import json as json_format
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from bitpress.command.exits import ExitCode, exit_code_of_job
from bitpress.command.jobs import follow
from bitpress.command.output import print_json, say
from bitpress.command.progress import bytes_bar
from bitpress.command.results import print_job
from bitpress.errors import ApiError

if TYPE_CHECKING:
    from bitpress.client import Client
    from bitpress.types import Job


def submit(
    client: "Client",
    spec: dict[str, Any],
    *,
    dry_run: bool,
    wait: bool,
    timeout: float | None,
    json: bool,
    output: Path | None = None,
) -> None:
    """Submit a job and print its id; or wait for its end, which gives the exit code, and print what it found.

    Where a folder is named, wait too, and save there what the job made.
    """
    if dry_run:
        _print_validation(client, spec, json)
        return
    job = client.submit(spec)
    if wait or output is not None:
        job = _finish(client, job, timeout, output)
        print_json(job) if json else print_job(job)
        raise typer.Exit(exit_code_of_job(job))
    if json:
        print_json(job)
    else:
        typer.echo(job["id"])
        say(f"{job['id']} is {job['state']}; `bitpress jobs wait {job['id']}` follows it")


def _finish(client: "Client", job: "Job", timeout: float | None, output: Path | None) -> "Job":
    """Follow a job to its end, and save what it made where a folder is named."""
    say(f"{job['id']} is {job['state']}")
    job = follow(client, job["id"], timeout)
    if output is not None and job["state"] == "succeeded":
        _save(client, job, output)
    return job


def _save(client: "Client", job: "Job", folder: Path) -> None:
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


def _print_validation(client: "Client", spec: dict[str, Any], json: bool) -> None:
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
