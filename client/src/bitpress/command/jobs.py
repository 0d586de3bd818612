"""`bitpress jobs`"""

from itertools import islice
from typing import TYPE_CHECKING, Annotated

import typer

from bitpress.command.exits import ExitCode, exit_code_of_job
from bitpress.command.options import Limit, Timeout
from bitpress.command.output import Json, moment, print_json, print_table, say
from bitpress.command.progress import job_bar, where_it_stands
from bitpress.command.results import print_job
from bitpress.command.session import connected, id_of

if TYPE_CHECKING:
    from bitpress.client import Client
    from bitpress.types import Job

app = typer.Typer(no_args_is_help=True, help="Follow jobs, cancel them, read what they found.", rich_markup_mode=None)

JobId = Annotated[str, typer.Argument(metavar="JOB", callback=id_of("job"), help="An id: job_…")]


@app.command("list")
def list_jobs(
    state: Annotated[str | None, typer.Option(help="Only those in this state, such as running.")] = None,
    model: Annotated[str | None, typer.Option(help="Only those of this model.")] = None,
    target: Annotated[str | None, typer.Option(help="Only those for this target.")] = None,
    label: Annotated[str | None, typer.Option(metavar="NAME=VALUE", help="Only those with this label.")] = None,
    limit: Limit = 20,
    json: Json = False,
) -> None:
    """List jobs, newest first."""
    given = {
        "state": state,
        "model": model,
        "target": target,
        "label": None if label is None else label.replace("=", ":", 1),
    }
    filters = {name: value for name, value in given.items() if value is not None}
    with connected() as client:
        jobs = list(islice(client.jobs(**filters), limit))
        if json:
            print_json(jobs)
            return
        rows = [
            [
                job["id"],
                job["name"] or "",
                str(job["spec"].get("recipe", {}).get("technique", "")),
                where_it_stands(job),
                job["gate"] or "",
                moment(job["created_at"]),
            ]
            for job in jobs
        ]
        print_table(["id", "name", "technique", "state", "gate", "created"], rows)


@app.command("show")
def show_job(job: JobId, json: Json = False) -> None:
    """Show where a job stands and what it found."""
    with connected() as client:
        found = client.job(job)
        print_json(found) if json else print_job(found)


@app.command("wait")
def wait_for_job(job: JobId, timeout: Timeout = None, json: Json = False) -> None:
    """Wait for a job's end; the exit code says how it ended."""
    with connected() as client:
        ended = follow(client, job, timeout)
        print_json(ended) if json else print_job(ended)
        raise typer.Exit(exit_code_of_job(ended))


@app.command("cancel")
def cancel_job(job: JobId, json: Json = False) -> None:
    """Cancel a job that has not ended."""
    with connected() as client:
        found = client.cancel(job)
        if json:
            print_json(found)
        else:
            say(f"{job} is {found['state']}")


@app.command("delete")
def delete_job(job: JobId) -> None:
    """Delete an ended job with its artifacts."""
    with connected() as client:
        client.delete(job)
    say(f"{job} is deleted")


@app.command("log")
def print_log(job: JobId) -> None:
    """Print what the job's process wrote."""
    with connected() as client:
        typer.echo(client.log(job), nl=False)


def follow(client: "Client", job_id: str, timeout: float | None) -> "Job":
    """Wait for a job's end with a bar; who interrupts is told that it goes on."""
    try:
        with job_bar() as told:
            return client.wait(job_id, timeout, told)
    except KeyboardInterrupt:
        say(f"{job_id} goes on: see `bitpress jobs wait {job_id}` and `bitpress jobs cancel {job_id}`")
        raise typer.Exit(ExitCode.INTERRUPTED) from None
