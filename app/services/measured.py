"""What jobs measured, read back from their rows."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Artifact, Dataset, Job, JobDataset
from app.domain.job import JobState
from app.domain.measured import Data, Measured


def measured_by(session: Session, jobs: Iterable[Job]) -> Iterator[Measured]:
    """Every variant that these jobs measured, the original of each first; jobs that found nothing give nothing."""
    for job in jobs:
        outcome = job.outcome or {}
        data = _data(session, job, outcome)
        baseline = (outcome.get("baseline") or {}).get("measurements") or []
        evaluated = str(job.spec.get("model") or job.model_id)
        if baseline:
            is_original = not evaluated.startswith("art_")
            yield Measured(
                id=evaluated,
                model=job.model_id,
                job=job.id,
                is_original=is_original,
                target=job.target,
                data=data,
                measurements=baseline,
                artifact=None if is_original else evaluated,
            )
        rows = session.execute(select(Artifact.candidate_id, Artifact.id).where(Artifact.job_id == job.id))
        kept = {row.candidate_id: row.id for row in rows}
        for found in outcome.get("candidates") or []:
            artifact = kept.get(found["id"])
            yield Measured(
                id=artifact or found["id"],
                model=job.model_id,
                job=job.id,
                is_original=False,
                target=job.target,
                data=data,
                measurements=found.get("measurements") or [],
                candidate=found["id"],
                artifact=artifact,
                recipe=found.get("recipe"),
                comparisons=found.get("comparisons") or [],
                drops=found.get("drops") or [],
                verdict=found.get("verdict"),
            )


def succeeded_jobs(session: Session, model_id: str, *, most: int) -> list[Job]:
    """The newest succeeded jobs of a model."""
    query = select(Job).where(Job.model_id == model_id, Job.state == JobState.SUCCEEDED)
    return list(session.scalars(query.order_by(Job.id.desc()).limit(most)))


def _data(session: Session, job: Job, outcome: dict[str, Any]) -> Data:
    source = _source(outcome)
    if source == "synthetic":
        return Data(source)
    query = select(Dataset).join(JobDataset, JobDataset.dataset_id == Dataset.id)
    row = session.scalar(query.where(JobDataset.job_id == job.id, JobDataset.role == source))
    if row is None:
        return Data(source)
    told = json.dumps([row.sha256, row.preprocess], sort_keys=True)
    return Data(source, row.id, hashlib.sha256(told.encode()).hexdigest())


def _source(outcome: dict[str, Any]) -> str:
    """Which rows metrics were computed on: each of them says so."""
    parts = [outcome.get("baseline") or {}, *(outcome.get("candidates") or [])]
    for found in (found for part in parts for found in part.get("measurements") or []):
        if source := (found.get("conditions") or {}).get("source"):
            return str(source)
    return "synthetic"
