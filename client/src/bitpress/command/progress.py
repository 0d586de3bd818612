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
        yield lambda job: bar.update(task, completed=job["progress"], description=_doing(job))


def where_it_stands(job: "Job") -> str:
    """A job's state in a few words: `running: candidates`, `queued behind 2`."""
    if job["state"] == "running" and job["stage"]:
        return f"running: {job['stage']}"
    if job["state"] != "queued":
        return job["state"]
    position = job["queue_position"] or 1
    return f"queued behind {position - 1}" if position > 1 else f"queued: waits for {job['waiting_for']}"


def _doing(job: "Job") -> str:
    """What stands beside the bar: the stage and its own words, as far as there is room."""
    if job["state"] == "running" and job["stage"]:
        return f"{job['stage']}: {job['message']}" if job["message"] else job["stage"]
    return where_it_stands(job)
