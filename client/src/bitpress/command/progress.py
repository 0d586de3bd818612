"""Bars on stderr, where somebody is looking."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bitpress.command.output import stderr

if TYPE_CHECKING:
    from bitpress.types import Job


@contextmanager
def bytes_bar(what: str) -> Iterator[Callable[[int, int], None] | None]:
    """Show bytes that pass; yields what to tell them to, or None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda passed, there: bar.update(task, completed=passed, total=there)


@contextmanager
def job_bar() -> Iterator[Callable[["Job"], None] | None]:
    """Show a job's progress; yields what to tell it to, or None where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:<34.34}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=stderr(), transient=True) as bar:
        task = bar.add_task("submitted", total=1.0)
        yield lambda job: bar.update(task, completed=job["progress"], description=where_it_stands(job))


def where_it_stands(job: "Job") -> str:
    """A job's state in a few words: `candidates: static_int8`, `queued behind 2`."""
    if job["state"] == "queued":
        position = job.get("queue_position") or 1
        return f"queued behind {position - 1}" if position > 1 else f"queued: waits for {job.get('waiting_for')}"
    if job["state"] == "running":
        message = job.get("message")
        stage = job["stage"] or "running"
        return f"{stage}: {message}" if message else stage
    return job["state"]
