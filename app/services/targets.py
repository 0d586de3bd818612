"""Targets: machine classes that live workers registered, and who is there to serve them."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.repositories import workers
from app.db.session import Database
from app.db.tables import Job, Model
from app.domain.job import JobState
from app.domain.measure import USUAL_RUNTIME
from app.domain.profiles import PROFILES
from app.domain.suitability import Suitability, Timing, suitability
from app.domain.target import CUDA, CUDA_PROVIDER
from app.queue.names import INSPECTIONS, jobs_queue

ALIVE_SECONDS = 90
"""A worker none of whose tasks began or ended for this long counts as gone, unless it keeps a lease; the sweeper wakes
idle ones in half of it."""


MOST_JOBS = 500
"""Of the latest finished jobs, what techniques are worth is told by at most so many."""

_DISTURBED = frozenset({"noisy", "contended", "clock_jumped", "unsettled", "unstable"})

_USUAL = USUAL_RUNTIME["onnx"]
"""What is said of techniques is said of its kernels."""


@dataclass(frozen=True, slots=True)
class Target:
    """A machine class: its fingerprint, the confinement its workers have, and whether one is alive.

    A built-in profile that no worker has registered for has no fingerprint.
    """

    id: str
    alive: bool
    workers: int
    fingerprint: dict[str, Any]
    sandbox: dict[str, Any]
    builtin: bool = False
    summary: str | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """What the machine can do; of a profile without a worker, what it promises."""
        if not self.fingerprint and self.builtin:
            return tuple(sorted(PROFILES[self.id].features))
        return tuple(self.fingerprint.get("features", ()))


class Targets:
    """What the workers registered, and what there is built in."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # What a job measured never changes once it has succeeded, and is a few numbers of a long outcome.
        self._timings: OrderedDict[str, tuple[tuple[str, Timing], ...]] = OrderedDict()

    def all(self) -> list[Target]:
        """Every target that a worker registered, by name."""
        with self._database.read() as session:
            return known_targets(session)

    def catalogue(self) -> list[tuple[Target, tuple[Suitability, ...]]]:
        """Every target that a job can name, with what each technique is worth there; built-in ones come last."""
        with self._database.read() as session:
            registered = known_targets(session)
            timings = self._timings_by_machine(session)
        names = {target.id for target in registered}
        return [
            (target, _suits(target, timings))
            for target in [*registered, *(target for name, target in builtin_targets().items() if name not in names)]
        ]

    def doubt(self, name: str, technique: str) -> str | None:
        """What finished jobs measured that speaks against a technique on a target; null where nothing does."""
        with self._database.read() as session:
            target = next((target for target in known_targets(session) if target.id == name), None)
            timings = self._timings_by_machine(session) if target is not None else {}
        if target is None:
            return None
        return next(found.doubt for found in _suits(target, timings) if found.technique == technique)

    def _timings_by_machine(self, session: Session) -> dict[str, list[Timing]]:
        """Timings of the latest jobs by the fingerprint of the machine that they ran on."""
        latest = list(
            session.scalars(
                select(Job.id).where(Job.state == JobState.SUCCEEDED).order_by(Job.id.desc()).limit(MOST_JOBS)
            )
        )
        if unread := [job_id for job_id in latest if job_id not in self._timings]:
            query = select(Job.id, Job.outcome, Model.sha256).join(Model, Model.id == Job.model_id)
            for row in session.execute(query.where(Job.id.in_(unread))):
                self._timings[row.id] = tuple(_timings_of(row.id, row.sha256, row.outcome or {}))
        while len(self._timings) > 2 * MOST_JOBS:
            self._timings.popitem(last=False)
        found: dict[str, list[Timing]] = {}
        for job_id in latest:
            for machine, timing in self._timings.get(job_id, ()):
                found.setdefault(machine, []).append(timing)
        return found

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


def kernel_features(target: Target) -> tuple[str, ...]:
    """The features that decide which kernels run a target's jobs: the processor's say nothing where CUDA runs them."""
    runs_on = target.fingerprint.get("runs_on", ())
    return (CUDA,) if CUDA_PROVIDER in runs_on[:1] else target.features


def _suits(target: Target, timings: Mapping[str, list[Timing]]) -> tuple[Suitability, ...]:
    """What each technique is worth on a target, by its features and by the timings of its machine."""
    return suitability(kernel_features(target), timings.get(str(target.fingerprint.get("id", "")), ()))


def _timings_of(job_id: str, model: str, outcome: Mapping[str, Any]) -> Iterator[tuple[str, Timing]]:
    """What a job measured of each candidate beside the original by the usual runtime, at the conditions that goals use,
    and on which machine; what was disturbed, or did not settle, is left out."""
    original = _first_latency((outcome.get("baseline") or {}).get("measurements", ()))
    for candidate in outcome.get("candidates", ()):
        latency = _first_latency(candidate.get("measurements", ()))
        compared = _first_latency(candidate.get("comparisons", ()))
        # A job that only measures has made nothing by a technique.
        technique = (candidate.get("recipe") or {}).get("technique")
        machine = latency.get("conditions", {}).get("target") if latency else None
        if technique is None or machine is None or latency is None or compared is None:
            continue
        found = [each for each in (latency, compared, original) if each is not None]
        if any(each.get("conditions", {}).get("runtime", _USUAL) != _USUAL for each in found):
            continue
        if any(not _DISTURBED.isdisjoint(each.get("flags", ())) for each in found):
            continue
        interval = compared.get("ci95")
        yield (
            machine,
            Timing(
                technique=technique,
                job=job_id,
                model=model,
                ratio=compared["ratio"],
                ci95=None if interval is None else (interval[0], interval[1]),
            ),
        )


def _first_latency(measured: Iterable[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Of measurements or comparisons the one that goals use: the first."""
    return next((found for found in measured if found["name"] == "latency_p50"), None)


def builtin_targets() -> dict[str, Target]:
    """The built-in profiles as targets that nobody serves."""
    return {
        profile.id: Target(profile.id, False, 0, {}, {}, builtin=True, summary=profile.summary)
        for profile in PROFILES.values()
    }


def known_targets(session: Session) -> list[Target]:
    """The targets of all workers that ever registered; a live worker speaks for its target."""
    found: dict[str, Target] = {}
    for worker, alive in workers.all_workers(session, within_ms=ALIVE_SECONDS * 1000):
        if worker.queue == INSPECTIONS:
            continue
        before = found.get(worker.target)
        if before is None or (alive and not before.alive):
            profile = PROFILES.get(worker.target)
            found[worker.target] = Target(
                worker.target,
                alive,
                int(alive),
                worker.fingerprint,
                worker.sandbox,
                builtin=profile is not None,
                summary=profile.summary if profile else None,
            )
        elif alive:
            found[worker.target] = replace(before, workers=before.workers + 1)
    return sorted(found.values(), key=lambda target: target.id)


def target_alive(session: Session, target: str) -> bool:
    """Whether a worker of the target is at work, or was lately."""
    return workers.alive(session, jobs_queue(target), within_ms=ALIVE_SECONDS * 1000)
