"""Measurements of one model under several conditions, as a job reports them."""

from typing import Any

RUNTIMES = ("onnxruntime", "openvino")
CALLERS = (1, 2, 4)
RATES = (200.0, 20000.0)


def measured(name: str, value: float | None, half: float = 0.01, **conditions: Any) -> dict[str, Any]:
    """A measurement with an interval of this half width as a share of the value; none where that is 0."""
    unit = {"throughput": "1/s", "peak_memory": "bytes", "steady_memory": "bytes"}.get(name, "ms")
    ends = None if value is None or not half else [value * (1 - half), value * (1 + half)]
    return {"name": name, "value": value, "unit": unit, "ci95": ends, "conditions": conditions, "flags": []}


def under_every_condition(scale: float = 1.0) -> list[dict[str, Any]]:
    """Single calls on both runtimes, with two cases, threads and batches; load by callers and rates."""
    found = []
    at = {"runtime": "onnxruntime", "threads": 1, "batch": 1}
    singles = [
        *({**at, "threads": threads, "batch": batch} for threads in (1, 2) for batch in (1, 8)),
        {**at, "runtime": "openvino"},
        {**at, "case": "prefill", "shapes": {"x": [1, 128, 16]}},
        {**at, "case": "step", "shapes": {"x": [1, 1, 16]}},
    ]
    for turn, conditions in enumerate(singles):
        found.append(measured("latency_p50", scale * (1 + turn), **conditions))
        found.append(measured("latency_p99", scale * (2 + turn), **conditions))
        found.append(measured("throughput", 1000 / (scale * (1 + turn)), **conditions))
    loads = [{**at, "callers": callers} for callers in CALLERS]
    loads += [{**at, "callers": CALLERS[-1], "rate": rate} for rate in RATES]
    for turn, conditions in enumerate(loads):
        found.append(measured("throughput", 100.0 * (1 + turn) / scale, **conditions))
        found.append(measured("latency_p50", scale * (20 + turn), **conditions))
        found.append(measured("latency_p99", scale * (30 + turn), **conditions))
    for one in found[-3:]:
        one["flags"] = ["saturated"]
    return found


def document(artifact: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    """A report of an original under every condition, and of an artifact."""
    candidate = {"id": "cnd_1", "recipe": {"technique": "static_int8"}, "measurements": artifact} | more
    return {"baseline": {"measurements": under_every_condition()}, "candidates": [candidate], "chosen": "cnd_1"}
