"""Jobs as the API shows them, and what it says of a specification."""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from app.api.schemas.documents.parts import Failure, moment
from app.db.tables import Job
from app.domain.measurement import Measurement
from app.services.jobs import JobView


class Baseline(BaseModel):
    """The original as it was measured."""

    measurements: list[Measurement]


class Candidate(BaseModel):
    """A variant that a job made and measured."""

    id: str
    recipe: dict[str, Any]
    measurements: list[Measurement]
    comparisons: list[dict[str, Any]] = []
    drops: list[dict[str, Any]] = []
    verdict: str | None = None
    tuning_verdict: str | None = None
    pareto: bool = False
    artifact: str | None = None
    session_options: dict[str, str] = {}
    notes: list[str] = []


class JobDocument(BaseModel):
    """A job: its specification with every default filled in, where it stands, and what it found."""

    id: str
    kind: Literal["optimize", "evaluate"]
    name: str | None
    state: Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
    gate: Literal["met", "missed", "undecided", "none"] | None
    stage: Literal["inspect", "baseline", "calibrate", "candidates", "gate", "package"] | None
    progress: float
    message: str | None
    attempt: int
    queue_position: int | None
    waiting_for: str | None
    target: str
    model: str
    spec: dict[str, Any]
    labels: dict[str, str]
    rows: dict[str, int] = Field(description="How many rows each role has; of one dataset that was split, too.")
    baseline: Baseline | None
    candidates: list[Candidate]
    chosen: str | None
    verdicts: list[dict[str, Any]]
    conclusion: str | None
    notes: list[str]
    artifacts: list[str]
    error: Failure | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    links: dict[str, str]


class Validation(BaseModel):
    """What a specification would do, what is wrong with it, and what is doubtful."""

    valid: bool
    spec: dict[str, Any] | None
    steps: list[str]
    errors: list[dict[str, str]]
    doubts: list[str]


def job_document(view: JobView) -> dict[str, Any]:
    """A job as the API shows it."""
    job: Job = view.job
    outcome = job.outcome or {}
    here = f"/v1/jobs/{job.id}"
    links = {"self": here, "log": f"{here}/log"}
    if job.report_blob_id is not None:
        links["report"] = f"{here}/report"
    if view.artifacts:
        links["content"] = f"/v1/artifacts/{view.artifacts[0]}/content"
    present = set(view.artifacts)
    candidates = [
        {**found, "artifact": found.get("artifact") if found.get("artifact") in present else None}
        for found in outcome.get("candidates", [])
    ]
    return {
        "id": job.id,
        "kind": job.kind,
        "name": job.name,
        "state": job.state,
        "gate": job.gate,
        "stage": job.stage,
        "progress": job.progress,
        "message": job.message,
        "attempt": job.attempt,
        "queue_position": view.queue_position,
        "waiting_for": view.waiting_for,
        "target": job.target,
        "model": job.spec.get("model", job.model_id),
        "spec": job.spec,
        "labels": job.spec.get("labels", {}),
        "rows": outcome.get("rows", {}),
        "baseline": outcome.get("baseline"),
        "candidates": candidates,
        "chosen": outcome.get("chosen"),
        "verdicts": outcome.get("verdicts", []),
        "conclusion": outcome.get("conclusion"),
        "notes": outcome.get("notes", []),
        "artifacts": list(view.artifacts),
        "error": job.error,
        "created_at": moment(job.created_at),
        "started_at": moment(job.started_at),
        "ended_at": moment(job.ended_at),
        "links": links,
    }
