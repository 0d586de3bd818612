"""Documents as the service answers them."""

from typing import Any

MODEL_ID, DATASET_ID = "mdl_01kat0000000000000000000m1", "dst_01kat0000000000000000000d1"
JOB_ID, ARTIFACT_ID = "job_01kat0000000000000000000j1", "art_01kat0000000000000000000a1"
CANDIDATE_ID = "cnd_01kat0000000000000000000c1"


def model(**changes: Any) -> dict[str, Any]:
    return {
        "id": MODEL_ID,
        "name": "net",
        "file_name": "net.onnx",
        "format": "onnx",
        "bytes": 251_300,
        "sha256": "0" * 64,
        "state": "ready",
        "error": None,
        "inputs": [{"name": "image", "dtype": "float32", "shape": ["batch", 1, 28, None]}],
        "outputs": [{"name": "scores", "dtype": "float32", "shape": ["batch", 10]}],
        "opset": 17,
        "parameters": 62_410,
        "operators": {"Conv": 12, "Relu": 11},
        "quantized": False,
        "dynamic": True,
        "external_data": False,
        "notes": [],
        "created_at": "2026-11-22T10:00:00.000Z",
    } | changes


def dataset(**changes: Any) -> dict[str, Any]:
    return {
        "id": DATASET_ID,
        "name": "images",
        "file_name": "images.npz",
        "format": "npz",
        "bytes": 1_600_000,
        "sha256": "1" * 64,
        "state": "ready",
        "error": None,
        "rows": 2000,
        "fields": [{"name": "image", "dtype": "float32", "shape": [1, 28, 28]}],
        "preprocess": None,
        "notes": [],
        "created_at": "2026-11-22T10:00:00.000Z",
    } | changes


def measurement(name: str, value: float | None, unit: str, **changes: Any) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "better": "lower", "method": "measured"} | changes


def job(**changes: Any) -> dict[str, Any]:
    return {
        "id": JOB_ID,
        "kind": "optimize",
        "name": "kiosk",
        "state": "queued",
        "gate": None,
        "stage": None,
        "progress": 0.0,
        "message": None,
        "attempt": 0,
        "queue_position": 3,
        "waiting_for": "2 jobs ahead of it",
        "target": "local",
        "model": MODEL_ID,
        "spec": {"recipe": {"technique": "static_int8"}, "goal": None, "metrics": []},
        "labels": {"team": "kiosk"},
        "baseline": None,
        "candidates": [],
        "chosen": None,
        "verdicts": [],
        "conclusion": None,
        "notes": [],
        "artifacts": [],
        "error": None,
        "created_at": "2026-11-22T10:00:00.000Z",
        "started_at": None,
        "ended_at": None,
        "links": {},
    } | changes


def ended_job(**changes: Any) -> dict[str, Any]:
    baseline = [
        measurement("artifact_bytes", 251_300, "bytes"),
        measurement("latency_p50", 1.2, "ms", ci95=[1.19, 1.21]),
        measurement("latency_p99", 1.5, "ms"),
        measurement("top1", 0.912, "fraction", better="higher", ci95=[0.9, 0.924]),
    ]
    candidate = [
        measurement("artifact_bytes", 81_000, "bytes"),
        measurement("latency_p50", 0.8, "ms", flags=["noisy"]),
        measurement("latency_p99", None, "ms", method="absent", reason="too few samples"),
        measurement("top1", 0.908, "fraction", better="higher", ci95=[0.896, 0.92]),
        measurement("agreement", 0.985, "fraction", better="higher"),
    ]
    return (
        job(
            state="succeeded",
            gate="met",
            progress=1.0,
            queue_position=None,
            waiting_for=None,
            spec={
                "recipe": {"technique": "static_int8"},
                "goal": {"constraints": [{"metric": "top1", "max_drop": 0.01}]},
                "metrics": [],
            },
            baseline={"measurements": baseline},
            candidates=[
                {
                    "id": CANDIDATE_ID,
                    "recipe": {"technique": "static_int8"},
                    "measurements": candidate,
                    "comparisons": [
                        {"name": "latency_p50", "ratio": 1 / 1.5, "ci95": [0.64, 0.7], "within_noise": False}
                    ],
                    "verdict": "met",
                    "artifact": ARTIFACT_ID,
                }
            ],
            chosen=CANDIDATE_ID,
            verdicts=[{"constraint": {"metric": "top1", "max_drop": 0.01}, "verdict": "met", "reason": None}],
            conclusion="static_int8 is 1.50 times as fast.",
            artifacts=[ARTIFACT_ID],
            ended_at="2026-11-22T10:01:00.000Z",
        )
        | changes
    )


def artifact(data: bytes, sha256: str, **changes: Any) -> dict[str, Any]:
    return {
        "id": ARTIFACT_ID,
        "job": JOB_ID,
        "candidate": CANDIDATE_ID,
        "file_name": "net.static_int8.onnx",
        "bytes": len(data),
        "sha256": sha256,
        "created_at": "2026-11-22T10:01:00.000Z",
        "links": {},
    } | changes
