"""The API is what its OpenAPI document says, whatever it is asked; and every error is a problem document."""

import asyncio
import importlib
import json
import os
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
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
    assert "Tested: 27" in run.stdout, run.stdout
    assert "Traceback" not in server.log.read_text()


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
        ("PUT", "/v1/models", 405, "GET, POST"),
        ("POST", "/healthz", 405, "GET"),
        ("PATCH", "/v1/jobs/job_1", 405, "GET, DELETE"),
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
