"""What `bitpress jobs show` says of jobs that measured under several conditions."""

from typing import Any

import pytest
from bitpress.command.results import print_job

from tests.unit.client.documents import ended_job, measurement

AT = {"runtime": "onnxruntime", "threads": 1, "batch": 1, "rows": 8}
SEVERAL: list[dict[str, Any]] = [
    AT,
    {**AT, "batch": 8},
    {**AT, "runtime": "openvino"},
    {**AT, "case": "prefill", "shapes": {"x": [1, 128, 16]}},
    {**AT, "callers": 2},
    {**AT, "callers": 2, "rate": 20000.0},
]


def measured(scale: float, conditions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        measurement(name, scale * (1 + turn) * factor, unit, conditions=each)
        for turn, each in enumerate(conditions)
        for name, unit, factor in (("latency_p50", "ms", 1), ("latency_p99", "ms", 2), ("throughput", "1/s", 3000))
    ]


def printed(capsys: pytest.CaptureFixture[str], job: dict[str, Any]) -> list[str]:
    print_job(job)  # type: ignore[arg-type]
    return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")


def optimized(conditions: list[dict[str, Any]], comparisons: list[dict[str, Any]]) -> dict[str, Any]:
    job = ended_job(baseline={"measurements": measured(1.0, conditions)})
    # In another order than the original's: what is said is no matter of turns.
    job["candidates"][0] |= {"measurements": measured(0.5, conditions)[::-1], "comparisons": comparisons}
    return job


def test_each_condition_has_a_row_for_each_variant(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, optimized(SEVERAL, []))

    start = lines.index("holds for variant p50 ms p99 ms rows/s × fp32") + 2
    assert lines[start : start + 12] == [
        "onnxruntime, threads 1, batch 1 fp32 1.000 2.000 3000 -",
        "onnxruntime, threads 1, batch 1 static_int8 0.500 1.000 1500 -",
        "onnxruntime, threads 1, batch 8 fp32 2.000 4.000 6000 -",
        "onnxruntime, threads 1, batch 8 static_int8 1.000 2.000 3000 -",
        "openvino, threads 1, batch 1 fp32 3.000 6.000 9000 -",
        "openvino, threads 1, batch 1 static_int8 1.500 3.000 4500 -",
        "onnxruntime, case prefill, x 1×128×16, threads 1, batch 1 fp32 4.000 8.000 12000 -",
        "onnxruntime, case prefill, x 1×128×16, threads 1, batch 1 static_int8 2.000 4.000 6000 -",
        "onnxruntime, threads 1, batch 1, callers 2 fp32 5.000 10.0 15000 -",
        "onnxruntime, threads 1, batch 1, callers 2 static_int8 2.500 5.000 7500 -",
        "onnxruntime, threads 1, batch 1, callers 2, rate 20000 fp32 6.000 12.0 18000 -",
        "onnxruntime, threads 1, batch 1, callers 2, rate 20000 static_int8 3.000 6.000 9000 -",
    ]


def test_a_paired_ratio_stands_where_it_was_measured_and_nowhere_else(capsys: pytest.CaptureFixture[str]) -> None:
    conditions = [{"threads": 1, "batch": 1, "runtime": "onnxruntime"}, {"threads": 1, "batch": 1, "case": "prefill"}]
    compared: list[dict[str, Any]] = [
        {"name": "latency_p50", "ratio": 0.25, "conditions": conditions[0], "flags": ["noisy"]},
        {"name": "latency_p50", "ratio": 0.125, "conditions": conditions[1], "within_noise": True},
    ]
    lines = printed(capsys, optimized(SEVERAL, compared))

    start = lines.index("holds for variant p50 ms p99 ms rows/s × fp32") + 2
    ratios = [line.split("static_int8 ")[1].split(" ", 3)[3] for line in lines[start : start + 12] if "static" in line]
    assert ratios == ["4.00*", "-", "-", "8.00 (noise)", "-", "-"]
    assert "* measured under doubt: noisy" in lines


def test_one_condition_is_not_told_twice(capsys: pytest.CaptureFixture[str]) -> None:
    assert not [line for line in printed(capsys, optimized([AT], [])) if line.startswith("holds for")]


def test_a_job_that_measured_one_model_names_the_runtime_where_there_are_several(
    capsys: pytest.CaptureFixture[str],
) -> None:
    several = printed(capsys, ended_job(candidates=[], baseline={"measurements": measured(1.0, SEVERAL)}))
    one = printed(capsys, ended_job(candidates=[], baseline={"measurements": measured(1.0, SEVERAL[:2])}))

    assert "latency_p50 3.000 ms openvino, threads 1, batch 1, rows 8" in several
    assert "latency_p50 4.000 ms onnxruntime, case prefill, x 1×128×16, threads 1, batch 1, rows 8" in several
    assert "latency_p50 2.000 ms threads 1, batch 8, rows 8" in one
