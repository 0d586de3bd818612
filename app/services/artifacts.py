"""Artifacts: what a job made."""

from app.db.session import Database
from app.db.tables import Artifact, Blob
from app.errors import NotFound


class Artifacts:
    """Reads and deletes artifacts."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, artifact_id: str) -> tuple[Artifact, str, str]:
        """The artifact and the locations of its content and its manifest. Raises `NotFound`."""
        with self._database.read() as session:
            row = session.get(Artifact, artifact_id)
            if row is None:
                raise NotFound(f"There is no artifact {artifact_id}.", code="artifact_not_found")
            content = session.get_one(Blob, row.blob_id).location
            return row, content, session.get_one(Blob, row.manifest_blob_id).location

    def delete(self, artifact_id: str) -> None:
        """Forget an artifact; its bytes go when no other row has them."""
        self.get(artifact_id)
        with self._database.write() as session:
            session.query(Artifact).where(Artifact.id == artifact_id).delete()
