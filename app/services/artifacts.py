"""Artifacts: what a job made."""

from sqlalchemy import Select, delete, literal, select, update
from sqlalchemy.orm import Session

from app.db.repositories import jobs
from app.db.session import Database
from app.db.tables import Artifact, Blob, Job
from app.domain.ids import is_id
from app.errors import Conflict, NotFound


class Artifacts:
    """Reads and deletes artifacts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, artifact_id: str) -> tuple[Artifact, Blob, Blob]:
        """The artifact, and the objects that are its content and its manifest. Raises `NotFound`."""
        if not is_id(artifact_id, "art"):
            raise _missing(artifact_id)
        with self._database.read() as session:
            row = session.get(Artifact, artifact_id)
            if row is None:
                raise _missing(artifact_id)
            return row, session.get_one(Blob, row.blob_id), session.get_one(Blob, row.manifest_blob_id)

    def delete(self, artifact_id: str) -> None:
        """Forget an artifact; its bytes go when no other row has them.

        Raises `NotFound`, and `Conflict` (`artifact_in_use`) while a job is to evaluate it.
        """
        if not is_id(artifact_id, "art"):
            raise _missing(artifact_id)
        with self._database.write() as session:
            gone = delete(Artifact).where(Artifact.id == artifact_id).returning(Artifact.job_id)
            if (job_id := session.scalar(gone)) is None:
                raise _missing(artifact_id)
            refuse_evaluated(session, select(literal(artifact_id)))
            # The job's document names its artifacts.
            session.execute(update(Job).where(Job.id == job_id).values(version=Job.version + 1))


def refuse_evaluated(session: Session, artifact_ids: Select[tuple[str]]) -> None:
    """Raises `Conflict` (`artifact_in_use`) where a job that has not ended evaluates any of these artifacts."""
    if (found := jobs.artifact_in_use(session, artifact_ids)) is not None:
        user, artifact_id = found
        raise Conflict(
            f"The artifact {artifact_id} is evaluated by job {user}. Wait for that job's end, or cancel it.",
            code="artifact_in_use",
            retryable=True,
        )


def _missing(artifact_id: str) -> NotFound:
    return NotFound(f"There is no artifact {artifact_id}.", code="artifact_not_found")
