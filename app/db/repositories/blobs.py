"""Rows of objects in the store, and which of them nobody needs."""

from sqlalchemy import ColumnElement, and_, exists, or_, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.db.clock import now_ms
from app.db.tables import Artifact, Blob, Dataset, Job, JobStepFile, Model, Observation
from app.domain.ids import new_id
from app.errors import Unavailable

PENDING, STORED, DELETING = "pending", "stored", "deleting"

_SETTLE_TRIES = 3

_HOLDERS = (
    Model.blob_id,
    Dataset.blob_id,
    Artifact.blob_id,
    Artifact.manifest_blob_id,
    Job.log_blob_id,
    Job.report_blob_id,
    Job.page_blob_id,
    JobStepFile.blob_id,
    Observation.blob_id,
)
"""Every column that keeps a blob alive."""


def begin(session: Session, location: str) -> Blob:
    """Announce an object before its first byte is written, so that nothing in the store is unknown."""
    blob = Blob(
        id=new_id("blb"),
        location=location,
        state=PENDING,
        bytes=0,
        created_at=session.scalar(select(now_ms())),
    )
    session.add(blob)
    session.flush()
    return blob


def find(session: Session, sha256: str) -> Blob | None:
    """The stored object with these bytes, taken back if it was about to go."""
    return session.scalar(
        update(Blob).where(Blob.sha256 == sha256, Blob.state == STORED).values(released_at=None).returning(Blob)
    )


def settle(session: Session, blob_id: str, *, sha256: str, size: int) -> Blob:
    """Say that an object's bytes are there. Gives the older blob where equal bytes were stored before;
    the newer one then goes with the sweeper. Raises `Unavailable` (`object_gone`)."""
    for _ in range(_SETTLE_TRIES):
        if (known := find(session, sha256)) is not None:
            session.execute(update(Blob).where(Blob.id == blob_id, Blob.id != known.id).values(state=DELETING))
            return known
        try:
            with session.begin_nested():
                blob = session.scalar(
                    update(Blob)
                    .where(Blob.id == blob_id, Blob.state == PENDING)
                    .values(state=STORED, sha256=sha256, bytes=size)
                    .returning(Blob)
                )
        except IntegrityError:
            continue  # equal bytes were settled at this very moment: now they can be found
        if blob is not None:
            return blob
        break
    raise Unavailable("The stored bytes were deleted before anything used them. Try again.", code="object_gone")


def discard(session: Session, blob_id: str) -> str | None:
    """Give up an object whose bytes did not arrive whole or were not wanted; returns where it may lie."""
    return session.scalar(
        update(Blob)
        .where(Blob.id == blob_id, Blob.state == PENDING)
        .values(state=DELETING, sha256=None)
        .returning(Blob.location)
    )


def release_unneeded(session: Session) -> None:
    """Start the grace time of every object that no row needs, and stop that of any needed again."""
    session.execute(update(Blob).where(Blob.released_at.is_not(None), _needed()).values(released_at=None))
    session.execute(
        update(Blob).where(Blob.state == STORED, Blob.released_at.is_(None), ~_needed()).values(released_at=now_ms())
    )


def begin_deleting(session: Session, *, grace_ms: int, abandoned_ms: int, limit: int = 100) -> list[tuple[str, str]]:
    """Take out of use what has been unneeded for the grace time, and uploads that never ended.

    Returns (id, location) of all that may now be deleted from the store. From here on no upload of
    equal bytes can find them.
    """
    session.execute(
        update(Blob)
        .where(
            or_(
                and_(Blob.state == STORED, Blob.released_at <= now_ms() - grace_ms, ~_needed()),
                and_(Blob.state == PENDING, Blob.created_at <= now_ms() - abandoned_ms),
            )
        )
        .values(state=DELETING, sha256=None)
    )
    rows = session.execute(select(Blob.id, Blob.location).where(Blob.state == DELETING).limit(limit))
    return [(row.id, row.location) for row in rows]


def forget(session: Session, blob_id: str) -> None:
    """Drop the row of an object that is gone from the store."""
    session.query(Blob).where(Blob.id == blob_id, Blob.state == DELETING).delete()


def _needed() -> ColumnElement[bool]:
    return or_(*(exists().where(column == Blob.id) for column in _HOLDERS))
