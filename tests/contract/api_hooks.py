"""What Schemathesis is told of this API: which ids exist, and that every error is a problem document.

It loads this file itself, in a process of its own (`SCHEMATHESIS_HOOKS`).
"""

import json
import os
import zlib
from http import HTTPStatus
from typing import Any

import schemathesis
from schemathesis.generation import GenerationMode

KNOWN: dict[str, list[str]] = json.loads(os.environ["BITPRESS_KNOWN_IDS"])
"""Ids by the name of the path parameter that takes them."""


@schemathesis.hook
def before_call(context: schemathesis.HookContext, case: schemathesis.Case, kwargs: dict[str, Any]) -> None:
    """Let half of the requests meet something that is there, so that good answers are checked too."""
    chance = zlib.crc32(repr((case.path_parameters, case.query, case.body)).encode("utf-8", "replace"))
    for name in case.path_parameters or {}:
        if name in KNOWN and chance % 2 and case.method != "DELETE":
            case.path_parameters[name] = KNOWN[name][chance // 2 % len(KNOWN[name])]
    if case.meta is None or case.meta.generation.mode is not GenerationMode.POSITIVE:
        return
    if isinstance(case.body, dict) and "recipe" in case.body:
        case.body["model"] = KNOWN["model_id"][0]
        case.body.pop("datasets", None)
        case.headers.pop("idempotency-key", None)  # they are few, and so used before
    if "wait" in case.query:
        case.query["wait"] = min(float(case.query["wait"]), 0.1)


@schemathesis.check
def errors_are_problem_documents(
    ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case
) -> None:
    if response.status_code < 400 or case.operation.path == "/readyz":
        return
    assert response.headers["content-type"] == ["application/problem+json"]
    problem = response.json()
    assert set(problem) == {"type", "title", "status", "code", "detail", "errors", "stage", "retryable"}
    assert problem["status"] == response.status_code
    assert problem["title"] == HTTPStatus(response.status_code).phrase
    assert problem["code"].replace("_", "").isalnum()
    assert problem["code"] == problem["code"].lower()
    assert len(problem["detail"]) > 10
    for error in problem["errors"]:
        assert set(error) == {"pointer", "code", "detail"}
        assert error["pointer"] == "" or error["pointer"].startswith("/")
    if response.status_code == HTTPStatus.UNPROCESSABLE_ENTITY and problem["errors"]:
        assert problem["code"] in {error["code"] for error in problem["errors"]} | {"invalid_request"}
