"""What is kept of a job that ends without its worker: what its finished steps measured."""

import json

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from app.db.repositories import jobs
from app.db.tables import Job, JobStep
from app.domain.partial import partial_outcome


def keep_measured(session: Session, job_id: str) -> None:
    """Forget the finished steps of a job that has ended, and write what they measured into its outcome."""
    steps = session.execute(
        select(JobStep.folder, JobStep.result).where(JobStep.job_id == job_id).order_by(JobStep.created_at)
    )
    outcome = partial_outcome({step.folder: json.loads(step.result) for step in steps})
    if outcome is not None:
        session.execute(update(Job).where(Job.id == job_id).values(outcome=outcome))
    jobs.forget_steps(session, job_id)
