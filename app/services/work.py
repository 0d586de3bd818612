"""The workers' side of jobs and inspections: claim, keep, record, end.

Every write carries the attempt number it was claimed with; one that comes from an attempt which has
been given up finds nothing to write and raises `LeaseLost`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.clock import now_ms
from app.db.repositories import jobs, leases
from app.db.session import Database
from app.db.tables import Artifact, Blob, Dataset, Job, JobDataset, JobStep, JobStepFile, Model
from app.domain.ids import is_id, new_id
from app.domain.job import JobSpec, JobState
from app.domain.uploads import UploadState
from app.errors import BitpressError, NotFound
from app.queue.names import INSPECTIONS, jobs_queue
from app.services.blobs import Blobs, Received
from app.services.unfinished import keep_measured


class LeaseLost(Exception):
    """Somebody else has the work now, or it was deleted: stop, and record nothing."""


class CancelRequested(Exception):
    """The caller wants the job to stop."""


@dataclass(frozen=True, slots=True)
class Input:
    """A file that a job reads: where it is in the store, and what it must be."""

    id: str
    name: str
    file_name: str
    location: str
    sha256: str
    bytes: int
    preprocess: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class FinishedStep:
    """What a step left: its result, and its files by their path in its folder."""

    folder: str
    result: dict[str, Any]
    seconds: float
    files: dict[str, Input] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """A job that this worker has, and all that running it needs.

    `model` is the artifact where the job evaluates one, and `session_options` are what that requires.
    """

    id: str
    attempt: int
    spec: JobSpec
    model: Input
    session_options: dict[str, str]
    datasets: dict[str, Input]
    finished: dict[str, FinishedStep]


@dataclass(frozen=True, slots=True)
class ClaimedUpload:
    """A model or dataset to be inspected."""

    id: str
    attempt: int
    is_model: bool
    input: Input


@dataclass(frozen=True, slots=True)
class MadeArtifact:
    """An artifact whose bytes are in the store."""

    candidate_id: str
    file_name: str
    content: Received
    manifest: Received


def waiting_queues(session: Session) -> set[str]:
    """Queues for whose workers rows wait."""
    waiting = {jobs_queue(target) for target in jobs.targets_with_waiting(session)}
    if jobs.inspections_wait(session):
        waiting.add(INSPECTIONS)
    return waiting


class Work:
    """Claims work for one worker and records what came of it."""

    def __init__(self, database: Database, blobs: Blobs, *, lease_seconds: float) -> None:
        self._database = database
        self._blobs = blobs
        self.lease_seconds = lease_seconds
        self._lease_ms = round(lease_seconds * 1000)

    def waits(self, queue: str) -> bool:
        """Tell whether rows wait for the workers of a queue."""
        with self._database.read() as session:
            return queue in waiting_queues(session)

    def claim_job(self, target: str, worker: str, *, fingerprint: str) -> ClaimedJob | None:
        """Take the best queued job of a target; steps finished on another machine are forgotten."""
        with self._database.write() as session:
            while (job := leases.claim_job(session, target=target, worker=worker, lease_ms=self._lease_ms)) is not None:
                try:
                    return _claimed(session, job, fingerprint)
                except NotFound as error:
                    leases.end_job(session, job.id, job.attempt, JobState.FAILED, error=error.as_dict())
            return None

    def renew(self, job: ClaimedJob, **visible: Any) -> None:
        """Extend the lease and show progress. Raises `LeaseLost`, `CancelRequested`."""
        with self._database.write() as session:
            state = leases.renew_job(session, job.id, job.attempt, lease_ms=self._lease_ms, **visible)
        if state is None:
            raise LeaseLost(job.id)
        if state == JobState.CANCELLING:
            raise CancelRequested(job.id)

    def record_step(self, job: ClaimedJob, step: FinishedStep, files: dict[str, Received], *, fingerprint: str) -> None:
        """Keep a finished step, so that a takeover goes on from here. Raises `LeaseLost`."""
        with self._database.write() as session:
            if leases.renew_job(session, job.id, job.attempt, lease_ms=self._lease_ms) is None:
                raise LeaseLost(job.id)
            session.merge(
                JobStep(
                    job_id=job.id,
                    folder=step.folder,
                    attempt=job.attempt,
                    fingerprint=fingerprint,
                    result=json.dumps(step.result),
                    seconds=step.seconds,
                    created_at=session.scalars(select(now_ms())).one(),
                )
            )
            session.flush()
            for path, received in files.items():
                blob = self._blobs.settle(session, received)
                session.merge(JobStepFile(job_id=job.id, folder=step.folder, path=path, blob_id=blob.id))

    def succeed(
        self,
        job: ClaimedJob,
        *,
        outcome: dict[str, Any],
        gate: str | None,
        artifacts: Sequence[MadeArtifact],
        report: Received,
        page: Received | None = None,
        log: Received | None,
    ) -> list[str]:
        """End a job with its artifacts, all in one commit; returns their ids.

        Raises `LeaseLost`, and `CancelRequested` when a cancel came first.
        """
        made = [self._insert_artifact(job, artifact) for artifact in artifacts]
        try:
            self._commit_success(job, outcome, gate, artifacts, made, report, page, log)
        except LeaseLost:
            raise self._why_lost(job) from None
        return [row.id for row in made]

    def _commit_success(
        self,
        job: ClaimedJob,
        outcome: dict[str, Any],
        gate: str | None,
        artifacts: Sequence[MadeArtifact],
        made: Sequence[Artifact],
        report: Received,
        page: Received | None,
        log: Received | None,
    ) -> None:
        with self._database.write() as session:
            by_candidate = {row.candidate_id: row.id for row in made}
            for candidate in outcome.get("candidates", []):
                candidate["artifact"] = by_candidate.get(candidate["id"])
            report_blob = self._blobs.settle(session, report)
            ended = leases.end_job(
                session,
                job.id,
                job.attempt,
                JobState.SUCCEEDED,
                progress=1.0,
                outcome=outcome,
                gate=gate,
                error=None,
                report_blob_id=report_blob.id,
                page_blob_id=self._blobs.settle(session, page).id if page is not None else None,
                log_blob_id=self._blobs.settle(session, log).id if log is not None else None,
            )
            if not ended:
                raise LeaseLost(job.id)
            for row, artifact in zip(made, artifacts, strict=True):
                row.blob_id = self._blobs.settle(session, artifact.content).id
                row.manifest_blob_id = self._blobs.settle(session, artifact.manifest).id
                row.created_at = session.scalars(select(now_ms())).one()
                session.add(row)
            jobs.forget_steps(session, job.id)

    def _insert_artifact(self, job: ClaimedJob, artifact: MadeArtifact) -> Artifact:
        return Artifact(
            id=new_id("art"),
            job_id=job.id,
            candidate_id=artifact.candidate_id,
            file_name=artifact.file_name,
            bytes=artifact.content.bytes,
            sha256=artifact.content.sha256,
        )

    def _why_lost(self, job: ClaimedJob) -> Exception:
        with self._database.read() as session:
            row = session.get(Job, job.id)
        if row is not None and row.attempt == job.attempt and row.state == JobState.CANCELLING:
            return CancelRequested(job.id)
        return LeaseLost(job.id)

    def fail(
        self, job: ClaimedJob, error: BitpressError, *, log: Received | None, outcome: dict[str, Any] | None = None
    ) -> None:
        """End a job with the reason, and with what it found until then. Raises `LeaseLost`, `CancelRequested`."""
        self._end(job, JobState.FAILED, log, error=error.as_dict(), outcome=outcome)

    def cancelled(self, job: ClaimedJob, *, log: Received | None) -> None:
        """End a job that was asked to stop, once its child is dead; it keeps what it found. Raises `LeaseLost`."""
        self._end(job, JobState.CANCELLED, log)

    def _end(self, job: ClaimedJob, state: JobState, log: Received | None, **values: Any) -> None:
        try:
            with self._database.write() as session:
                if log is not None:
                    values["log_blob_id"] = self._blobs.settle(session, log).id
                if not leases.end_job(session, job.id, job.attempt, state, **values):
                    raise LeaseLost(job.id)
                if values.get("outcome") is None:
                    keep_measured(session, job.id)
                else:
                    jobs.forget_steps(session, job.id)
        except LeaseLost:
            raise self._why_lost(job) from None

    def give_back(self, job: ClaimedJob) -> None:
        """Put a job back into the queue because this worker stops."""
        with self._database.write() as session:
            leases.give_back_job(session, job.id, job.attempt)

    def claim_upload(self, worker: str) -> ClaimedUpload | None:
        """Take the oldest model or dataset that waits for inspection."""
        with self._database.write() as session:
            tables: tuple[leases.UploadTable, ...] = (Model, Dataset)
            for table in tables:
                row = leases.claim_upload(session, table, worker=worker, lease_ms=self._lease_ms)
                if row is not None:
                    blob = session.get_one(Blob, row.blob_id)
                    return ClaimedUpload(row.id, row.attempt, table is Model, _input(row, blob))
        return None

    def renew_upload(self, upload: ClaimedUpload) -> None:
        """Extend an inspection's lease. Raises `LeaseLost`."""
        with self._database.write() as session:
            table: leases.UploadTable = Model if upload.is_model else Dataset
            if not leases.renew_upload(session, table, upload.id, upload.attempt, lease_ms=self._lease_ms):
                raise LeaseLost(upload.id)

    def end_upload(
        self,
        upload: ClaimedUpload,
        *,
        inspection: dict[str, Any] | None = None,
        error: BitpressError | None = None,
    ) -> None:
        """Record what inspection found, or why the upload cannot be used. Raises `LeaseLost`."""
        state = UploadState.READY if error is None else UploadState.REJECTED
        with self._database.write() as session:
            table: leases.UploadTable = Model if upload.is_model else Dataset
            values: dict[str, Any] = {
                "state": state,
                "inspection": inspection,
                "error": error.as_dict() if error else None,
            }
            if not leases.end_upload(session, table, upload.id, upload.attempt, **values):
                raise LeaseLost(upload.id)


def _claimed(session: Session, job: Job, fingerprint: str) -> ClaimedJob:
    """All that running a claimed job needs. Raises `NotFound` where the artifact it evaluates was deleted."""
    jobs.forget_steps(session, job.id, other_than_fingerprint=fingerprint)
    steps = session.scalars(select(JobStep).where(JobStep.job_id == job.id).order_by(JobStep.created_at))
    finished = {step.folder: FinishedStep(step.folder, json.loads(step.result), step.seconds) for step in steps}
    files = session.execute(
        select(JobStepFile, Blob).join(Blob, Blob.id == JobStepFile.blob_id).where(JobStepFile.job_id == job.id)
    )
    for row in files:
        finished[row.JobStepFile.folder].files[row.JobStepFile.path] = Input(
            row.Blob.id,
            row.JobStepFile.path,
            row.JobStepFile.path,
            row.Blob.location,
            row.Blob.sha256 or "",
            row.Blob.bytes,
        )
    datasets = session.execute(
        select(JobDataset.role, Dataset)
        .join(Dataset, Dataset.id == JobDataset.dataset_id)
        .where(JobDataset.job_id == job.id)
    )
    model, session_options = _subject(session, job)
    return ClaimedJob(
        id=job.id,
        attempt=job.attempt,
        spec=JobSpec.model_validate(job.spec),
        model=model,
        session_options=session_options,
        datasets={row.role: _input(row.Dataset, session.get_one(Blob, row.Dataset.blob_id)) for row in datasets},
        finished=finished,
    )


def _subject(session: Session, job: Job) -> tuple[Input, dict[str, str]]:
    """The model or artifact that a job is about, and the session options that it requires."""
    subject_id = str(job.spec["model"])
    if not is_id(subject_id, "art"):
        model = session.get_one(Model, job.model_id)
        return _input(model, session.get_one(Blob, model.blob_id)), {}
    artifact = session.get(Artifact, subject_id)
    if artifact is None:
        raise NotFound(f"The artifact {subject_id} was deleted before the job began.", code="artifact_not_found")
    made = session.get_one(Job, artifact.job_id).outcome or {}
    options: dict[str, str] = next(
        (found.get("session_options", {}) for found in made["candidates"] if found["id"] == artifact.candidate_id), {}
    )
    blob = session.get_one(Blob, artifact.blob_id)
    name = artifact.file_name
    return Input(artifact.id, name, name, blob.location, artifact.sha256, artifact.bytes), options


def _input(row: Model | Dataset, blob: Blob) -> Input:
    return Input(
        row.id,
        row.name,
        row.file_name,
        blob.location,
        row.sha256,
        row.bytes,
        preprocess=row.preprocess if isinstance(row, Dataset) else None,
    )
