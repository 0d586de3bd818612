"""Artifacts: what a job made."""

from sqlalchemy import delete, update

from app.db.session import Database
from app.db.tables import Artifact, Blob, Job
from app.domain.ids import is_id
from app.errors import NotFound


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
        """Forget an artifact; its bytes go when no other row has them. Raises `NotFound`."""
        if not is_id(artifact_id, "art"):
            raise _missing(artifact_id)
        with self._database.write() as session:
            gone = delete(Artifact).where(Artifact.id == artifact_id).returning(Artifact.job_id)
            if (job_id := session.scalar(gone)) is None:
                raise _missing(artifact_id)
            # The job's document names its artifacts.
            session.execute(update(Job).where(Job.id == job_id).values(version=Job.version + 1))


def _missing(artifact_id: str) -> NotFound:
    return NotFound(f"There is no artifact {artifact_id}.", code="artifact_not_found")
