"""Claims: one statement that gives a waiting row to exactly one worker, and the fence around it."""

from typing import Any

from sqlalchemy import BigInteger, ColumnElement, case, cast, select, update
from sqlalchemy.orm import Session

from app.db.clock import now_ms
from app.db.tables import Dataset, Job, Model
from app.domain.job import MAX_ATTEMPTS, JobState, may_become

UploadTable = type[Model] | type[Dataset]


def claim_job(session: Session, *, target: str, worker: str, lease_ms: int) -> Job | None:
    """Give the best queued job of a target to a worker: highest priority first, then the oldest."""
    best = (
        select(Job.id)
        .where(Job.state == JobState.QUEUED, Job.target == target)
        .order_by(Job.priority.desc(), Job.created_at, Job.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    return session.scalar(
        update(Job)
        .where(Job.id == best, Job.state == JobState.QUEUED)
        .values(
            state=JobState.RUNNING,
            attempt=Job.attempt + 1,
            worker=worker,
            lease_until=now_ms() + lease_ms,
            started_at=case((Job.started_at.is_(None), now_ms()), else_=Job.started_at),
            version=Job.version + 1,
            message=None,
        )
        .returning(Job)
    )


def held(job_id: str, attempt: int) -> ColumnElement[bool]:
    """The fence: this attempt still has the job."""
    return (Job.id == job_id) & (Job.attempt == attempt) & Job.state.in_((JobState.RUNNING, JobState.CANCELLING))


def renew_job(session: Session, job_id: str, attempt: int, *, lease_ms: int, **visible: Any) -> str | None:
    """Extend the lease and write what callers see; returns the state, null when the job was lost."""
    values: dict[str, Any] = dict(visible)
    if values:
        values["version"] = Job.version + 1
    return session.scalar(
        update(Job).where(held(job_id, attempt)).values(lease_until=now_ms() + lease_ms, **values).returning(Job.state)
    )


def end_job(session: Session, job_id: str, attempt: int, state: JobState, **values: Any) -> bool:
    """Move a job that this attempt still has to an end state; false when it was lost, or when it is being
    cancelled and `state` is not `cancelled`."""
    from_states = [before for before in JobState if may_become(before, state)]
    ended = session.scalar(
        update(Job)
        .where(held(job_id, attempt), Job.state.in_(from_states))
        .values(
            state=state,
            stage=None,
            message=None,
            ended_at=now_ms(),
            lease_until=None,
            worker=None,
            version=Job.version + 1,
            **values,
        )
        .returning(Job.id)
    )
    return ended is not None


def give_back_job(session: Session, job_id: str, attempt: int) -> bool:
    """Put a job that this attempt still runs back into the queue; false when it was lost or is being cancelled."""
    given = session.scalar(
        update(Job)
        .where(held(job_id, attempt), Job.state == JobState.RUNNING)
        .values(**_queued_again("its worker stopped; waiting for another"))
        .returning(Job.id)
    )
    return given is not None


def _queued_again(message: str) -> dict[str, Any]:
    """What changes when a job comes back into the queue; it waits anew, since it had been taken in time."""
    queue_ms = cast(Job.spec["limits"]["queue_seconds"].as_float() * 1000, BigInteger)
    return {
        "state": JobState.QUEUED,
        "worker": None,
        "lease_until": None,
        "queue_until": now_ms() + queue_ms,
        "version": Job.version + 1,
        "message": message,
    }


def take_back_jobs(session: Session) -> list[tuple[str, str]]:
    """Take back jobs whose worker went silent: requeue, fail after the last attempt, finish cancelling.

    Returns (job id, new state) of each.
    """
    lapsed = Job.lease_until < now_ms()
    ending: dict[str, Any] = {
        "lease_until": None,
        "worker": None,
        "version": Job.version + 1,
        "ended_at": now_ms(),
        "stage": None,
        "message": None,
    }
    lost = {
        "code": "worker_lost",
        "detail": f"The worker was lost {MAX_ATTEMPTS} times while it ran this job: it was killed, or its machine went "
        "away. A smaller model, or a worker with more memory, may help; the workers' own logs say more.",
        "retryable": True,
        "stage": None,
        "errors": [],
    }
    moves: list[tuple[str, str]] = []
    for condition, state, values in (
        (Job.state == JobState.CANCELLING, JobState.CANCELLED, {"state": JobState.CANCELLED, **ending}),
        (
            (Job.state == JobState.RUNNING) & (Job.attempt >= MAX_ATTEMPTS),
            JobState.FAILED,
            {"state": JobState.FAILED, **ending, "error": lost},
        ),
        (
            Job.state == JobState.RUNNING,
            JobState.QUEUED,
            _queued_again("its worker was lost; waiting for another"),
        ),
    ):
        rows = session.scalars(update(Job).where(condition, lapsed).values(**values).returning(Job.id))
        moves.extend((job_id, state.value) for job_id in rows)
    return moves


_EXPIRED: tuple[tuple[ColumnElement[bool], str], ...] = (
    (Job.attempt == 0, "No worker took this job within its limits.queue_seconds."),
    (
        Job.attempt > 0,
        "The worker that ran this job stopped or was lost, and within its limits.queue_seconds no other took it up "
        "again.",
    ),
)


def expire_queued(session: Session) -> list[str]:
    """Fail jobs that have waited longer than their `queue_seconds`."""
    found: list[str] = []
    for begun, why in _EXPIRED:
        error = {
            "code": "queue_timeout",
            "detail": f"{why} Start a worker of its target, or allow it to wait longer, and submit it again.",
            "retryable": True,
            "stage": None,
            "errors": [],
        }
        ending: dict[str, Any] = {"stage": None, "message": None, "ended_at": now_ms(), "version": Job.version + 1}
        found += session.scalars(
            update(Job)
            .where(begun, Job.state == JobState.QUEUED, Job.queue_until < now_ms())
            .values(state=JobState.FAILED, error=error, **ending)
            .returning(Job.id)
        )
    return found


def claim_upload(session: Session, table: UploadTable, *, worker: str, lease_ms: int) -> Model | Dataset | None:
    """Give the oldest upload that waits for inspection to a worker."""
    oldest = (
        select(table.id)
        .where(table.state == "inspecting", table.lease_until.is_(None) | (table.lease_until < now_ms()))
        .order_by(table.created_at, table.id)
        .limit(1)
        .with_for_update(skip_locked=True)
        .scalar_subquery()
    )
    claimed = session.scalar(
        update(table)
        .where(table.id == oldest, table.state == "inspecting")
        .values(attempt=table.attempt + 1, worker=worker, lease_until=now_ms() + lease_ms)
        .returning(table)
    )
    assert claimed is None or isinstance(claimed, (Model, Dataset))
    return claimed


def renew_upload(session: Session, table: UploadTable, upload_id: str, attempt: int, *, lease_ms: int) -> bool:
    """Extend an inspection's lease; false when it was lost, or the upload deleted."""
    found = session.scalar(
        update(table)
        .where(table.id == upload_id, table.attempt == attempt, table.state == "inspecting")
        .values(lease_until=now_ms() + lease_ms)
        .returning(table.id)
    )
    return found is not None


def end_upload(session: Session, table: UploadTable, upload_id: str, attempt: int, **values: Any) -> bool:
    """Record an inspection's outcome; false when this attempt no longer has it."""
    found = session.scalar(
        update(table)
        .where(table.id == upload_id, table.attempt == attempt, table.state == "inspecting")
        .values(lease_until=None, worker=None, **values)
        .returning(table.id)
    )
    return found is not None
