"""Jobs, the datasets they use, their finished steps, and their artifacts."""

from typing import Any

from sqlalchemy import BigInteger, Float, ForeignKey, Index, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from app.db.tables.base import Bytes, Id, Key, Leased, Milliseconds, Table


class Job(Leased, Table):
    """One job. `version` grows with every change that a caller can see; the ETag is made of it."""

    __tablename__ = "jobs"
    __table_args__ = (
        Index("ix_jobs_claim", "state", "target", "priority", "created_at"),
        Index("ix_jobs_lease", "state", "lease_until"),
    )

    id: Mapped[Key]
    version: Mapped[int] = mapped_column(default=1)
    name: Mapped[str | None] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(16))
    state: Mapped[str] = mapped_column(String(16))
    stage: Mapped[str | None] = mapped_column(String(16))
    progress: Mapped[float] = mapped_column(Float, default=0.0)
    message: Mapped[str | None] = mapped_column(String(300))
    target: Mapped[str] = mapped_column(String(100))
    priority: Mapped[int]
    model_id: Mapped[Id] = mapped_column(ForeignKey("models.id"), index=True)
    spec: Mapped[dict[str, Any]]
    outcome: Mapped[dict[str, Any] | None]
    gate: Mapped[str | None] = mapped_column(String(16))
    error: Mapped[dict[str, Any] | None]
    queue_until: Mapped[Milliseconds]
    """When waiting turns into failure."""
    created_at: Mapped[Milliseconds]
    started_at: Mapped[int | None] = mapped_column(BigInteger)
    ended_at: Mapped[int | None] = mapped_column(BigInteger)
    log_blob_id: Mapped[str | None] = mapped_column(ForeignKey("blobs.id"), index=True)
    report_blob_id: Mapped[str | None] = mapped_column(ForeignKey("blobs.id"), index=True)
    page_blob_id: Mapped[str | None] = mapped_column(ForeignKey("blobs.id"), index=True)
    """The report as HTML."""


class JobDataset(Table):
    """A dataset in its role; while this row stands the dataset cannot be deleted."""

    __tablename__ = "job_datasets"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    role: Mapped[str] = mapped_column(String(16), primary_key=True)
    dataset_id: Mapped[Id] = mapped_column(ForeignKey("datasets.id"), index=True)


class JobStep(Table):
    """A finished step of a job that has not ended: where a takeover goes on from.

    `fingerprint` is the machine it ran on: what was measured elsewhere is measured again.
    """

    __tablename__ = "job_steps"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    folder: Mapped[str] = mapped_column(String(64), primary_key=True)
    attempt: Mapped[int]
    fingerprint: Mapped[str] = mapped_column(String(64))
    result: Mapped[str] = mapped_column(Text)
    seconds: Mapped[float]
    created_at: Mapped[Milliseconds]


class JobStepFile(Table):
    """A file that a finished step left in its folder."""

    __tablename__ = "job_step_files"

    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True)
    folder: Mapped[str] = mapped_column(String(64), primary_key=True)
    path: Mapped[str] = mapped_column(String(300), primary_key=True)
    blob_id: Mapped[Id] = mapped_column(ForeignKey("blobs.id"), index=True)


class IdempotencyKey(Table):
    """A submission's key, and the body that it came with."""

    __tablename__ = "idempotency_keys"

    key: Mapped[str] = mapped_column(String(255), primary_key=True)
    body_sha256: Mapped[str] = mapped_column(String(64))
    job_id: Mapped[str] = mapped_column(ForeignKey("jobs.id", ondelete="CASCADE"), index=True)
    created_at: Mapped[Milliseconds]


class Artifact(Table):
    """A file that a job made, with its manifest."""

    __tablename__ = "artifacts"

    id: Mapped[Key]
    job_id: Mapped[Id] = mapped_column(ForeignKey("jobs.id"), index=True)
    candidate_id: Mapped[str] = mapped_column(String(40))
    blob_id: Mapped[Id] = mapped_column(ForeignKey("blobs.id"), index=True)
    manifest_blob_id: Mapped[Id] = mapped_column(ForeignKey("blobs.id"), index=True)
    file_name: Mapped[str] = mapped_column(String(200))
    bytes: Mapped[Bytes]
    sha256: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[Milliseconds]
