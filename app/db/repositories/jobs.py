"""Queries on jobs that are not claims."""

from collections.abc import Iterable, Iterator
from typing import Any, cast

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, bindparam, case, exists, func, or_, select, update
from sqlalchemy.orm import Session, aliased

from app.db.clock import now_ms
from app.db.tables import Artifact, Dataset, Job, JobDataset, JobStep, JobStepFile, Model
from app.domain.job import ENDED, JobState

_SIGNS = select(Job.id, Job.version, Job.state).where(Job.id.in_(bindparam("job_ids", expanding=True)))
_ARTIFACTS = select(func.aggregate_strings(Artifact.id, ",")).where(Artifact.job_id == Job.id).scalar_subquery()
# All that callers see of a job; what only workers need costs its share of every read.
_SEEN = [column for column in Job.__table__.columns if column.name not in ("worker", "lease_until", "queue_until")]
_WITH_ARTIFACTS = select(*_SEEN, _ARTIFACTS.label("artifact_ids")).where(
    Job.id.in_(bindparam("job_ids", expanding=True))
)
_ROWS_AT_ONCE = 500  # below SQLite's limit of bound variables


def signs(connection: Connection, job_ids: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Version and state of each job that exists: enough to see that one has changed."""
    return {row.id: (row.version, row.state) for row in _of_each(connection, _SIGNS, job_ids)}


def with_artifacts(connection: Connection, job_ids: Iterable[str]) -> list[tuple[Job, tuple[str, ...]]]:
    """Each job's row, which reads like a `Job` and belongs to no session, and the ids of its artifacts."""
    return [
        (cast(Job, row), tuple(sorted(row.artifact_ids.split(","))) if row.artifact_ids else ())
        for row in _of_each(connection, _WITH_ARTIFACTS, job_ids)
    ]


def _of_each(connection: Connection, query: Select[Any], job_ids: Iterable[str]) -> Iterator[Row[Any]]:
    """The rows of a query that takes `job_ids`, asked in pieces."""
    ids = list(job_ids)
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        yield from connection.execute(query, {"job_ids": ids[start : start + _ROWS_AT_ONCE]})


def queue_position(session: Session, job_id: str) -> int:
    """Place of a queued job among those of its target; 1 is the next."""
    other = aliased(Job)
    ahead = or_(
        other.priority > Job.priority,
        and_(other.priority == Job.priority, other.created_at < Job.created_at),
        and_(other.priority == Job.priority, other.created_at == Job.created_at, other.id < Job.id),
    )
    query = (
        select(func.count(other.id))
        .select_from(Job)
        .join(other, and_(other.target == Job.target, other.state == JobState.QUEUED, ahead))
        .where(Job.id == job_id)
    )
    return 1 + (session.scalar(query) or 0)


def request_cancel(session: Session, job_id: str) -> str | None:
    """Cancel a queued job, or ask a running one to stop; returns the new state, null if it has ended."""
    queued = Job.state == JobState.QUEUED
    # In one statement: between two of them a worker can take the job or give it back.
    return session.scalar(
        update(Job)
        .where(Job.id == job_id, Job.state.in_((JobState.QUEUED, JobState.RUNNING)))
        .values(
            state=case((queued, JobState.CANCELLED.value), else_=JobState.CANCELLING.value),
            ended_at=case((queued, now_ms()), else_=None),
            stage=case((queued, None), else_=Job.stage),
            message=case((queued, None), else_=Job.message),
            version=Job.version + 1,
        )
        .returning(Job.state)
    )


def has_label(session: Session, name: str, value: str) -> ColumnElement[bool]:
    """Whether a job carries a label. SQLite's JSON paths cannot spell every name, so its labels are listed."""
    assert session.bind is not None
    if session.bind.dialect.name == "sqlite":
        labels = func.json_each(Job.spec, "$.labels").table_valued("key", "value")
        return exists().where(labels.c.key == name, labels.c.value == value)
    found: ColumnElement[bool] = Job.spec["labels"][name].as_string() == value
    return found


def targets_with_waiting(session: Session) -> list[str]:
    """Targets that have queued jobs."""
    return list(session.scalars(select(Job.target).where(Job.state == JobState.QUEUED).distinct()))


def inspections_wait(session: Session) -> bool:
    """Whether any upload waits for a worker."""
    return any(
        session.scalar(
            select(
                exists().where(
                    table.state == "inspecting", table.lease_until.is_(None) | (table.lease_until < now_ms())
                )
            )
        )
        for table in (Model, Dataset)
    )


def artifact_in_use(session: Session, artifact_ids: Select[tuple[str]]) -> tuple[str, str] | None:
    """A job that has not ended and one of these artifacts, which it evaluates."""
    evaluated = Job.spec["model"].as_string()
    query = select(Job.id, evaluated).where(
        Job.kind == "evaluate", Job.state.not_in(ENDED), evaluated.in_(artifact_ids)
    )
    found = session.execute(query.limit(1)).first()
    return None if found is None else (found[0], found[1])


def model_in_use(session: Session, model_id: str) -> str | None:
    """A job that uses the model, if there is one."""
    return session.scalar(select(Job.id).where(Job.model_id == model_id).limit(1))


def dataset_in_use(session: Session, dataset_id: str) -> str | None:
    """A job that uses the dataset, if there is one."""
    return session.scalar(select(JobDataset.job_id).where(JobDataset.dataset_id == dataset_id).limit(1))


def forget_steps(session: Session, job_id: str, *, other_than_fingerprint: str | None = None) -> None:
    """Drop a job's finished steps: all, or those that ran on another machine."""
    folders = select(JobStep.folder).where(JobStep.job_id == job_id)
    if other_than_fingerprint is not None:
        folders = folders.where(JobStep.fingerprint != other_than_fingerprint)
    gone = list(session.scalars(folders))
    session.query(JobStepFile).where(JobStepFile.job_id == job_id, JobStepFile.folder.in_(gone)).delete()
    session.query(JobStep).where(JobStep.job_id == job_id, JobStep.folder.in_(gone)).delete()
