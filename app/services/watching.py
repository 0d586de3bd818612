"""Reads and long polls of jobs: any number of callers, one query at a time for all of them."""

import asyncio
import logging
from collections import defaultdict
from typing import TypeVar

import anyio.to_thread

from app.domain.ids import is_id
from app.errors import BitpressError, NotFound
from app.services.jobs import Jobs, JobView, Tags, knows, no_such_job

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

LOOK_SECONDS = 0.25
"""How often the database is asked while anybody waits."""


class JobWatcher:
    """Holds no connection and no thread for a caller: each is one future in this process."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._asking: dict[str, list[tuple[Tags, asyncio.Future[JobView | str]]]] = {}
        self._reading: asyncio.Task[None] | None = None
        self._waiting: dict[str, set[tuple[Tags, asyncio.Future[JobView]]]] = defaultdict(set)
        self._somebody = asyncio.Event()

    async def read(self, job_id: str, known: Tags) -> JobView | str:
        """Read a job from the database, or only its entity tag while that is one of those known.

        Those who ask while a query runs share the next one, which begins after each of them has asked.
        Raises `NotFound`, `Unavailable`.
        """
        if not is_id(job_id, "job"):  # before it reaches a query that others share
            raise no_such_job(job_id)
        future: asyncio.Future[JobView | str] = asyncio.get_running_loop().create_future()
        self._asking.setdefault(job_id, []).append((known, future))
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all())
        return await future

    async def _read_all(self) -> None:
        """Read for all who ask, until nobody does."""
        try:
            while self._asking:
                asking, self._asking = self._asking, {}
                asked = {job_id: {known for known, _ in callers} for job_id, callers in asking.items()}
                found: dict[str, JobView | str | Exception]
                try:
                    found = {**await anyio.to_thread.run_sync(self._jobs.get_unless, asked)}
                except Exception as error:
                    found = dict.fromkeys(asking, error)  # each caller is told
                for job_id, callers in asking.items():
                    answer = found.get(job_id) or no_such_job(job_id)
                    etag = answer.etag if isinstance(answer, JobView) else ""
                    for known, future in callers:
                        _settle(future, etag if etag and knows(known, etag) else answer)
        finally:
            self._reading = None

    async def changed(self, job_id: str, known: Tags, *, seconds: float) -> JobView | None:
        """Wait until the job's entity tag is none of those known, and return the job; null when the time is up.

        Raises `NotFound` when the job is deleted meanwhile.
        """
        future: asyncio.Future[JobView] = asyncio.get_running_loop().create_future()
        place = (known, future)
        self._waiting[job_id].add(place)
        self._somebody.set()
        try:
            return await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return None
        finally:
            self._waiting[job_id].discard(place)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def run(self) -> None:
        """Look for changes for as long as the server lives."""
        while True:
            if not self._waiting:
                self._somebody.clear()
                await self._somebody.wait()
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await self._look()
            except BitpressError as error:
                log.warning("cannot look for changed jobs: %s", error.detail)

    async def _look(self) -> None:
        present = await anyio.to_thread.run_sync(self._jobs.etags, list(self._waiting))
        for job_id in list(self._waiting):
            etag = present.get(job_id)
            waiting = self._waiting.get(job_id, ())
            changed = [future for known, future in waiting if etag is None or not knows(known, etag)]
            if not changed:
                continue
            # Read once, however many wait for it.
            view: JobView | NotFound
            try:
                view = await anyio.to_thread.run_sync(self._jobs.get, job_id)
            except NotFound as error:
                view = error
            for future in changed:
                _settle(future, view)


def _settle(future: asyncio.Future[Answer], answer: Answer | Exception) -> None:
    """Hand an answer to a caller, unless the caller has gone."""
    if future.done():
        return
    if isinstance(answer, Exception):
        future.set_exception(answer)
    else:
        future.set_result(answer)
