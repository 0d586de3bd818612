"""The sweeper: brings back what a lost message or a lost worker left behind."""

import logging
import math
import time

from app.db.repositories import leases, workers
from app.db.session import Database
from app.queue.wake_up import WakeUps
from app.services.blobs import Blobs
from app.services.observations import Observations
from app.services.targets import ALIVE_SECONDS
from app.services.unfinished import keep_measured
from app.services.work import waiting_queues

log = logging.getLogger(__name__)


class Sweeper:
    """Runs in every server; what it does is safe to do twice or by several at once."""

    def __init__(
        self,
        database: Database,
        wake_ups: WakeUps,
        blobs: Blobs,
        observations: Observations,
        *,
        wake_seconds: float,
        grace_seconds: float,
    ) -> None:
        self._database = database
        self._wake_ups = wake_ups
        self._blobs = blobs
        self._observations = observations
        self._wake_ms = round(wake_seconds * 1000)
        # Looking for unneeded objects reads every blob's row: often enough to keep the grace time roughly.
        self._collect_seconds = min(60.0, grace_seconds / 10)
        self._collected = -math.inf

    def sweep(self) -> None:
        """Take back lapsed leases, fail what waited too long, wake who should work, delete what nobody needs."""
        with self._database.write() as session:
            for job_id, state in leases.take_back_jobs(session):
                log.warning("lease of job %s lapsed: %s", job_id, state)
                if state != "queued":
                    keep_measured(session, job_id)
            for job_id in leases.expire_queued(session):
                log.warning("job %s waited too long", job_id)
                keep_measured(session, job_id)
        for queue in self._to_wake():
            self._wake_ups.send(queue)
        if time.monotonic() - self._collected >= self._collect_seconds:
            self._observations.forget_unused()
            self._blobs.sweep()
            self._collected = time.monotonic()

    def _to_wake(self) -> list[str]:
        with self._database.read() as session:
            waiting = waiting_queues(session)
            known = {worker.queue for worker, _ in workers.all_workers(session, within_ms=ALIVE_SECONDS * 1000)}
        # Idle queues are woken too, seldom: a task that runs is the only proof that a worker lives.
        pulse = dict.fromkeys(known, ALIVE_SECONDS * 1000 // 3)
        with self._database.write() as session:
            return [
                queue
                for queue, every_ms in {**pulse, **dict.fromkeys(waiting, self._wake_ms)}.items()
                if workers.may_wake(session, queue, every_ms=every_ms)
            ]
