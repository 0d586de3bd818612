"""All tables; importing this package fills `Table.metadata`."""

from app.db.tables.base import Table
from app.db.tables.blobs import Blob
from app.db.tables.jobs import Artifact, IdempotencyKey, Job, JobDataset, JobStep, JobStepFile
from app.db.tables.observations import Observation
from app.db.tables.uploads import Dataset, Model
from app.db.tables.workers import MeasuringLock, WakeUp, Worker

__all__ = [
    "Artifact",
    "Blob",
    "Dataset",
    "IdempotencyKey",
    "Job",
    "JobDataset",
    "JobStep",
    "JobStepFile",
    "MeasuringLock",
    "Model",
    "Observation",
    "Table",
    "WakeUp",
    "Worker",
]
