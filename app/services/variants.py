"""What jobs measured, read back from their rows."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from app.db.tables import Artifact, Dataset, Job, JobDataset
from app.domain.dataset import ALL
from app.domain.job import JobState
from app.domain.variants import Data, Measured


def measured_by(session: Session, jobs: Sequence[Job]) -> Iterator[Measured]:
    """Every variant that these jobs measured, the original of each first; jobs that found nothing give nothing."""
    ids = [job.id for job in jobs]
    kept = {
        (row.job_id, row.candidate_id): row.id
        for row in session.execute(
            select(Artifact.job_id, Artifact.candidate_id, Artifact.id).where(Artifact.job_id.in_(ids))
        )
    }
    datasets = {
        (row.job_id, row.role): row
        for row in session.execute(
            select(JobDataset.job_id, JobDataset.role, Dataset.id, Dataset.sha256, Dataset.preprocess)
            .join(Dataset, JobDataset.dataset_id == Dataset.id)
            .where(JobDataset.job_id.in_(ids))
        )
    }
    for job in jobs:
        outcome = job.outcome or {}
        source = _source(outcome)
        data = _data(source, datasets.get((job.id, source)) or datasets.get((job.id, ALL)), outcome)
        yield from _original(job, outcome, data)
        for found in outcome.get("candidates") or []:
            artifact = kept.get((job.id, found["id"]))
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
            )


def succeeded_jobs(session: Session, model_id: str, *, most: int) -> list[Job]:
    """The newest succeeded jobs of a model."""
    query = select(Job).where(Job.model_id == model_id, Job.state == JobState.SUCCEEDED)
    return list(session.scalars(query.order_by(Job.id.desc()).limit(most)))


def _original(job: Job, outcome: dict[str, Any], data: Data) -> Iterator[Measured]:
    """The model that a job started from, which is an artifact where the job says so."""
    measurements = (outcome.get("baseline") or {}).get("measurements") or []
    started_from = str(job.spec.get("model") or job.model_id)
    is_artifact = started_from.startswith("art_")
    if measurements:
        yield Measured(
            id=started_from,
            model=job.model_id,
            job=job.id,
            is_original=not is_artifact,
            target=job.target,
            data=data,
            measurements=measurements,
            artifact=started_from if is_artifact else None,
        )


def _data(source: str, dataset: Any, outcome: dict[str, Any]) -> Data:
    """What metrics were computed on: equal bytes that become other inputs are other data, and so are other rows."""
    if source == "synthetic" or dataset is None:
        return Data(source)
    chosen = (outcome.get("chosen_rows") or {}).get(source)
    known_by = [dataset.sha256, dataset.preprocess, *([chosen] if chosen is not None else [])]
    return Data(source, dataset.id, hashlib.sha256(json.dumps(known_by, sort_keys=True).encode()).hexdigest())


def _source(outcome: dict[str, Any]) -> str:
    """Which rows metrics were computed on: each of them says so."""
    parts = [outcome.get("baseline") or {}, *(outcome.get("candidates") or [])]
    for found in (found for part in parts for found in part.get("measurements") or []):
        if source := (found.get("conditions") or {}).get("source"):
            return str(source)
    return "synthetic"
