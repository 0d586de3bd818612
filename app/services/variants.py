"""What jobs measured, read back from their rows."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
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
    evaluated = _artifacts(session, jobs)
    for job in jobs:
        outcome = job.outcome or {}
        source = _source(outcome)
        data = _data(source, datasets.get((job.id, source)) or datasets.get((job.id, ALL)), outcome)
        yield from _original(job, outcome, data, evaluated)
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


def evaluations_of(session: Session, artifact_id: str, *, most: int) -> list[Job]:
    """The newest succeeded jobs that measured an artifact again."""
    query = select(Job).where(Job.spec["model"].as_string() == artifact_id, Job.state == JobState.SUCCEEDED)
    return list(session.scalars(query.where(Job.kind == "evaluate").order_by(Job.id.desc()).limit(most)))


def _artifacts(session: Session, jobs: Sequence[Job]) -> dict[str, tuple[str, dict[str, Any] | None]]:
    """Candidate and recipe of the artifacts that jobs started from, as those that made them have it."""
    started_from = {str(job.spec.get("model")) for job in jobs}
    query = select(Artifact.id, Artifact.candidate_id, Job.outcome).join(Job, Artifact.job_id == Job.id)
    found: dict[str, tuple[str, dict[str, Any] | None]] = {}
    for row in session.execute(query.where(Artifact.id.in_(started_from))):
        made = (row.outcome or {}).get("candidates") or []
        recipe = next((each.get("recipe") for each in made if each["id"] == row.candidate_id), None)
        found[row.id] = row.candidate_id, recipe
    return found


def _original(
    job: Job,
    outcome: dict[str, Any],
    data: Data,
    evaluated: Mapping[str, tuple[str, dict[str, Any] | None]],
) -> Iterator[Measured]:
    """The model that a job started from, which is an artifact where the job says so: then it is that candidate."""
    measurements = (outcome.get("baseline") or {}).get("measurements") or []
    started_from = str(job.spec.get("model") or job.model_id)
    is_artifact = started_from.startswith("art_")
    candidate, recipe = evaluated.get(started_from, (None, None))
    if measurements:
        yield Measured(
            id=started_from,
            model=job.model_id,
            job=job.id,
            is_original=not is_artifact,
            target=job.target,
            data=data,
            measurements=measurements,
            candidate=candidate,
            artifact=started_from if is_artifact else None,
            recipe=recipe,
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
