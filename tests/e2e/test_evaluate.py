"""Jobs that measure a model or an artifact and change nothing, over HTTP."""

from typing import Any

import pytest

from tests.parts.service import Service

GOAL = {"constraints": [{"metric": "top1", "min": 0.5}, {"metric": "latency_p50", "max": 10_000}]}


def value(measurements: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return next(found for found in measurements if found["name"] == name)


def evaluated(service: Service, model: str, **spec: Any) -> dict[str, Any]:
    job = service.submit(kind="evaluate", model=model, **spec)
    assert job["kind"] == "evaluate"
    body = service.ended(job["id"])
    assert body["state"] == "succeeded", body["error"]
    return body


@pytest.fixture(scope="module")
def optimized(service: Service) -> dict[str, Any]:
    """A job that made an artifact, judged on the same rows."""
    job = service.submit(
        model=service.example("fashion_mobilenet.onnx"),
        datasets={role: service.some_rows(f"{role}.npz") for role in ("calibration", "evaluation")},
        recipe={"technique": "static_int8", "calibration": {"samples": 64}},
    )
    body = service.ended(job["id"])
    assert body["state"] == "succeeded", body["error"]
    return body


def test_a_model_is_measured_and_nothing_is_made(service: Service) -> None:
    model = service.example("fashion_mobilenet.onnx")
    body = evaluated(service, model, datasets={"evaluation": service.some_rows("evaluation.npz")}, goal=GOAL)
    assert body["model"] == model
    assert body["gate"] == "met"
    assert (body["candidates"], body["artifacts"], body["chosen"]) == ([], [], None)
    found = body["baseline"]["measurements"]
    for name in ("latency_p50", "first_run", "load_time", "cpu_per_inference", "peak_memory", "steady_memory"):
        assert value(found, name)["value"] > 0
    assert value(found, "top1")["value"] > 0.8
    assert value(found, "latency_p50")["conditions"]["children"] >= 2
    assert "a call" in body["conclusion"]
    report = service.api.get(body["links"]["report"]).json()
    assert report["candidates"] == []
    assert len(report["samples"]) >= 2
    assert service.api.get(f"/v1/jobs/{body['id']}").json()["spec"]["recipe"] is None


def test_an_artifact_is_measured_with_what_it_requires(service: Service, optimized: dict[str, Any]) -> None:
    [artifact] = optimized["artifacts"]
    body = evaluated(service, artifact, datasets={"evaluation": service.some_rows("evaluation.npz")})
    assert body["model"] == artifact
    assert body["gate"] == "none"
    mine, before = body["baseline"]["measurements"], optimized["candidates"][0]["measurements"]
    for name in ("top1", "artifact_bytes"):
        assert value(mine, name)["value"] == value(before, name)["value"]
    options = value(mine, "latency_p50")["conditions"]["session_options"]
    assert options == optimized["candidates"][0]["session_options"]


def test_cases_have_measurements_of_their_own(service: Service) -> None:
    cases = {"single": {"image": [1, 1, 28, 28]}, "eight": {"image": [8, 1, 28, 28]}}
    body = evaluated(service, service.example("fashion_mobilenet.onnx"), measure={"cases": cases})
    timed = [found for found in body["baseline"]["measurements"] if found["name"] == "latency_p50"]
    assert [found["conditions"].get("case") for found in timed] == [None, "single", "eight"]
    assert [found["conditions"]["batch"] for found in timed] == [1, 1, 8]


def test_load_is_measured_where_it_is_asked_for(service: Service) -> None:
    load = {"callers": [1, 2], "rates": [50.0], "seconds": 0.4}
    body = evaluated(service, service.example("fashion_dense.onnx"), measure={"load": load})
    found = [each for each in body["baseline"]["measurements"] if "callers" in each["conditions"]]
    kinds = [(each["conditions"]["callers"], each["conditions"].get("rate")) for each in found]
    assert dict.fromkeys(kinds) == dict.fromkeys([(1, None), (2, None), (2, 50.0)])
    for each in found:
        assert (each["value"] is None) == (each["method"] == "absent")
    assert value(found, "throughput")["value"] > 0


def test_an_artifact_that_waits_to_be_evaluated_stays(service: Service, optimized: dict[str, Any]) -> None:
    [artifact] = optimized["artifacts"]
    waiting = service.submit(kind="evaluate", model=artifact, priority=0)
    answers = [service.api.delete(f"/v1/{kind}") for kind in (f"artifacts/{artifact}", f"jobs/{optimized['id']}")]
    service.api.post(f"/v1/jobs/{waiting['id']}/cancel")
    assert [(answer.status_code, answer.json()["code"]) for answer in answers] == [(409, "artifact_in_use")] * 2


@pytest.mark.parametrize(
    ("changes", "errors"),
    [
        ({"recipe": {"technique": "float16"}}, [("/recipe", "recipe_not_used")]),
        ({"metrics": ["agreement"]}, [("/metrics/0", "nothing_to_compare")]),
        (
            {"goal": {"constraints": [{"metric": "latency_p50", "max_drop": 1}]}},
            [("/goal/constraints/0", "nothing_to_compare")],
        ),
        ({"model": "art_" + "0" * 26}, [("/model", "artifact_not_found")]),
        ({"measure": {"cases": {"x": {"picture": [1]}}}}, [("/measure/cases/x/picture", "shapes_do_not_fit")]),
    ],
)
def test_what_makes_no_sense_is_refused_at_its_place(
    service: Service, changes: dict[str, Any], errors: list[tuple[str, str]]
) -> None:
    body = {"kind": "evaluate", "model": service.example("fashion_mobilenet.onnx"), **changes}
    answer = service.api.post("/v1/jobs", json=body)
    assert answer.status_code == 422
    assert [(found["pointer"], found["code"]) for found in answer.json()["errors"]] == errors


def test_an_artifact_is_no_beginning_of_an_optimization(service: Service, optimized: dict[str, Any]) -> None:
    body = {"model": optimized["artifacts"][0], "recipe": {"technique": "float16"}}
    answer = service.api.post("/v1/jobs", json=body)
    assert [(found["pointer"], found["code"]) for found in answer.json()["errors"]] == [
        ("/model", "artifact_not_optimizable")
    ]
    assert optimized["model"] in answer.json()["detail"]


def test_what_was_measured_before_time_was_up_is_kept(service: Service) -> None:
    job = service.submit(
        kind="evaluate",
        model=service.example("fashion_mobilenet.onnx"),
        datasets={"evaluation": service.some_rows("evaluation.npz")},
        measure={"load": {"callers": [1], "seconds": 60}},
        limits={"run_seconds": 12},
    )
    body = service.ended(job["id"])
    assert (body["state"], body["error"]["code"]) == ("failed", "time_limit_exceeded")
    found = body["baseline"]["measurements"]
    assert value(found, "top1")["value"] > 0.8
    assert value(found, "latency_p50")["value"] > 0
    assert value(found, "latency_p50")["flags"] == ["incomplete"]
    assert (body["gate"], body["artifacts"]) == (None, [])
    assert "did not come to its end" in " ".join(body["notes"])
