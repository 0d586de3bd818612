"""Clocks that jump in a process that times a model: the job's document says so, with real children and a database."""

import io
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.api.schemas.documents import job_document
from app.migrate import migrate, open_database
from app.queue.names import jobs_queue
from app.settings import Settings
from tests.parts import models
from tests.parts.deployment import Deployment
from workers.lifecycle import open_station
from workers.sandbox.child import SandboxChild
from workers.tasks.looking import look_for_jobs
from workers.tasks.station import Station

PROGRAMS = Path(__file__).with_name("programs")
ROWS = 16
MODEL = {
    "format": "onnx",
    "inputs": [{"name": "x", "dtype": "float32", "shape": ["batch", 16]}],
    "outputs": [{"name": "y", "dtype": "float32", "shape": ["batch", 8]}],
}
DATASET = {
    "format": "npz",
    "rows": ROWS,
    "fields": [{"name": "x", "dtype": "float32", "shape": [16]}, {"name": "labels", "dtype": "int64", "shape": []}],
    "label_range": [0, 7],
}
JUMP, JUMP_AT = "none", 12
"""How the clocks jump, and at which of their readings: a series, and some blocks of it, have begun by the twelfth."""


class JumpingStation(Station):
    """A station whose children have clocks that jump."""

    def child(self, scratch: Path, log_file: Path) -> SandboxChild:
        return SandboxChild(
            scratch,
            limits=self.limits,
            log=log_file,
            uid=self.uid,
            gid=self.uid,
            allow_weak=self.allow_weak_sandbox,
            target="jumping:serve",
            code=[PROGRAMS],
            environment={"JUMP": JUMP, "JUMP_AT": str(JUMP_AT)},
        )


@pytest.fixture(scope="module")
def deployment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Deployment, Station]]:
    folder = tmp_path_factory.mktemp("clocks")
    settings = Settings(
        data_dir=folder,
        api_key="a-key-for-tests-only",
        allow_weak_sandbox=True,
        replicates=2,
        most_replicates=2,
        measure_seconds=0.3,
    )
    database = open_database(settings)
    migrate(database)
    database.dispose()
    station = open_station(settings, jobs_queue("local"))
    yield Deployment(station.services, folder), station
    station.services.close()


def evaluated(deployment: Deployment, station: Station, **measure: Any) -> dict[str, Any]:
    """The document of a job that a worker with jumping clocks has run."""
    buffer = io.BytesIO()
    rows = np.random.default_rng(0).normal(size=(ROWS, 16)).astype(np.float32)
    np.savez(buffer, x=rows, labels=np.arange(ROWS) % 8)
    model = deployment.model(models.gemm().SerializeToString(), MODEL)
    data = deployment.dataset(buffer.getvalue(), DATASET)
    job_id = deployment.submit(model, kind="evaluate", recipe=None, datasets={"evaluation": data.id}, measure=measure)
    jumping = JumpingStation(**{field.name: getattr(station, field.name) for field in fields(station)})
    look_for_jobs(jumping)
    document = job_document(deployment.services.jobs.get(job_id))
    assert document["state"] == "succeeded", document["error"]
    report = deployment.services.jobs.report(job_id)
    document["report"] = json.loads(deployment.services.store.read(report.location, 1 << 24))
    return document


def flags(document: dict[str, Any], name: str, **conditions: Any) -> list[str]:
    return next(
        list(found["flags"])
        for found in document["baseline"]["measurements"]
        if found["name"] == name and conditions.items() <= found["conditions"].items()
    )


@pytest.mark.parametrize(
    ("jump", "said"),
    [
        ("set_ahead", "the wall clock was set by +3.6e+03 s"),
        ("set_back", "the wall clock was set by -3.6e+03 s"),
        ("slept", "the machine was suspended for 60 s"),
        ("fast", "the clock ran +"),
    ],
)
def test_clocks_that_jump_are_told(
    deployment: tuple[Deployment, Station], jump: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.JUMP", jump)
    document = evaluated(*deployment)
    for name in ("latency_p50", "latency_mean", "load_time", "cpu_per_inference"):
        assert "clock_jumped" in flags(document, name), name
    assert "clock_jumped" not in flags(document, "top1"), "no time, so no doubt"
    [note] = [note for note in document["notes"] if "timing processes were disturbed" in note]
    assert note.startswith("2 of 2 ")
    assert said in note
    assert "a clock was set or the machine slept" in document["conclusion"]
    assert len(document["report"]["samples"]) == 2, "all samples are kept"


def test_a_load_tells_of_them_too(deployment: tuple[Deployment, Station], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.JUMP", "slept")
    monkeypatch.setattr(f"{__name__}.JUMP_AT", 2)  # it is read twice
    document = evaluated(*deployment, load={"callers": [1], "seconds": 0.2})
    for name in ("throughput", "latency_p50"):
        assert "clock_jumped" in flags(document, name, callers=1)


def test_clocks_that_do_not_jump_are_no_matter(
    deployment: tuple[Deployment, Station], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.JUMP", "none")
    document = evaluated(*deployment)
    assert "clock_jumped" not in flags(document, "latency_p50")
    assert not any("clock was set" in note or "suspended" in note for note in document["notes"])
