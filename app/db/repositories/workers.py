"""Rows of workers, of wake-ups sent, and of measuring locks."""

from typing import Any

from sqlalchemy import ColumnElement, exists, or_, select, update
from sqlalchemy.dialects.postgresql import insert as postgresql_insert
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.orm import Session

from app.db.clock import now_ms
from app.db.tables import Dataset, Job, MeasuringLock, Model, WakeUp, Worker
from app.domain.job import JobState
from app.domain.uploads import UploadState


def _upsert(session: Session) -> Any:
    """Both dialects have INSERT … ON CONFLICT, each under its own name."""
    assert session.bind is not None
    return sqlite_insert if session.bind.dialect.name == "sqlite" else postgresql_insert


def register(session: Session, worker_id: str, **values: Any) -> None:
    """Write down a worker that has started, or started again."""
    statement = _upsert(session)(Worker).values(id=worker_id, started_at=now_ms(), seen_at=now_ms(), **values)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=[Worker.id], set_={**values, "started_at": now_ms(), "seen_at": now_ms()}
        )
    )


def seen(session: Session, worker_id: str) -> None:
    """Note that one of the worker's tasks has run."""
    session.execute(update(Worker).where(Worker.id == worker_id).values(seen_at=now_ms()))


def gone(session: Session, worker_id: str) -> None:
    """Forget a worker that said goodbye."""
    session.query(Worker).where(Worker.id == worker_id).delete()


def at_work(*, within_ms: int) -> ColumnElement[bool]:
    """Of a worker's row: whether one of its tasks ran lately, or holds a lease that is being kept.

    A task that takes long says nothing between its begin and its end but that it renews its lease.
    """
    running = (JobState.RUNNING, JobState.CANCELLING)
    return or_(
        Worker.seen_at > now_ms() - within_ms,
        exists().where(Job.state.in_(running), Job.lease_until > now_ms(), Job.worker == Worker.id),
        *(
            exists().where(
                table.state == UploadState.INSPECTING, table.lease_until > now_ms(), table.worker == Worker.id
            )
            for table in (Model, Dataset)
        ),
    )


def alive(session: Session, queue: str, *, within_ms: int) -> bool:
    """Whether a worker of the queue is at work, or was lately."""
    found = session.scalar(select(Worker.id).where(Worker.queue == queue, at_work(within_ms=within_ms)).limit(1))
    return found is not None


def host_works(session: Session, host: str, *, within_ms: int) -> bool:
    """Whether some worker of a host is at work, or was lately."""
    of_host = Worker.id.like(f"%@{host}-%")
    return session.scalar(select(Worker.id).where(of_host, at_work(within_ms=within_ms)).limit(1)) is not None


def all_workers(session: Session, *, within_ms: int) -> list[tuple[Worker, bool]]:
    """Every known worker, the latest first, with whether it is alive."""
    rows = session.execute(
        select(Worker, at_work(within_ms=within_ms).label("alive")).order_by(Worker.seen_at.desc(), Worker.id)
    )
    return [(row.Worker, bool(row.alive)) for row in rows]


def may_wake(session: Session, queue: str, *, every_ms: int) -> bool:
    """Take the right to wake a queue: given once in `every_ms`, to one sweeper."""
    inserted = session.execute(
        _upsert(session)(WakeUp).values(queue=queue, sent_at=now_ms()).on_conflict_do_nothing().returning(WakeUp.queue)
    ).first()
    if inserted is not None:
        return True
    taken = session.scalar(
        update(WakeUp)
        .where(WakeUp.queue == queue, WakeUp.sent_at <= now_ms() - every_ms)
        .values(sent_at=now_ms())
        .returning(WakeUp.queue)
    )
    return taken is not None


def take_measuring_lock(session: Session, boot_id: str, holder: str, *, lease_ms: int) -> bool:
    """Take or extend the right to measure on a machine; false while somebody else has it."""
    taken = session.scalar(
        update(MeasuringLock)
        .where(
            MeasuringLock.boot_id == boot_id,
            (MeasuringLock.holder == holder) | (MeasuringLock.until < now_ms()),
        )
        .values(holder=holder, until=now_ms() + lease_ms)
        .returning(MeasuringLock.boot_id)
    )
    if taken is not None:
        return True
    statement = _upsert(session)(MeasuringLock).values(boot_id=boot_id, holder=holder, until=now_ms() + lease_ms)
    return session.execute(statement.on_conflict_do_nothing().returning(MeasuringLock.boot_id)).first() is not None


def give_back_measuring_lock(session: Session, boot_id: str, holder: str) -> None:
    """Let the next one measure."""
    session.query(MeasuringLock).where(MeasuringLock.boot_id == boot_id, MeasuringLock.holder == holder).delete()
