"""Artifacts as the API shows them."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel

from app.api.schemas.documents.parts import moment
from app.db.tables import Artifact


class ArtifactDocument(BaseModel):
    """A file that a job made."""

    id: str
    job: str
    candidate: str
    file_name: str
    bytes: int
    sha256: str
    created_at: datetime
    links: dict[str, str]


def artifact_document(row: Artifact) -> dict[str, Any]:
    """An artifact as the API shows it."""
    here = f"/v1/artifacts/{row.id}"
    return {
        "id": row.id,
        "job": row.job_id,
        "candidate": row.candidate_id,
        "file_name": row.file_name,
        "bytes": row.bytes,
        "sha256": row.sha256,
        "created_at": moment(row.created_at),
        "links": {
            "self": here,
            "content": f"{here}/content",
            "manifest": f"{here}/manifest",
            "job": f"/v1/jobs/{row.job_id}",
        },
    }
