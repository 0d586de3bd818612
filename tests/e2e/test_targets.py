"""Targets and their workers: what is known of a machine, and that two workers on one never time at once."""

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnxruntime
import pytest
from sqlalchemy import select

from app.db.tables import Job, JobStep
from app.domain.target import CUDA_PROVIDER, Fingerprint
from app.embedded import worker_command
from app.queue.names import jobs_queue
from tests.conftest import QUICK
from tests.parts.service import ROOT, Service, wait_until
from workers.lifecycle import refuse_several
from workers.tasks.machine_lock import MachineLock
from workers.tasks.station import TRIED_FILE

SECOND = "second"
RECIPE = {"technique": "float16"}


@contextmanager
def another_worker(service: Service, target: str, **settings: str) -> Iterator[None]:
    """A further job worker of the same deployment, with the settings that the supervisor gave the first."""
    environment = service.job_worker()[0].environ() | {"BITPRESS_TARGET": target, **settings}
    with (service.data_dir / "logs" / f"{target}.log").open("ab") as output:
        process = subprocess.Popen(
            worker_command(jobs_queue(target)), cwd=ROOT, env=environment, stdout=output, stderr=output
        )
    try:
        wait_until(lambda: alive(service, target), what=f"a worker of {target}")
        yield
    finally:
        process.terminate()
        process.wait(30)


def alive(service: Service, target: str) -> bool:
    return any(found["alive"] for found in service.api.get("/v1/targets").json()["items"] if found["id"] == target)


def test_a_target_tells_its_machine_and_what_suits_it(service: Service) -> None:
    def measured() -> dict[str, Any] | None:
        found: dict[str, Any] = service.api.get("/v1/targets").json()["items"][0]
        return found if found["fingerprint"]["peaks"] else None

    target = wait_until(measured, what="a machine that is measured")
    machine = Fingerprint.model_validate(target["fingerprint"])
    assert machine.peaks is not None
    assert machine.peaks.of("fp32", 1) is not None
    assert machine.providers is not None
    assert [provider.loads for provider in machine.providers if provider.name == "CPUExecutionProvider"] == [True]
    techniques = [entry["id"] for entry in service.api.get("/v1/techniques").json()["items"]]
    assert [found["technique"] for found in target["suits"]] == techniques
    assert (service.data_dir / "scratch" / TRIED_FILE).exists()


@pytest.mark.skipif(
    CUDA_PROVIDER in onnxruntime.get_available_providers(), reason="here such a worker would run its jobs"
)
def test_a_worker_that_should_use_a_gpu_never_measures_on_the_processor(service: Service) -> None:
    model = service.example("fashion_mobilenet.onnx")
    with another_worker(service, "gpu", BITPRESS_PROVIDERS=f'["{CUDA_PROVIDER}", "CPUExecutionProvider"]'):
        body = service.ended(service.submit(model=model, recipe=RECIPE, target="gpu")["id"])
        (fingerprint,) = (
            found["fingerprint"] for found in service.api.get("/v1/targets").json()["items"] if found["id"] == "gpu"
        )
    assert body["state"] == "failed"
    assert body["error"]["code"] == "provider_unavailable"
    assert CUDA_PROVIDER in body["error"]["detail"]
    assert fingerprint["runs_on"] == [CUDA_PROVIDER, "CPUExecutionProvider"]


def test_two_workers_on_one_machine_never_disturb_what_is_timed(service: Service) -> None:
    model = service.example("fashion_mobilenet.onnx")
    with another_worker(service, SECOND):
        machines = {
            found["id"]: found["fingerprint"]["boot_id"]
            for found in service.api.get("/v1/targets").json()["items"]
            if found["alive"]
        }
        assert machines["local"] == machines[SECOND]
        jobs = [
            service.submit(model=model, recipe=RECIPE, target=target)["id"]
            for target in ("local", SECOND, "local", SECOND)
        ]
        worked, running, waited = watched(service, jobs)
        bodies = [service.job(job_id) for job_id in jobs]
    for body in bodies:
        assert body["state"] == "succeeded", body["error"] or service.log_tails()
    # One job at a time a worker.
    for together in running:
        assert len({targets for _, targets in together}) == len(together), together
    # Of each step the time that it certainly took, by the database's clock.
    timed = {place: span for place, span in worked.items() if place[1].startswith("latency-")}
    assert {job_id for job_id, _ in timed} == set(jobs)
    assert {"baseline", "candidates"} <= {folder for _, folder in worked}
    for (job_id, folder), (begin, end) in timed.items():
        for (other, beside), (other_begin, other_end) in worked.items():
            together = min(end, other_end) - max(begin, other_begin)
            assert other == job_id or together <= 0, f"{folder} was timed while {beside} worked"
    assert any("to measure" in text for text in waited), "none waited to measure, so that nothing was tested"
    assert any("been measured" in text for text in waited), "none waited to compute, so that nothing was tested"


def watched(
    service: Service, jobs: list[str]
) -> tuple[dict[tuple[str, str], tuple[int, int]], set[frozenset[tuple[str, str]]], set[str]]:
    """Follow jobs to their end: when each step worked, which jobs ran together, and what they said they waited for."""
    worked: dict[tuple[str, str], tuple[int, int]] = {}
    running: set[frozenset[tuple[str, str]]] = set()
    waited: set[str] = set()

    def ended() -> bool:
        with service.database.read() as session:
            for step in session.scalars(select(JobStep).where(JobStep.job_id.in_(jobs))):
                begun = step.created_at - int(step.seconds * 1000)
                worked[step.job_id, step.folder] = (begun, step.created_at)
            rows: list[Any] = list(session.scalars(select(Job).where(Job.id.in_(jobs))))
        running.add(frozenset((row.id, row.target) for row in rows if row.state == "running"))
        waited.update(row.message for row in rows if "waiting until" in (row.message or ""))
        return all(row.state in ("succeeded", "failed", "cancelled") for row in rows)

    wait_until(ended, seconds=240, what="the end of all jobs")
    return worked, running, waited


def test_a_job_waits_while_a_worker_of_another_deployment_times(service: Service) -> None:
    """It keeps its job and its target meanwhile, and can be cancelled."""
    model = service.example("fashion_mobilenet.onnx")
    boot_id = service.api.get("/v1/targets").json()["items"][0]["fingerprint"]["boot_id"]
    elsewhere = MachineLock(service.data_dir, boot_id)
    with elsewhere.held(alone=True, wait=lambda: None):
        jobs = [service.submit(model=model, recipe=RECIPE, target="local")["id"] for _ in range(2)]
        wait_until(lambda: "been measured" in (service.job(jobs[0])["message"] or ""), what="a job that waits")
        time.sleep(1.5 * float(QUICK["BITPRESS_LEASE_SECONDS"]))
        body = service.job(jobs[0])
        assert (body["state"], body["attempt"]) == ("running", 1)
        assert not service.sandbox_children(), "nothing runs"
        service.api.post(f"/v1/jobs/{jobs[0]}/cancel")
        assert service.ended(jobs[0], seconds=10)["state"] == "cancelled"
        wait_until(lambda: "been measured" in (service.job(jobs[1])["message"] or ""), what="the next job")
    # Computing goes on beside whoever computes elsewhere, timing does not.
    with elsewhere.held(alone=False, wait=lambda: None):
        wait_until(lambda: "to measure" in (service.job(jobs[1])["message"] or ""), what="a job that is to be timed")
    assert service.ended(jobs[1])["state"] == "succeeded", service.log_tails()


@pytest.mark.parametrize(("queue", "concurrency", "refused"), [("jobs.a", 2, True), ("jobs.a", 1, False)])
def test_a_job_worker_with_several_processes_does_not_start(queue: str, concurrency: int, refused: bool) -> None:
    """They would take a job each, and work on one while the other is timed."""
    if refused:
        with pytest.raises(SystemExit, match="--concurrency 1"):
            refuse_several([queue], concurrency)
    else:
        refuse_several([queue], concurrency)
    refuse_several(["inspections"], 4)


def test_celery_is_not_asked_for_several(service: Service) -> None:
    command = worker_command(jobs_queue("x"))
    command[command.index("--concurrency") + 1] = "2"
    environment = service.job_worker()[0].environ() | {"BITPRESS_TARGET": "x"}
    ran = subprocess.run(command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, timeout=60)
    assert ran.returncode != 0
    assert b"--concurrency 1" in ran.stderr
    assert not alive(service, "x")


def test_a_worker_does_not_go_by_a_profile_that_its_machine_is_not(service: Service) -> None:
    targets = service.api.get("/v1/targets").json()["items"]
    here = next(found for found in targets if found["id"] == "local")
    false = next(
        found["id"] for found in targets if found["builtin"] and not {*found["features"]} <= {*here["features"]}
    )
    environment = service.job_worker()[0].environ() | {"BITPRESS_TARGET": false}
    command = worker_command(jobs_queue(false))
    ran = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    (said,) = (line for line in ran.stderr.splitlines() if "cannot start" in line)
    assert f"BITPRESS_TARGET is {false}" in said
    assert "lacks" in said
    assert "Traceback" not in ran.stderr
    assert not alive(service, false)
    job = service.submit(model=service.example("fashion_mobilenet.onnx"), recipe=RECIPE, target=false)
    assert job["waiting_for"] == f"a worker of target {false!r}: none is alive"
    service.api.post(f"/v1/jobs/{job['id']}/cancel")
