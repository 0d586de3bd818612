"""Jobs as callers see them: submit, read, list, cancel, delete."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.clock import now_ms
from app.db.repositories import jobs
from app.db.repositories.paging import page, refuse_unstorable
from app.db.session import Database
from app.db.tables import Artifact, Blob, IdempotencyKey, Job, JobDataset
from app.domain.ids import is_id, new_id
from app.domain.job import ENDED, JobSpec, JobState
from app.errors import Conflict, InvalidRequest, NotFound, Unavailable
from app.queue.names import jobs_queue
from app.queue.wake_up import WakeUps
from app.services.artifacts import refuse_evaluated
from app.services.specification import Checked, check
from app.services.targets import Targets, known_targets, target_alive
from app.services.unfinished import keep_measured


@dataclass(frozen=True, slots=True)
class JobView:
    """A job with what stands around its row."""

    job: Job
    artifacts: tuple[str, ...] = ()
    queue_position: int | None = None
    waiting_for: str | None = None

    @property
    def etag(self) -> str:
        """Changes whenever anything that a caller sees changes."""
        return make_etag(self.job.version, self.queue_position, self.waiting_for)


def make_etag(version: int, position: int | None, waiting_for: str | None) -> str:
    """A strong entity tag (RFC 9110, 8.8.3)."""
    if position is None:
        return f'"{version}"'
    waiting = hashlib.sha256((waiting_for or "").encode()).hexdigest()[:6]
    return f'"{version}-{position}-{waiting}"'


Tags = frozenset[str]
"""The entity tags that a caller knows; "*" stands for every tag (RFC 9110, 13.1.2)."""


def knows(tags: Tags, etag: str) -> bool:
    """Whether a caller with these tags knows what has that one."""
    return etag in tags or "*" in tags


class Jobs:
    """What callers do with jobs."""

    def __init__(self, database: Database, wake_ups: WakeUps, targets: Targets, *, allow_weak_sandbox: bool) -> None:
        self._database = database
        self._wake_ups = wake_ups
        self._targets = targets
        self._allow_weak_sandbox = allow_weak_sandbox

    def validate(self, body: Any) -> Checked:
        """Check a specification without creating anything."""
        with self._database.read() as session:
            checked = check(session, body)
        if checked.spec is not None and checked.spec.recipe is not None:
            doubt = self._targets.doubt(checked.spec.target, checked.spec.recipe.technique)
            checked.doubts += [doubt] if doubt is not None else []
        return checked

    def submit(self, body: Any, *, idempotency_key: str | None) -> tuple[JobView, bool]:
        """Create a job and wake its target after the commit; returns it and whether it is new.

        The same key gives the same job again, whatever spaces and order of names the body is written with.
        Raises `InvalidRequest` with every field error, `Conflict` (`idempotency_key_reused`) when the key
        came with another body before, `Unavailable` (`weak_sandbox`) where children cannot be confined.
        """
        digest = hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
        try:
            with self._database.write() as session:
                job, created = self._insert(session, body, digest, idempotency_key)
        except IntegrityError:
            # Two requests with one key at once: the other one won, and its job is the answer.
            with self._database.write() as session:
                job, created = self._insert(session, body, digest, idempotency_key)
        if created:
            self._wake_ups.send(jobs_queue(job.target))
        return self.get(job.id), created

    def _insert(self, session: Session, body: Any, digest: str, key: str | None) -> tuple[Job, bool]:
        if key is not None and (known := session.get(IdempotencyKey, key)) is not None:
            if known.body_sha256 != digest:
                raise Conflict(
                    "This Idempotency-Key was used with another body. Use a new key for a new submission.",
                    code="idempotency_key_reused",
                )
            return session.get_one(Job, known.job_id), False
        checked = check(session, body)
        checked.raise_errors()
        spec = checked.spec
        assert spec is not None, "a specification without errors was read"
        assert checked.model is not None, "what it names was found"
        self._refuse_weak_sandbox(session, spec)
        moment = session.scalars(select(now_ms())).one()
        job = Job(
            id=new_id("job"),
            name=spec.name,
            kind=spec.kind,
            state=JobState.QUEUED,
            target=spec.target,
            priority=spec.priority,
            model_id=checked.model.id,
            spec=spec.model_dump(mode="json"),
            queue_until=moment + round(spec.limits.queue_seconds * 1000),
            created_at=moment,
        )
        session.add(job)
        session.flush()
        session.add_all(
            JobDataset(job_id=job.id, role=role, dataset_id=dataset_id)
            for role, dataset_id in spec.datasets.by_role().items()
        )
        if key is not None:
            session.add(IdempotencyKey(key=key, body_sha256=digest, job_id=job.id, created_at=moment))
        session.flush()
        return job, True

    def _refuse_weak_sandbox(self, session: Session, spec: JobSpec) -> None:
        if self._allow_weak_sandbox:
            return
        for target in known_targets(session):
            if target.id == spec.target and target.alive and not target.sandbox.get("strong", False):
                raise Unavailable(
                    f"The workers of target {target.id!r} cannot confine untrusted models: their platform lacks "
                    "Landlock or seccomp. Use Linux 5.13 or later, or set BITPRESS_ALLOW_WEAK_SANDBOX=true if every "
                    "model is trusted.",
                    code="weak_sandbox",
                    retryable=False,
                )

    def get(self, job_id: str) -> JobView:
        """Raises `NotFound`."""
        with self._database.read() as session:
            return self._view(session, self._found(session, job_id))

    def get_unless(self, asked: Mapping[str, Collection[Tags]]) -> dict[str, JobView | str]:
        """Read several jobs at once: each one's view, or only its entity tag where all callers know that.

        `asked` has what each caller of a job knows, which may be nothing. A job that does not exist is not in
        the answer.
        """
        found: dict[str, JobView | str] = {}
        queued: list[str] = []
        with self._database.reading() as connection:
            changed = [job_id for job_id, callers in asked.items() if not all(callers)]
            # The content of a job that all know is not read at all.
            for job_id, (version, state) in jobs.signs(connection, asked.keys() - changed).items():
                etag = make_etag(version, None, None)
                if state != JobState.QUEUED and all(knows(tags, etag) for tags in asked[job_id]):
                    found[job_id] = etag
                else:
                    changed.append(job_id)
            for job, artifacts in jobs.with_artifacts(connection, changed):
                if job.state == JobState.QUEUED:
                    queued.append(job.id)
                else:
                    found[job.id] = JobView(job, artifacts=artifacts if job.state == JobState.SUCCEEDED else ())
        if queued:
            with self._database.read() as session:
                for row in session.scalars(select(Job).where(Job.id.in_(queued))):
                    found[row.id] = self._view(session, row)
        return found

    def etags(self, job_ids: list[str]) -> dict[str, str]:
        """The present entity tag of each job that exists."""
        found: dict[str, str] = {}
        with self._database.read() as session:
            for job_id, (version, state) in jobs.signs(session.connection(), job_ids).items():
                if state == JobState.QUEUED:
                    found[job_id] = self._view(session, self._found(session, job_id)).etag
                else:
                    found[job_id] = make_etag(version, None, None)
        return found

    def _found(self, session: Session, job_id: str) -> Job:
        job = session.get(Job, job_id) if is_id(job_id, "job") else None
        if job is None:
            raise no_such_job(job_id)
        return job

    def _view(self, session: Session, job: Job) -> JobView:
        if job.state == JobState.QUEUED:
            position = jobs.queue_position(session, job.id)
            if not target_alive(session, job.target):
                waiting = f"a worker of target {job.target!r}: none is alive"
            elif position > 1:
                waiting = f"{position - 1} job{'s' * (position > 2)} ahead of it"
            else:
                waiting = f"a free worker of target {job.target!r}"
            return JobView(job, queue_position=position, waiting_for=waiting)
        if job.state != JobState.SUCCEEDED:
            return JobView(job)
        made = session.scalars(select(Artifact.id).where(Artifact.job_id == job.id).order_by(Artifact.id))
        return JobView(job, artifacts=tuple(made))

    def list(
        self,
        *,
        limit: int,
        cursor: str | None,
        state: str | None,
        model: str | None,
        target: str | None,
        label: str | None,
    ) -> tuple[list[JobView], str | None]:
        """One page of jobs, newest first; `label` is `name:value`. Raises `InvalidRequest`."""
        refuse_unstorable(model=model, target=target, label=label)
        query = select(Job)
        for column, wanted in ((Job.state, state), (Job.model_id, model), (Job.target, target)):
            if wanted is not None:
                query = query.where(column == wanted)
        name, colon, value = (label or "").partition(":")
        if label is not None and not colon:
            raise InvalidRequest("Write label as name:value.", code="invalid_value")
        with self._database.read() as session:
            if label is not None:
                query = query.where(jobs.has_label(session, name, value))
            rows, following = page(session, query, Job.id, prefix="job", limit=limit, cursor=cursor)
            return [self._view(session, job) for job in rows], following

    def cancel(self, job_id: str) -> JobView:
        """Cancel a queued job at once, or a running one as soon as its child is dead.

        Raises `Conflict` (`job_ended`) when it has ended, a cancel that lost the race included.
        """
        with self._database.write() as session:
            state = jobs.request_cancel(session, job_id) if is_id(job_id, "job") else None
            if state is None and (state := self._found(session, job_id).state) != JobState.CANCELLING:
                raise Conflict(f"The job has ended already: {state}.", code="job_ended")
            if state == JobState.CANCELLED:
                keep_measured(session, job_id)
        return self.get(job_id)

    def delete(self, job_id: str) -> None:
        """Forget an ended job and its artifacts. Raises `Conflict` (`job_not_ended`, `artifact_in_use`)."""
        with self._database.write() as session:
            job = self._found(session, job_id)
            if JobState(job.state) not in ENDED:
                raise Conflict(
                    f"The job is {job.state}. Cancel it and wait for its end before deleting it.",
                    code="job_not_ended",
                )
            refuse_evaluated(session, select(Artifact.id).where(Artifact.job_id == job_id))
            session.query(Artifact).where(Artifact.job_id == job_id).delete()
            session.delete(job)

    def log(self, job_id: str) -> Blob | None:
        """The object that is the log of the job's children; null before it ends."""
        return self._attached(job_id, "log_blob_id")

    def report(self, job_id: str) -> Blob:
        """The object that is the job's report. Raises `Conflict` (`report_not_ready`) before it has one."""
        report = self._attached(job_id, "report_blob_id")
        if report is None:
            job = self.get(job_id).job
            raise Conflict(
                f"The job is {job.state} and has no report. A job has one once it has succeeded.",
                code="report_not_ready",
                retryable=JobState(job.state) not in ENDED,
            )
        return report

    def page(self, job_id: str) -> Blob:
        """The object that is the report as a page. Raises `Conflict` as `report` does, or `NotFound`."""
        page = self._attached(job_id, "page_blob_id")
        if page is None:
            self.report(job_id)
            raise NotFound(
                "This report was not drawn as a page; its JSON is there. A new job with the same specification, or a "
                "worker that is up to date, draws it.",
                code="page_not_found",
            )
        return page

    def _attached(self, job_id: str, column: str) -> Blob | None:
        with self._database.read() as session:
            blob_id = getattr(self._found(session, job_id), column)
            return session.get_one(Blob, blob_id) if blob_id else None


def no_such_job(job_id: str) -> NotFound:
    """What callers are told who ask for a job that is not there."""
    return NotFound(f"There is no job {job_id}.", code="job_not_found")
