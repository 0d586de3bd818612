"""`bitpress report`, `bitpress frontier` and `bitpress compare`."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bitpress import Client

from tests.unit.client import documents
from tests.unit.client.conftest import Ran
from tests.unit.client.documents import ARTIFACT_ID, JOB_ID, MODEL_ID
from tests.unit.client.misbehaving import Service, answer, problem, text

Run = Callable[..., Ran]
REPORT = f"/v1/jobs/{JOB_ID}/report"
PAGE = "<!DOCTYPE html><title>モデル</title>"


def test_a_report_is_json_unless_a_page_is_asked_for(service: Service, run: Run) -> None:
    service.plan("GET", REPORT, answer({"samples": [1]}))
    assert run("report", JOB_ID).json() == {"samples": [1]}
    assert service.seen[0].headers["accept"] == "application/json"


@pytest.mark.parametrize("command", [("report",), ("jobs", "report")])
def test_a_page_becomes_a_file_of_that_name(
    service: Service, run: Run, tmp_path: Path, command: tuple[str, ...]
) -> None:
    service.plan("GET", REPORT, text(200, PAGE))
    ran = run(*command, JOB_ID, "--html", "--output", tmp_path)
    assert ran.code == 0
    assert ran.out.strip() == str(tmp_path / f"{JOB_ID}.html")
    assert (tmp_path / f"{JOB_ID}.html").read_text(encoding="utf-8") == PAGE
    assert service.seen[0].headers["accept"] == "text/html"


def test_a_report_can_go_into_a_file(service: Service, run: Run, tmp_path: Path) -> None:
    service.plan("GET", REPORT, answer({"name": "モデル"}))
    assert run("report", JOB_ID, "--output", tmp_path / "mine.json").code == 0
    assert '"モデル"' in (tmp_path / "mine.json").read_text(encoding="utf-8")


def test_what_is_not_there_is_no_file(service: Service, run: Run, tmp_path: Path) -> None:
    service.plan("GET", REPORT, problem(409, "report_not_ready", "The job is running and has no report."))
    ran = run("report", JOB_ID, "--html", "--output", tmp_path)
    assert ran.code != 0
    assert "report_not_ready" in ran.err
    assert list(tmp_path.iterdir()) == []


def frontier(**changes: Any) -> dict[str, Any]:
    def variant(name: str, technique: str | None, latency: float, *, pareto: bool) -> dict[str, Any]:
        return {
            "id": name,
            "kind": "artifact",
            "recipe": {"technique": technique} if technique else None,
            "measurements": [
                documents.measurement("latency_p50", latency, "ms"),
                documents.measurement("artifact_bytes", 251_300, "bytes"),
                documents.measurement("top1", 0.912, "fraction"),
                documents.measurement("latency_p50", 99.0, "ms"),
            ],
            "costs": {"latency_p50": {"ratio": latency / 12, "ci95": [latency / 12.5, latency / 11.5]}},
            "pareto": pareto,
            "constraints": [{"constraint": "top1>=0.9", "standing": "met"}],
        }

    group = {
        "target": "local",
        "fingerprint": "abcdef",
        "data": {"source": "evaluation", "dataset": "dst_1"},
        "axes": ["latency_p50", "artifact_bytes", "top1"],
        "variants": [
            variant(MODEL_ID, None, 12.0, pareto=False),
            variant(ARTIFACT_ID, "static_int8", 6.0, pareto=True),
        ],
        "best": {"variant": ARTIFACT_ID, "indistinguishable": [MODEL_ID], "reason": None} | changes,
    }
    return {"model": MODEL_ID, "minimize": "latency", "constraints": ["top1>=0.9"], "groups": [group], "older": False}


def test_the_frontier_is_a_line_each(service: Service, run: Run) -> None:
    service.plan("GET", f"/v1/models/{MODEL_ID}/frontier", answer(frontier()))
    ran = run("frontier", MODEL_ID, "--constraint", "top1>=0.9", "--minimize", "size", "--target", "local")
    assert service.seen[0].query == {"target": "local", "minimize": "size", "constraint": "top1>=0.9"}
    assert re.search(
        rf"{ARTIFACT_ID}\s+static_int8\s+6 ms\s+251 KB\s+91.2 %\s+0.5 \[0.48, 0.5217\]\s+met\s+best, pareto", ran.out
    )
    assert re.search(rf"{MODEL_ID}\s+original\s+12 ms", ran.out)
    assert f"not to be told from it: {MODEL_ID}" in ran.out
    assert "*" not in ran.out
    assert run("frontier", MODEL_ID, "--json").json() == frontier()


def test_doubts_and_conditions_of_a_frontier_are_told(service: Service, run: Run) -> None:
    found = frontier()
    [group] = found["groups"]
    group["conditions"] = {
        "runtime": "openvino", "version": "2026.1", "device": "CPU", "threads": 2, "batch": 1,
        "shapes": {"x": [1, 4, 256]},
    }  # fmt: skip
    _, doubtful = group["variants"]
    doubtful["measurements"][0]["flags"] = ["contended"]
    doubtful["comparisons"] = [{"name": "latency_p50", "ratio": 0.5, "flags": ["noisy"]}]
    service.plan("GET", f"/v1/models/{MODEL_ID}/frontier", answer(found))
    ran = run("frontier", MODEL_ID)
    assert "timed with openvino 2026.1, x 1×4×256, threads 2, batch 1\n" in ran.out
    assert re.search(rf"{ARTIFACT_ID}\s+static_int8\s+6 ms\*\s+251 KB\s+91.2 %\s+0.5 \[0.48, 0.5217\]\*", ran.out)
    assert re.search(rf"{MODEL_ID}\s+original\s+12 ms\s+251 KB", ran.out)
    assert "* measured under doubt: contended, noisy\n" in ran.out


def test_doubts_and_conditions_of_a_comparison_are_told(service: Service, run: Run) -> None:
    usual = {"runtime": "onnxruntime", "providers": ["CPUExecutionProvider"], "threads": 1, "batch": 1}

    def row(name: str, unit: str, first: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any]:
        values = [
            {
                "id": each,
                "measurement": None if more is None else documents.measurement(name, 0.5, unit, **more),
                "difference": None,
            }
            for each, more in ((MODEL_ID, first), (ARTIFACT_ID, other))
        ]
        return {"name": name, "values": values}

    found = {
        "reference": MODEL_ID,
        "entries": [],
        "measurements": [
            row("latency_p50", "ms", {"conditions": usual}, {"conditions": usual, "flags": ["unstable"]}),
            row("latency_p99", "ms", None, {"conditions": usual | {"callers": 4, "rate": 200.0, "threads": 2}}),
            row("top1", "fraction", {"flags": ["synthetic"]}, None),
            row("peak_memory", "bytes", {"conditions": usual | {"case": "step", "shapes": {"x": [1, 7]}}}, None),
        ],
    }
    service.plan("GET", "/v1/comparison", answer(found))
    ran = run("compare", MODEL_ID, ARTIFACT_ID)
    assert re.search(rf"latency_p50\s+{MODEL_ID}\s+0.5 ms\s*\n\s+{ARTIFACT_ID}\s+0.5 ms\*", ran.out)
    assert "latency_p99 (threads 2, callers 4, rate 200)" in ran.out
    assert "peak_memory (case step, x 1×7)" in ran.out
    assert "50.0 %*" in ran.out
    assert "* measured under doubt: synthetic, unstable\n" in ran.out


def test_why_none_is_best_is_told(service: Service, run: Run) -> None:
    nobody = frontier(variant=None, indistinguishable=[], reason="No variant satisfies top1>=0.9.")
    service.plan("GET", f"/v1/models/{MODEL_ID}/frontier", answer(nobody))
    assert "none is best: No variant satisfies top1>=0.9." in run("frontier", MODEL_ID).out


def test_a_model_without_jobs_has_nothing_to_show(service: Service, run: Run) -> None:
    service.plan("GET", f"/v1/models/{MODEL_ID}/frontier", answer(frontier() | {"groups": []}))
    ran = run("frontier", MODEL_ID)
    assert (ran.code, ran.out) == (0, "")
    assert "no job that succeeded" in ran.err


def test_differences_are_told_with_their_basis(service: Service, run: Run) -> None:
    def value(name: str, measured: float, difference: dict[str, Any] | None) -> dict[str, Any]:
        base = {"difference": None, "ci95": None, "ratio": None, "ratio_ci95": None, "differs_in": {}, "reason": None}
        told = None if difference is None else base | difference
        return {"id": name, "measurement": documents.measurement("latency_p50", measured, "ms"), "difference": told}

    faster = {"side": "better", "basis": "paired", "ratio": 0.5, "ratio_ci95": [0.4, 0.6], "difference": -6.0}
    other = {"side": "not_comparable", "basis": "none", "differs_in": {"target": ["a", "b"], "threads": [1, 2]}}
    found = {
        "reference": MODEL_ID,
        "entries": [],
        "measurements": [
            {"name": "latency_p50", "values": [value(MODEL_ID, 12.0, None), value(ARTIFACT_ID, 6.0, faster)]},
            {"name": "latency_p90", "values": [value(MODEL_ID, 12.0, None), value(ARTIFACT_ID, 6.0, other)]},
        ],
    }
    service.plan("GET", "/v1/comparison", answer(found))
    ran = run("compare", MODEL_ID, ARTIFACT_ID)
    assert re.search(rf"{ARTIFACT_ID}\s+6 ms\s+0.5 \[0.4, 0.6\]\s+better\s+paired", ran.out)
    assert re.search(rf"{ARTIFACT_ID}\s+6 ms\s+not comparable: other target, threads", ran.out)
    assert run("compare", MODEL_ID, ARTIFACT_ID, "--json").json() == found


@pytest.mark.parametrize("command", [("compare", MODEL_ID, JOB_ID), ("compare", "nonsense"), ("frontier", JOB_ID)])
def test_what_is_no_such_id_is_not_asked_about(service: Service, run: Run, command: tuple[str, ...]) -> None:
    assert run(*command).code == 2
    assert service.seen == []


def test_only_artifacts_and_models_are_compared(client: Client) -> None:
    with pytest.raises(ValueError, match="art_… or mdl_…"):
        client.compare(MODEL_ID, JOB_ID)
