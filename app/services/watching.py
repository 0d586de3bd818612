"""Long polls: any number of callers wait, one query at a time looks for all of them."""

import asyncio
import logging
from collections import defaultdict

import anyio.to_thread

from app.errors import BitpressError
from app.services.jobs import Jobs

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.25
"""How often the database is asked while anybody waits."""


class JobWatcher:
    """Holds no connection and no thread for a caller: each is one future in this process."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._waiting: dict[str, set[tuple[str, asyncio.Future[None]]]] = defaultdict(set)
        self._somebody = asyncio.Event()

    async def changed(self, job_id: str, etag: str, *, seconds: float) -> bool:
        """Wait until the job's entity tag is no longer `etag`, or the time is up; tells which."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        place = (etag, future)
        self._waiting[job_id].add(place)
        self._somebody.set()
        try:
            await asyncio.wait_for(future, seconds)
        except TimeoutError:
            return False
        finally:
            self._waiting[job_id].discard(place)
            if not self._waiting[job_id]:
                del self._waiting[job_id]
        return True

    async def run(self) -> None:
        """Look for changes for as long as the server lives."""
        while True:
            if not self._waiting:
                self._somebody.clear()
                await self._somebody.wait()
            await asyncio.sleep(LOOK_SECONDS)
            try:
                present = await anyio.to_thread.run_sync(self._jobs.etags, list(self._waiting))
            except BitpressError as error:
                log.warning("cannot look for changed jobs: %s", error.detail)
                continue
            for job_id in list(self._waiting):
                for etag, future in list(self._waiting[job_id]):
                    if present.get(job_id) != etag and not future.done():
                        future.set_result(None)
