"""Long polls: any number of callers wait, one query at a time looks for all of them."""

import asyncio
import logging
from collections import defaultdict

import anyio.to_thread

from app.errors import BitpressError, NotFound
from app.services.jobs import Jobs, JobView

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
"""How often the database is asked while anybody waits."""


class JobWatcher:
    """Holds no connection and no thread for a caller: each is one future in this process."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._waiting: dict[str, set[tuple[str, asyncio.Future[JobView]]]] = defaultdict(set)
        self._somebody = asyncio.Event()

    async def changed(self, job_id: str, etag: str, *, seconds: float) -> JobView | None:
        """Wait until the job's entity tag is no longer `etag`, and return the job; null when the time is up.

        Raises `NotFound` when the job is deleted meanwhile.
        """
        future: asyncio.Future[JobView] = asyncio.get_running_loop().create_future()
        place = (etag, future)
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
            changed = [future for etag, future in self._waiting.get(job_id, ()) if present.get(job_id) != etag]
            if not changed:
                continue
            # Read once, however many wait for it.
            view: JobView | NotFound
            try:
                view = await anyio.to_thread.run_sync(self._jobs.get, job_id)
            except NotFound as error:
                view = error
            for future in changed:
                if future.done():
                    continue
                if isinstance(view, NotFound):
                    future.set_exception(view)
                else:
                    future.set_result(view)
