"""A deployment without its processes: short ways to fill it, to move its clock, and to look into it."""

import asyncio
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import func, select, update

from app.db.clock import now_ms
from app.db.session import Database
from app.db.tables import Artifact, Blob, Dataset, Job, JobStep, Model, WakeUp
from app.domain.measurement import Measurement, absent
from app.services import Services
from app.services.blobs import Received
from app.services.work import ClaimedJob, MadeArtifact

Given = TypeVar("Given")

MODEL = {
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 4]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 3]}],
}
DATASET = {
    "rows": 8,
    "fields": [{"name": "x", "dtype": "float32", "shape": [4]}, {"name": "labels", "dtype": "int64", "shape": []}],
    "label_range": [0, 2],
}
RECIPE = {"technique": "dynamic_int8"}
MEASURED = [
    Measurement(name="artifact_bytes", value=8, unit="bytes", better="lower").model_dump(mode="json"),
    absent("top1", "There are no labels.", unit="fraction", better="higher").model_dump(mode="json"),
]
LONG_AGO = 1  # a moment that every lease and deadline is later than


async def in_chunks(content: bytes, size: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), size):
        yield content[start : start + size]


def at_once(tasks: Sequence[Callable[[], Given]]) -> list[Given | BaseException]:
    """Run tasks in a thread each, all let go at the same moment; returns what each gave or raised."""
    gate = threading.Barrier(len(tasks))
    answers: list[Given | BaseException] = [RuntimeError("did not run")] * len(tasks)

    def run(place: int, task: Callable[[], Given]) -> None:
        gate.wait()
        try:
            answers[place] = task()
        except BaseException as error:
            answers[place] = error

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(tasks)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


@dataclass
class Deployment:
    services: Services
    folder: Path
    _numbers: Any = field(default_factory=count)

    @property
    def database(self) -> Database:
        return self.services.database

    # Filling it

    def receive(self, content: bytes, **options: Any) -> Received:
        """An upload's bytes, in the store and of no row yet."""
        options.setdefault("max_bytes", 1 << 20)
        return asyncio.run(self.services.blobs.receive(in_chunks(content), **options))

    def put(self, content: bytes) -> Received:
        """A file that a job made, in the store and of no row yet."""
        path = self.folder / f"file-{next(self._numbers)}"
        path.write_bytes(content)
        return self.services.blobs.put_file(path, sha256=hashlib.sha256(content).hexdigest(), size=len(content))

    def model(self, content: bytes | None = None, inspection: dict[str, Any] | None = None) -> Model:
        """A model that is ready."""
        return self._ready(self.services.models, content, inspection or MODEL)

    def dataset(self, content: bytes | None = None, inspection: dict[str, Any] | None = None) -> Dataset:
        """A dataset that is ready."""
        return self._ready(self.services.datasets, content, inspection or DATASET)

    def _ready(self, uploads: Any, content: bytes | None, inspection: dict[str, Any]) -> Any:
        content = content or f"bytes {next(self._numbers)}".encode()
        row = uploads.record(self.receive(content), "file.bin", None, {})
        with self.database.write() as session:
            session.execute(
                update(uploads.table).where(uploads.table.id == row.id).values(state="ready", inspection=inspection)
            )
        return uploads.get(row.id)

    def submit(self, model: Model, *, key: str | None = None, **spec: Any) -> str:
        """A queued job's id."""
        body = {"model": model.id, "recipe": RECIPE, **spec}
        view, _ = self.services.jobs.submit(body, idempotency_key=key)
        return view.job.id

    def claim(self, worker: str = "worker", target: str = "local", fingerprint: str = "machine") -> ClaimedJob | None:
        return self.services.work.claim_job(target, worker, fingerprint=fingerprint)

    def claimed(self, worker: str = "worker", **options: Any) -> ClaimedJob:
        job = self.claim(worker, **options)
        assert job is not None
        return job

    def succeed(self, job: ClaimedJob, content: bytes = b"artifact") -> list[str]:
        """End a job with one artifact, a report and its page; returns the artifact's id."""
        artifact = MadeArtifact("cnd_1", "model.onnx", self.put(content), self.put(b"manifest of " + content))
        return self.services.work.succeed(
            job,
            outcome={
                "baseline": {"measurements": MEASURED},
                "candidates": [{"id": "cnd_1", "recipe": RECIPE, "measurements": MEASURED, "verdict": None}],
                "chosen": "cnd_1",
            },
            gate=None,
            artifacts=[artifact],
            report=self.put(b"report " + job.id.encode()),
            page=self.put(b"page " + job.id.encode()),
            log=None,
        )

    # Moving its clock: leases and deadlines are told by the database's, so they are set back instead

    def lapse(self, table: type[Job] | type[Model] | type[Dataset] = Job, *, row_id: str | None = None) -> None:
        """Let every lease lapse, or that of one row."""
        lapsing = update(table).where(table.lease_until.is_not(None)).values(lease_until=LONG_AGO)
        with self.database.write() as session:
            session.execute(lapsing if row_id is None else lapsing.where(table.id == row_id))

    def age_blobs(self, seconds: float) -> None:
        """Let this much time pass for every object."""
        shift = round(seconds * 1000)
        with self.database.write() as session:
            session.execute(
                update(Blob).values(created_at=Blob.created_at - shift, released_at=Blob.released_at - shift)
            )

    def age_wake_ups(self, seconds: float) -> None:
        with self.database.write() as session:
            session.execute(update(WakeUp).values(sent_at=WakeUp.sent_at - round(seconds * 1000)))

    # Looking into it

    def job(self, job_id: str) -> Job:
        with self.database.read() as session:
            return session.get_one(Job, job_id)

    def count(self, table: Any, *conditions: Any) -> int:
        with self.database.read() as session:
            return session.scalar(select(func.count()).select_from(table).where(*conditions)) or 0

    def blobs(self) -> dict[str, str]:
        """State of every object that the database knows, by its location."""
        with self.database.read() as session:
            return {row.location: row.state for row in session.scalars(select(Blob))}

    def objects(self) -> set[str]:
        """Location of every object that is in the store."""
        return {found.location for found in self.services.store.list()}

    def content(self, blob_id: str) -> bytes:
        with self.database.read() as session:
            location = session.get_one(Blob, blob_id).location
        return self.services.store.read(location, 1 << 20)

    def now(self) -> int:
        """Milliseconds since the epoch, by the database's clock."""
        with self.database.read() as session:
            return session.scalars(select(now_ms())).one()

    def messages(self) -> int:
        """Wake-ups that lie in the broker's folder."""
        return len(list((self.folder / "broker" / "messages").glob("*")))

    def steps(self, job_id: str) -> int:
        return self.count(JobStep, JobStep.job_id == job_id)

    def artifacts(self, job_id: str) -> int:
        return self.count(Artifact, Artifact.job_id == job_id)
