"""The API is what its OpenAPI document says, whatever it is asked; and every error is a problem document."""

import asyncio
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from fastapi import FastAPI

import app
import app.errors
import workers.sandbox
from app.api.deps import authenticated
from app.api.problems import MEDIA_TYPE, STATUS, problem_response, status_of
from app.errors import BitpressError, RangeNotSatisfiable, StepError
from app.main import create_app
from app.settings import Settings
from app.wiring import SettingMissing
from tests.parts.server import KEY, ROOT, Server, running_server

# How many requests are made up at random for each operation, besides those that every schema's edges give.
EXAMPLES = 5

CONFIGURATION = """
continue-on-failure = true
seed = 1

[phases]
examples.enabled = false
stateful.enabled = false

[checks]
# Ids, references and data that fit each other are more than a schema can say.
positive_data_acceptance.enabled = false

[[operations]]
# Says what is wrong with a body instead of refusing it; the same bodies go to POST /v1/jobs.
include-path = "/v1/jobs/validate"
phases.coverage.enabled = false
checks.negative_data_rejection.enabled = false
# GET and DELETE are answered there as well: for a job called "validate".
checks.allow_header_conformance.enabled = false
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("server")) as running:
        yield running


def test_whatever_is_asked_the_answer_is_as_documented(server: Server, tmp_path: Path) -> None:
    """No 5xx, and no status, media type, header or body that the document does not have."""
    deployment = server.deployment
    model, data = deployment.model(), deployment.dataset()
    job_ids = [deployment.submit(model, datasets={"evaluation": data.id}) for _ in range(4)]
    artifacts = deployment.succeed(deployment.claimed())
    deployment.services.work.fail(deployment.claimed(), StepError("It did not work."), log=deployment.put(b"log"))
    deployment.claimed()
    known = {"model_id": [model.id], "dataset_id": [data.id], "job_id": job_ids, "artifact_id": artifacts}
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    run = subprocess.run(
        [
            str(Path(sys.executable).with_name("schemathesis")),
            "--config-file",
            str(tmp_path / "schemathesis.toml"),
            "run",
            f"{server.url}/openapi.json",
            "--header",
            f"Authorization: Bearer {KEY}",
            "--max-examples",
            str(EXAMPLES),
            "--no-color",
        ],
        cwd=tmp_path,  # where it leaves what it wants to remember
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "BITPRESS_KNOWN_IDS": json.dumps(known),
            "SCHEMATHESIS_HOOKS": "tests.contract.api_hooks",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
    assert "Tested: 29" in run.stdout, run.stdout
    assert "Traceback" not in server.log.read_text()


@pytest.fixture(scope="module")
def api(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {KEY}"}, timeout=30) as client:
        yield client


def test_head_says_what_get_would(server: Server, api: httpx.Client) -> None:
    """The same status and headers (RFC 9110, 9.3.2), and nothing of the content."""
    deployment = server.deployment
    model, data = deployment.model(), deployment.dataset()
    deployment.submit(model, datasets={"evaluation": data.id}, priority=9)
    job = deployment.claimed()
    [artifact] = deployment.succeed(job, b"an artifact of its own")
    paths = [
        "/healthz",
        "/v1/models",
        "/v1/techniques",
        f"/v1/models/{model.id}",
        f"/v1/models/{model.id}/content",
        f"/v1/datasets/{data.id}",
        f"/v1/datasets/{data.id}/content",
        f"/v1/jobs/{job.id}",
        f"/v1/jobs/{job.id}/log",
        f"/v1/jobs/{job.id}/report",
        f"/v1/jobs/{job.id}/report?format=html",
        f"/v1/models/{model.id}/frontier",
        f"/v1/comparison?of={model.id}&of={artifact}",
        f"/v1/artifacts/{artifact}",
        f"/v1/artifacts/{artifact}/content",
        f"/v1/artifacts/{artifact}/manifest",
        "/v1/models/mdl_nobody",
        "/v1/models/mdl_nobody/content",
        "/v1/nothing",
    ]
    for path in paths:
        got, head = api.get(path), api.head(path)
        assert head.content == b"", path
        assert head.status_code == got.status_code, path
        kept = {name: value for name, value in got.headers.items() if name != "date"}
        assert {name: value for name, value in head.headers.items() if name != "date"} == kept, path
        assert int(head.headers["content-length"]) == len(got.content), path
    content = f"/v1/artifacts/{artifact}/content"
    whole = api.head(content, headers={"Range": "bytes=0-1"})
    assert (whole.status_code, whole.headers["content-length"]) == (200, "22"), "a range is for GET (14.2)"
    assert api.head(content, headers={"If-None-Match": whole.headers["etag"]}).status_code == 304
    assert httpx.head(server.url + content).status_code == 401


def test_head_reads_no_content(server: Server, api: httpx.Client) -> None:
    deployment = server.deployment
    deployment.submit(deployment.model(), priority=9)
    [artifact] = deployment.succeed(deployment.claimed(), b"soon gone")
    _, content, manifest = deployment.services.artifacts.get(artifact)
    for blob, path in ((content, "content"), (manifest, "manifest")):
        deployment.services.store.delete(blob.location)
        assert api.head(f"/v1/artifacts/{artifact}/{path}").status_code == 200
        assert api.get(f"/v1/artifacts/{artifact}/{path}").status_code == 404


def test_a_range_beyond_every_content(server: Server, api: httpx.Client) -> None:
    path = f"/v1/models/{server.deployment.model(b'ten bytes.').id}/content"
    beyond = api.get(path, headers={"Range": "bytes=99999999999999999999-"})
    assert (beyond.status_code, beyond.headers["content-range"]) == (416, "bytes */10")
    assert api.get(path, headers={"Range": "bytes=8-99999999999999999999"}).content == b"s."


def test_a_long_poll_waits_while_any_tag_that_is_named_is_the_present_one(server: Server, api: httpx.Client) -> None:
    deployment = server.deployment
    job_id = deployment.submit(deployment.model(), priority=9)
    etag = api.get(f"/v1/jobs/{job_id}").headers["etag"]
    for header in (etag, f'{etag}, "zz"', f'"zz",W/{etag}', "*"):
        begun = time.monotonic()
        answer = api.get(f"/v1/jobs/{job_id}", params={"wait": 0.7}, headers={"If-None-Match": header})
        assert (answer.status_code, answer.headers["etag"], answer.content) == (304, etag, b""), header
        assert time.monotonic() - begun >= 0.7, header
    begun = time.monotonic()
    answer = api.get(f"/v1/jobs/{job_id}", params={"wait": 20}, headers={"If-None-Match": '"zz", "yy"'})
    assert (answer.status_code, answer.headers["etag"]) == (200, etag)
    assert time.monotonic() - begun < 10
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(
            api.get, f"/v1/jobs/{job_id}", params={"wait": 20}, headers={"If-None-Match": f'"zz", {etag}'}
        )
        time.sleep(0.3)
        deployment.services.jobs.cancel(job_id)
        assert (asked.result().status_code, asked.result().json()["state"]) == (200, "cancelled")


def test_deleting_an_artifact_is_a_change_of_its_job(server: Server, api: httpx.Client) -> None:
    deployment = server.deployment
    deployment.submit(deployment.model(), priority=9)
    job = deployment.claimed()
    [artifact] = deployment.succeed(job)
    before = api.get(f"/v1/jobs/{job.id}")
    assert before.json()["candidates"][0]["artifact"] == artifact
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(
            api.get, f"/v1/jobs/{job.id}", params={"wait": 20}, headers={"If-None-Match": before.headers["etag"]}
        )
        time.sleep(0.3)
        assert api.delete(f"/v1/artifacts/{artifact}").status_code == 204
        after = asked.result()
    assert (after.status_code, after.json()["artifacts"]) == (200, [])
    assert after.json()["candidates"][0]["artifact"] is None
    assert "content" not in after.json()["links"]
    assert after.headers["etag"] != before.headers["etag"]


def test_a_key_belongs_to_what_a_body_says_and_not_to_how_it_is_written(server: Server, api: httpx.Client) -> None:
    body = {"model": server.deployment.model().id, "recipe": {"technique": "float16"}, "labels": {"ü": "ö"}}
    headers = {"Idempotency-Key": "the same", "Content-Type": "application/json"}

    def submitted(content: str) -> httpx.Response:
        return api.post("/v1/jobs", content=content.encode(), headers=headers)

    first = submitted(json.dumps(body))
    assert first.status_code == 202
    turned = {name: body[name] for name in reversed(body)}
    assert submitted(json.dumps(turned, indent=4, ensure_ascii=False)).json()["id"] == first.json()["id"]
    assert submitted(json.dumps(body | {"priority": 5})).json()["code"] == "idempotency_key_reused"


@pytest.mark.parametrize("kind", ["models", "datasets", "artifacts", "jobs"])
@pytest.mark.parametrize("name", ["mdl_%00", "%00", "x", "job_" + "l" * 26])
def test_what_is_no_id_is_not_found(api: httpx.Client, kind: str, name: str) -> None:
    for method, below in (("GET", ""), ("DELETE", ""), ("GET", "/report" if kind == "jobs" else "/content")):
        answer = api.request(method, f"/v1/{kind}/{name}{below}")
        assert (answer.status_code, answer.json()["code"]) == (404, f"{kind[:-1]}_not_found"), method


@pytest.mark.parametrize("kind", ["models", "datasets", "jobs"])
def test_a_cursor_that_no_page_gave(api: httpx.Client, kind: str) -> None:
    for cursor in ("zzz", "%00"):
        answer = api.get(f"/v1/{kind}?cursor={cursor}")
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid_cursor")


def test_the_committed_document_has_not_drifted() -> None:
    """`make openapi` writes it anew."""
    written = subprocess.run(
        [sys.executable, "-m", "app.openapi"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert written.stdout == (ROOT / "openapi.json").read_text(encoding="utf-8")


def test_every_operation_documents_its_errors() -> None:
    document = json.loads((ROOT / "openapi.json").read_text(encoding="utf-8"))
    problem = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/v1/"):
                assert operation["responses"]["default"]["content"] == problem, (method, path)
                assert operation["security"], (method, path)
    assert set(document["components"]["schemas"]["Problem"]["required"]) == {"title", "status", "code", "detail"}


# Every error has a status


def error_classes() -> list[type[BitpressError]]:
    """Every error that a module of the service or of the workers' parent side defines."""
    for package in (app, workers.sandbox):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            importlib.import_module(module.name)
    found: list[type[BitpressError]] = []
    waiting: list[type[BitpressError]] = [BitpressError]
    while waiting:
        kind = waiting.pop()
        found.append(kind)
        waiting += kind.__subclasses__()
    return found


def test_every_error_has_a_status_of_its_own_or_its_parents() -> None:
    kinds = error_classes()
    assert len(kinds) > 20
    for kind in kinds:
        if kind.__module__ == "app.errors":
            assert kind in STATUS, f"{kind.__name__} is not in app.api.problems.STATUS"
        nearest = next(parent for parent in kind.__mro__ if parent in STATUS)
        assert nearest is not BitpressError or kind in (BitpressError, SettingMissing), kind
        assert kind.code == kind.code.lower()


@pytest.mark.parametrize("kind", error_classes(), ids=lambda kind: kind.__name__)
def test_every_error_becomes_a_problem_document(kind: type[BitpressError]) -> None:
    error = kind("It went wrong.", content_bytes=5) if kind is RangeNotSatisfiable else kind("It went wrong.")  # type: ignore[call-arg]
    response = problem_response(error)
    body = json.loads(bytes(response.body))
    assert response.status_code == status_of(error) == body["status"]
    assert response.media_type == MEDIA_TYPE
    assert body["title"] == HTTPStatus(body["status"]).phrase
    assert (body["code"], body["detail"]) == (kind.code, "It went wrong.")
    assert ("retry-after" in response.headers) == (body["retryable"] and body["status"] == 503)
    assert ("www-authenticate" in response.headers) == (body["status"] == 401)


# What nobody expects


@pytest.fixture
def made(tmp_path: Path) -> FastAPI:
    """The application in this process, so that its parts can be made to fail."""
    return create_app(Settings(data_dir=tmp_path, api_key=KEY, sweep_seconds=1000))


def ask(made: FastAPI, method: str, path: str) -> httpx.Response:
    """Start the application, ask it one thing, and stop it."""

    async def asked() -> httpx.Response:
        transport = httpx.ASGITransport(made, raise_app_exceptions=False)
        async with (
            made.router.lifespan_context(made),
            httpx.AsyncClient(transport=transport, base_url="http://here") as client,
        ):
            return await client.request(method, path, headers={"Authorization": f"Bearer {KEY}"})

    return asyncio.run(asked())


def test_an_exception_that_nobody_foresaw_is_a_problem_document_that_gives_nothing_away(made: FastAPI) -> None:
    def broken() -> NoReturn:
        raise RuntimeError("the password is hunter2")

    made.dependency_overrides[authenticated] = broken
    answer = ask(made, "GET", "/v1/models")
    assert answer.status_code == 500
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert (answer.json()["code"], answer.json()["retryable"]) == ("internal_error", False)
    assert "hunter2" not in answer.text


def test_a_database_without_tables_is_a_problem_document(made: FastAPI) -> None:
    """As it is between a deployment's first start and its migration."""
    answer = ask(made, "GET", "/v1/models")
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert (answer.status_code, answer.json()["code"]) == (503, "database_unavailable")


@pytest.mark.parametrize(
    ("method", "path", "status", "allow"),
    [
        ("GET", "/v1/nothing", 404, None),
        ("GET", "/", 404, None),
        ("PUT", "/v1/models", 405, "GET, HEAD, POST"),
        ("POST", "/healthz", 405, "GET, HEAD"),
        ("PATCH", "/v1/jobs/job_1", 405, "GET, HEAD, DELETE"),
    ],
)
def test_what_the_router_refuses_is_a_problem_document_too(
    made: FastAPI, method: str, path: str, status: int, allow: str | None
) -> None:
    answer = ask(made, method, path)
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert (answer.status_code, answer.json()["status"]) == (status, status)
    assert answer.json()["code"] == HTTPStatus(status).name.lower()
    assert answer.headers.get("allow") == allow
    assert "See /docs" not in answer.json()["detail"]


def test_who_asks_for_what_is_not_there_is_told_where_to_look(made: FastAPI) -> None:
    def told(method: str, path: str) -> str:
        detail: str = ask(made, method, path).json()["detail"]
        return detail

    assert told("GET", "/v2/nothing") == "There is nothing at /v2/nothing. GET /docs lists every path there is."
    assert told("GET", "/v1/modles") == "There is nothing at /v1/modles. Did you mean /v1/models?"
    assert told("PUT", "/v1/models") == "/v1/models does not take PUT; it takes GET, HEAD, POST."


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/models?limit=0", "limit"),
        ("/v1/models?limit=x", "limit"),
        ("/v1/jobs?state=done", "state"),
        ("/v1/jobs/job_1?wait=61", "wait"),
        ("/v1/jobs/job_1?wait=nan", "wait"),
        ("/v1/models?sha256=0", "sha256"),
    ],
)
def test_parameters_that_are_not_right_are_named(made: FastAPI, path: str, named: str) -> None:
    answer = ask(made, "GET", path)
    assert answer.headers["content-type"] == MEDIA_TYPE
    assert answer.status_code == 422
    assert f"query parameter {named}" in answer.json()["errors"][0]["detail"]
    assert answer.json()["errors"][0]["pointer"] == ""
