"""One job from request to artifact, over HTTP, with all defaults and with the production parts."""

import base64
import hashlib
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import onnxruntime
import pytest
from sqlalchemy import func, literal, select, update

from app.db.tables import Blob, Observation
from tests.parts.service import EXAMPLES, Service, wait_until

STATIC = {"technique": "static_int8", "calibration": {"method": "percentile", "samples": 64}}


def roles(service: Service) -> dict[str, str]:
    return {role: service.example(f"{role}.npz") for role in ("calibration", "evaluation")}


def few_rows(service: Service) -> dict[str, str]:
    """For jobs of which only the course matters."""
    return {role: service.some_rows(f"{role}.npz") for role in ("calibration", "evaluation")}


def value(measurements: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(found for found in measurements if found["name"] == name)


@pytest.fixture(scope="module")
def finished(service: Service) -> dict[str, Any]:
    """A job that has succeeded."""
    job = service.submit(
        model=service.example("fashion_mobilenet.onnx"),
        datasets=roles(service),
        recipe=STATIC,
        goal={"minimize": "latency", "constraints": [{"metric": "top1", "max_drop": 0.05}]},
        labels={"test": "path"},
    )
    body = service.ended(job["id"])
    assert body["state"] == "succeeded", body["error"] or body
    return body


def test_inspection_says_what_the_model_is(service: Service) -> None:
    body = service.api.get(f"/v1/models/{service.example('fashion_mobilenet.onnx')}").json()
    assert body["state"] == "ready"
    assert [(found["name"], found["dtype"]) for found in body["inputs"]] == [("image", "float32")]
    assert body["inputs"][0]["shape"][1:] == [1, 28, 28]
    assert body["operators"]["Conv"] > 5
    assert body["parameters"] > 10_000


def test_the_job_echoes_its_specification_with_every_default(finished: dict[str, Any]) -> None:
    assert finished["spec"]["goal"]["confidence"] == 0.95
    assert finished["spec"]["recipe"]["per_channel"] is True
    assert finished["spec"]["limits"]["queue_seconds"] == 86_400
    assert finished["labels"] == {"test": "path"}


def test_everything_is_measured(finished: dict[str, Any]) -> None:
    names = {found["name"] for found in finished["baseline"]["measurements"]}
    assert {"latency_p50", "latency_p90", "latency_p99", "load_time", "peak_memory", "artifact_bytes", "top1"} <= names
    candidate = finished["candidates"][0]
    names = {found["name"] for found in candidate["measurements"]}
    assert {"latency_p50", "peak_memory", "artifact_bytes", "top1", "agreement", "sqnr_db", "cosine"} <= names
    for found in candidate["measurements"]:
        assert (found["value"] is None) == (found["method"] == "absent"), found
        assert found["unit"]
        assert found["better"] in ("higher", "lower")
        if found["method"] == "absent":
            assert found["reason"]
    assert finished["gate"] in ("met", "undecided")
    assert finished["chosen"] == candidate["id"]
    assert finished["conclusion"]


def test_the_artifact_is_whole_runs_and_scores_what_was_said(service: Service, finished: dict[str, Any]) -> None:
    artifact = service.api.get(f"/v1/artifacts/{finished['artifacts'][0]}").json()
    answer = service.api.get(artifact["links"]["content"])
    assert hashlib.sha256(answer.content).hexdigest() == artifact["sha256"]
    digest = base64.b64encode(hashlib.sha256(answer.content).digest()).decode()
    assert answer.headers["repr-digest"] == f"sha-256=:{digest}:"
    assert (
        len(answer.content)
        == artifact["bytes"]
        == value(finished["candidates"][0]["measurements"], "artifact_bytes")["value"]
    )

    manifest = service.api.get(f"/v1/artifacts/{artifact['id']}/manifest").json()
    options = onnxruntime.SessionOptions()
    for name, setting in finished["candidates"][0]["session_options"].items():
        options.add_session_config_entry(name, setting)
    session = onnxruntime.InferenceSession(answer.content, options, providers=["CPUExecutionProvider"])
    rows = np.load(EXAMPLES / "evaluation.npz")
    outputs = session.run(None, {"image": rows["image"]})[0]
    top1 = float((outputs.argmax(-1) == rows["labels"]).mean())
    assert top1 == pytest.approx(value(finished["candidates"][0]["measurements"], "top1")["value"], abs=0.002)
    assert artifact["sha256"] in json.dumps(manifest)


def test_the_manifest_s_snippet_runs_in_a_clean_environment(
    service: Service, finished: dict[str, Any], tmp_path: Path
) -> None:
    artifact = service.api.get(f"/v1/artifacts/{finished['artifacts'][0]}").json()
    manifest = service.api.get(f"/v1/artifacts/{artifact['id']}/manifest").json()
    (tmp_path / artifact["file_name"]).write_bytes(service.api.get(artifact["links"]["content"]).content)
    (tmp_path / "run.py").write_text(manifest["snippet"])
    packages = tmp_path / "site"
    packages.mkdir()
    # Only what the snippet says it needs, and none of ours: not the checkout, not the service's settings.
    for package in ("numpy", "onnxruntime"):
        found = Path(sys.modules[package].__file__ or "").parent
        (packages / package).symlink_to(found)
        for libraries in found.parent.glob(f"{package}.libs"):
            (packages / libraries.name).symlink_to(libraries)
    ran = subprocess.run(
        [sys.executable, "-S", "run.py"],
        cwd=tmp_path, env={"PYTHONPATH": str(packages)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert "10" in ran.stdout


def test_ranges_and_conditions(service: Service, finished: dict[str, Any]) -> None:
    path = f"/v1/artifacts/{finished['artifacts'][0]}/content"
    whole = service.api.get(path)
    etag, size = whole.headers["etag"], len(whole.content)
    part = service.api.get(path, headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, whole.content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{size}"
    tail = service.api.get(path, headers={"Range": "bytes=-5"})
    assert tail.content == whole.content[-5:]
    rest = service.api.get(path, headers={"Range": f"bytes={size - 3}-", "If-Range": etag})
    assert (rest.status_code, rest.content) == (206, whole.content[-3:])
    stale = service.api.get(path, headers={"Range": "bytes=0-1", "If-Range": '"other"'})
    assert (stale.status_code, len(stale.content)) == (200, size)
    beyond = service.api.get(path, headers={"Range": f"bytes={size}-"})
    assert beyond.status_code == 416
    assert beyond.headers["content-range"] == f"bytes */{size}"
    assert service.api.get(path, headers={"If-None-Match": etag}).status_code == 304


def test_the_report_has_the_raw_samples(service: Service, finished: dict[str, Any]) -> None:
    report = service.api.get(finished["links"]["report"])
    assert report.headers["content-type"] == "application/json"
    assert "samples" in report.text


def test_log_and_catalogues(service: Service, finished: dict[str, Any]) -> None:
    assert service.api.get(finished["links"]["log"]).status_code == 200
    target = service.api.get("/v1/targets").json()["items"][0]
    assert target["alive"] is True
    assert target["sandbox"]["strong"] is True
    assert {entry["id"] for entry in service.api.get("/v1/techniques").json()["items"]} == {
        "dynamic_int8",
        "static_int8",
        "static_int16",
        "weight_only",
        "float16",
        "bfloat16",
        "mixed",
    }
    assert "top1" in {entry["id"] for entry in service.api.get("/v1/metrics").json()["items"]}


def test_activations_are_observed_once_for_every_method(service: Service, finished: dict[str, Any]) -> None:
    """A later job of the same model and data reads what the first one observed, and is none the worse for it."""
    again = {"calibration": {"method": "entropy", "samples": 64}, "weight_type": "uint8"}
    job = service.submit(
        model=finished["spec"]["model"], datasets=finished["spec"]["datasets"], recipe={**STATIC, **again}
    )
    body = service.ended(job["id"])
    assert body["state"] == "succeeded", body["error"] or body
    assert [note for note in body["notes"] if "observed by an earlier job" in note]
    assert not [note for note in finished["notes"] if "observed by an earlier job" in note]
    assert any("Ranges by entropy, from 64 rows" in note for note in body["candidates"][0]["notes"])
    assert value(body["candidates"][0]["measurements"], "agreement")["value"] > 0.9


def test_observations_whose_bytes_are_gone_are_made_anew(service: Service, finished: dict[str, Any]) -> None:
    kept = select(Observation.blob_id)
    with service.database.write() as session:
        session.execute(update(Blob).where(Blob.id.in_(kept)).values(location=literal("gone/") + Blob.location))
    try:
        job = service.submit(model=finished["spec"]["model"], datasets=finished["spec"]["datasets"], recipe=STATIC)
        body = service.ended(job["id"])
    finally:
        with service.database.write() as session:
            session.execute(
                update(Blob).where(Blob.location.like("gone/%")).values(location=func.substr(Blob.location, 6))
            )
    assert body["state"] == "succeeded", body["error"] or body
    assert not [note for note in body["notes"] if "observed by an earlier job" in note]


def test_links_name_only_what_exists(service: Service, finished: dict[str, Any]) -> None:
    for link in finished["links"].values():
        assert service.api.get(link).status_code == 200, link


def test_the_same_key_and_body_give_the_same_job(service: Service) -> None:
    body = {"model": service.example("fashion_dense.onnx"), "recipe": {"technique": "dynamic_int8"}, "name": "once"}
    headers = {"Idempotency-Key": f"key-{time.time_ns()}"}
    answers: list[httpx.Response] = []

    def post() -> None:
        answers.append(service.api.post("/v1/jobs", json=body, headers=headers))

    threads = [threading.Thread(target=post) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {202}, [answer.text for answer in answers]
    assert len({answer.json()["id"] for answer in answers}) == 1
    other = service.api.post("/v1/jobs", json={**body, "name": "other"}, headers=headers)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_key_reused")
    service.ended(answers[0].json()["id"])


def test_a_long_poll_returns_on_a_change_and_304_without_one(service: Service) -> None:
    job = service.submit(
        model=service.example("fashion_dense.onnx"), recipe={"technique": "dynamic_int8"}, datasets=few_rows(service)
    )
    etag, seen = None, []
    while not seen or seen[-1]["state"] not in ("succeeded", "failed"):
        headers = {"If-None-Match": etag} if etag else {}
        answer = service.api.get(f"/v1/jobs/{job['id']}", params={"wait": 30} if etag else {}, headers=headers)
        assert answer.status_code == 200, "a running job changes within 30 s"
        assert answer.headers["etag"] != etag
        etag = answer.headers["etag"]
        seen.append(answer.json())
    assert seen[-1]["state"] == "succeeded", seen[-1]
    progress = [body["progress"] for body in seen]
    assert progress == sorted(progress)
    assert len(set(progress)) > 3
    begun = time.monotonic()
    answer = service.api.get(f"/v1/jobs/{job['id']}", params={"wait": 1}, headers={"If-None-Match": etag})
    assert answer.status_code == 304
    assert time.monotonic() - begun >= 0.9


def test_cancel_of_a_running_job_kills_its_children_and_removes_its_scratch(service: Service) -> None:
    job = service.submit(model=service.example("fashion_mobilenet.onnx"), recipe=STATIC, datasets=few_rows(service))
    wait_until(lambda: service.sandbox_children(), what="a child at work")
    answer = service.api.post(f"/v1/jobs/{job['id']}/cancel")
    assert answer.status_code == 202
    assert answer.json()["state"] in ("cancelling", "cancelled")
    body = service.ended(job["id"])
    assert body["state"] == "cancelled"
    assert body["artifacts"] == []
    wait_until(lambda: not service.sandbox_children(), what="the children's death")
    wait_until(lambda: not service.scratch_folders(), what="an empty scratch")
    again = service.api.post(f"/v1/jobs/{job['id']}/cancel")
    assert (again.status_code, again.json()["code"]) == (409, "job_ended")


def test_cancel_of_a_queued_job_and_queue_positions(service: Service) -> None:
    model = service.example("fashion_dense.onnx")
    running = service.submit(model=model, recipe={"technique": "dynamic_int8"}, datasets=few_rows(service))
    wait_until(lambda: service.job(running["id"])["state"] == "running", what="the first job's start")
    later = service.submit(model=model, recipe={"technique": "float16"}, priority=1)
    sooner = service.submit(model=model, recipe={"technique": "float16"}, priority=8)
    assert service.job(sooner["id"])["queue_position"] == 1
    body = service.job(later["id"])
    assert body["queue_position"] == 2
    assert body["waiting_for"]
    answer = service.api.post(f"/v1/jobs/{later['id']}/cancel")
    assert answer.json()["state"] == "cancelled"
    assert service.ended(sooner["id"])["state"] == "succeeded"
    assert service.ended(running["id"])["state"] == "succeeded"
    first, second = service.job(running["id"]), service.job(sooner["id"])
    assert second["started_at"] >= first["ended_at"], "one job at a time"
    assert service.job(later["id"])["started_at"] is None


def test_deleting_what_is_used_is_refused_and_what_is_not_is_gone(service: Service, tmp_path: Path) -> None:
    file = tmp_path / "own.onnx"
    file.write_bytes((EXAMPLES / "fashion_dense.onnx").read_bytes())
    model = service.upload("models", file, name="to be deleted")
    assert model["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest()
    job = service.submit(model=model["id"], recipe={"technique": "float16"})
    refused = service.api.delete(f"/v1/models/{model['id']}")
    assert (refused.status_code, refused.json()["code"]) == (409, "model_in_use")
    assert service.api.delete(f"/v1/jobs/{job['id']}").status_code == 409
    body = service.ended(job["id"])
    artifact = body["artifacts"][0]
    assert service.api.delete(f"/v1/artifacts/{artifact}").status_code == 204
    assert service.api.get(f"/v1/artifacts/{artifact}/content").status_code == 404
    assert service.job(job["id"])["artifacts"] == []
    assert "content" not in service.job(job["id"])["links"]
    assert service.api.delete(f"/v1/jobs/{job['id']}").status_code == 204
    assert service.api.get(f"/v1/jobs/{job['id']}").status_code == 404
    assert service.api.delete(f"/v1/models/{model['id']}").status_code == 204
    assert service.api.get(f"/v1/models/{model['id']}").json()["code"] == "model_not_found"


def test_lists_are_paged_and_filtered(service: Service, finished: dict[str, Any]) -> None:
    items, cursor = [], None
    while True:
        params = {"limit": 2, **({"cursor": cursor} if cursor else {})}
        body = service.api.get("/v1/jobs", params=params).json()
        assert len(body["items"]) <= 2
        items += body["items"]
        cursor = body["next_cursor"]
        if cursor is None:
            break
    ids = [item["id"] for item in items]
    assert len(ids) == len(set(ids))
    assert ids == sorted(ids, reverse=True)
    assert finished["id"] in ids
    labelled = service.api.get("/v1/jobs", params={"label": "test:path"}).json()["items"]
    assert finished["id"] in {item["id"] for item in labelled}
    assert all(item["labels"].get("test") == "path" for item in labelled)


def test_the_key_is_needed(service: Service) -> None:
    without = httpx.get(f"{service.url}/v1/jobs")
    assert (without.status_code, without.json()["code"]) == (401, "key_missing")
    wrong = httpx.get(f"{service.url}/v1/jobs", headers={"Authorization": "Bearer nonsense"})
    assert (wrong.status_code, wrong.json()["code"]) == (401, "key_unknown")
    assert wrong.headers["content-type"] == "application/problem+json"


def test_validate_says_what_would_run_and_what_is_doubtful(service: Service) -> None:
    model = service.example("fashion_mobilenet.onnx")
    good = service.api.post("/v1/jobs/validate", json={"model": model, "recipe": {"technique": "float16"}}).json()
    assert good["valid"] is True
    assert good["steps"][0] == "inspect"
    assert any("held out" in doubt for doubt in good["doubts"])
    bad = service.api.post("/v1/jobs/validate", json={"model": model, "recipe": {"technique": "static_int8"}}).json()
    assert bad["valid"] is False
    assert [error["code"] for error in bad["errors"]] == ["calibration_missing"]
