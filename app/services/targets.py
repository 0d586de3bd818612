"""Targets: machine classes that live workers registered, and who is there to serve them."""

from dataclasses import dataclass
from typing import Any

from sqlalchemy.orm import Session

from app.db.repositories import workers
from app.db.session import Database
from app.queue.names import INSPECTIONS, jobs_queue

ALIVE_SECONDS = 90
"""A worker none of whose tasks ran for this long counts as gone; the sweeper wakes idle ones in half of it."""


@dataclass(frozen=True, slots=True)
class Target:
    """A machine class: its fingerprint, the confinement its workers have, and whether one is alive."""

    id: str
    alive: bool
    workers: int
    fingerprint: dict[str, Any]
    sandbox: dict[str, Any]


class Targets:
    """What the workers registered."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def all(self) -> list[Target]:
        """Every target known, by name."""
        with self._database.read() as session:
            return known_targets(session)

    def inspection_alive(self) -> bool:
        """Whether uploads are being inspected."""
        with self._database.read() as session:
            return workers.alive(session, INSPECTIONS, within_ms=ALIVE_SECONDS * 1000)

    def register(
        self, worker_id: str, queue: str, target: str, fingerprint: dict[str, Any], sandbox: dict[str, Any]
    ) -> None:
        """Write down a worker that starts to serve a queue."""
        with self._database.write() as session:
            workers.register(session, worker_id, queue=queue, target=target, fingerprint=fingerprint, sandbox=sandbox)

    def seen(self, worker_id: str) -> None:
        """Note that one of the worker's tasks runs."""
        with self._database.write() as session:
            workers.seen(session, worker_id)

    def leave(self, worker_id: str) -> None:
        """Forget a worker that stops."""
        with self._database.write() as session:
            workers.gone(session, worker_id)

    def take_measuring_lock(self, boot_id: str, holder: str, *, lease_seconds: float) -> bool:
        """Take or extend the right to measure on a machine."""
        with self._database.write() as session:
            return workers.take_measuring_lock(session, boot_id, holder, lease_ms=round(lease_seconds * 1000))

    def give_back_measuring_lock(self, boot_id: str, holder: str) -> None:
        """Let the next one measure."""
        with self._database.write() as session:
            workers.give_back_measuring_lock(session, boot_id, holder)


def known_targets(session: Session) -> list[Target]:
    """The targets of all workers that ever registered; a live worker speaks for its target."""
    found: dict[str, Target] = {}
    for worker, alive in workers.all_workers(session, within_ms=ALIVE_SECONDS * 1000):
        if worker.queue == INSPECTIONS:
            continue
        before = found.get(worker.target)
        if before is None or (alive and not before.alive):
            found[worker.target] = Target(worker.target, alive, int(alive), worker.fingerprint, worker.sandbox)
        elif alive:
            found[worker.target] = Target(worker.target, True, before.workers + 1, before.fingerprint, before.sandbox)
    return sorted(found.values(), key=lambda target: target.id)


def target_alive(session: Session, target: str) -> bool:
    """Whether a worker of the target ran a task lately."""
    return workers.alive(session, jobs_queue(target), within_ms=ALIVE_SECONDS * 1000)
