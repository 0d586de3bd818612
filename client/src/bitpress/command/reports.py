"""`bitpress report`, `bitpress frontier`, `bitpress compare`"""

import sys
from pathlib import Path
from typing import Annotated

import typer

from bitpress.command.output import print_json, say
from bitpress.command.session import connected, id_of

JobId = Annotated[str, typer.Argument(metavar="JOB", callback=id_of("job"), help="An id: job_…")]


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
        if str(output) == "-":
            sys.stdout.buffer.write(content)
            return
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
