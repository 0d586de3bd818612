"""What is left of a job that fails."""

import math
from typing import Any

import pytest

from app.domain.partial import UNFINISHED, partial_outcome
from tests.unit.evaluation.conftest import latency_replicate, memory

BASELINE = {"measurements": [{"name": "top1", "value": 0.9}]}
MADE = {
    "candidates": [{"id": "cnd_a", "recipe": {"technique": "float16"}, "measurements": [{"name": "kl", "value": 1}]}]
}


def result(**values: Any) -> dict[str, Any]:
    return latency_replicate(scatter=0.0, **values).model_dump(mode="json")


def test_before_anything_was_measured_there_is_nothing() -> None:
    assert partial_outcome({}) is None
    assert partial_outcome({"inspect": {"model": "m.onnx"}}) is None


def test_finished_processes_are_told_and_flagged() -> None:
    results = {
        "baseline": BASELINE,
        "candidates": MADE,
        "latency-1": result(original=10, artifact=8, candidate="cnd_a"),
        "latency-2": result(original=12, artifact=9, candidate="cnd_a", replicate=2),
        "latency-3": result(original=5, artifact=4, candidate="cnd_a", threads=2),
        "precision-3": {"wide": []},
    }
    found = partial_outcome(results)
    assert found is not None
    assert found["baseline"]["measurements"][0] == BASELINE["measurements"][0]
    one, two = named(found["baseline"], "latency_p50")
    assert (one["value"], one["count"], one["conditions"]["children"], one["flags"]) == (11, 400, 2, ["incomplete"])
    assert (two["value"], two["conditions"]["threads"]) == (5, 2)
    [candidate] = found["candidates"]
    assert candidate["id"] == "cnd_a"
    assert candidate["measurements"][0]["value"] == 1
    assert [each["value"] for each in named(candidate, "latency_p50")] == [8.5, 4]


def named(part: dict[str, Any], name: str) -> list[dict[str, Any]]:
    return [found for found in part["measurements"] if found["name"] == name]


def test_all_that_a_process_says_is_told() -> None:
    """By hand: medians over the processes of what each says; memory of those that had the model alone."""
    results = {
        "baseline": BASELINE,
        "candidates": MADE,
        "latency-1": result(original=10, artifact=8, candidate="cnd_a", batch=4, memory=memory("original", 1000)),
        "latency-2": result(
            original=12, artifact=9, candidate="cnd_a", batch=4, replicate=2, memory=memory("artifact", 600)
        ),
    }
    found = partial_outcome(results)
    assert found is not None
    expected = {
        "latency_mean": (11, 8.5),
        "throughput": ((4000 / 10 + 4000 / 12) / 2, (4000 / 8 + 4000 / 9) / 2),
        "load_time": (21.5, 13.5),
        "first_run": (33, 25.5),
        "cpu_per_inference": (0.011 / 4, 0.0085 / 4),
        "peak_memory": (1000, 600),
        "steady_memory": (990, 590),
    }
    for name, values in expected.items():
        for part, value in zip((found["baseline"], found["candidates"][0]), values, strict=True):
            [one] = named(part, name)
            assert one["value"] == pytest.approx(value), name
            assert one["flags"] == ["incomplete"]
            assert one["conditions"]["batch"] == 4
            assert one["conditions"]["children"] == (1 if name.endswith("memory") else 2)


def test_loads_are_told_by_what_they_were() -> None:
    def load(subject: str, *milliseconds: float) -> dict[str, Any]:
        points = [
            {"callers": 1, "rate": None, "seconds": 2.0, "behind": 0, "samples_ms": list(milliseconds)},
            {"callers": 2, "rate": 50.0, "seconds": 4.0, "behind": 0, "samples_ms": list(milliseconds)},
        ]
        conditions = {"runtime": "onnxruntime"}
        return {"kind": "load", "subject": subject, "threads": 1, "batch": 3, "points": points} | {
            "conditions": conditions
        }

    results = {
        "baseline": BASELINE,
        "candidates": MADE,
        "load-1": load("original", 1, 2, 3),
        "load-2": load("original", 4, 5, 6),
        "load-3": load("cnd_a", 7),
    }
    found = partial_outcome(results)
    assert found is not None
    one, two = named(found["baseline"], "latency_p50")
    assert (one["value"], one["conditions"]["callers"], "rate" in one["conditions"]) == (3.5, 1, False)
    assert (two["value"], two["conditions"]["callers"], two["conditions"]["rate"]) == (3.5, 2, 50.0)
    assert [each["value"] for each in named(found["baseline"], "throughput")] == [4.5, 2.25]
    assert [each["value"] for each in named(found["candidates"][0], "latency_p50")] == [7, 7]


def test_what_a_baseline_had_that_did_not_end() -> None:
    unfinished = {"measurements": [{"name": "top1", "value": 0.5}], "notes": ["It stopped at row 7."]}
    found = partial_outcome({"inspect": {}, UNFINISHED: unfinished})
    assert found is not None
    assert found["baseline"] == {"measurements": unfinished["measurements"]}
    assert found["notes"][1:] == ["It stopped at row 7."]
    again = partial_outcome({UNFINISHED: unfinished, "baseline": BASELINE})
    assert again is not None
    assert again["baseline"]["measurements"] == BASELINE["measurements"], "a later attempt came further"


GOOD = result(original=10, artifact=8, candidate="cnd_a")

MALFORMED: list[dict[str, Any]] = [
    {"kind": "latency"},
    GOOD | {"conditions": None},
    GOOD | {"conditions": {"original": []}},
    GOOD | {"threads": []},
    GOOD | {"same": None, "against": None},
    GOOD | {"against": {"first": 7, "second": 7}},
    GOOD | {"against": {"first": [["a"]], "second": [["a"]]}},
    GOOD | {"against": {"first": [], "second": []}},
    GOOD | {"batch": 0, "cpu_seconds": {"original": "x"}, "load_ms": [], "first_ms": None},
    GOOD | {"against": {"first": [[1e-320]], "second": [[0.0]]}},
    GOOD | {"memory": [1]},
    {"kind": "load", "subject": "original"},
    {"kind": "load", "subject": "original", "threads": 1, "batch": 1, "conditions": {}, "points": [{"callers": 1}]},
    {"kind": "load", "subject": "original", "threads": 1, "batch": 1, "conditions": {}, "points": [3]},
]


@pytest.mark.parametrize("place", range(len(MALFORMED)))
def test_what_a_child_wrote_that_makes_no_sense_is_left_out(place: int) -> None:
    """Nobody has checked it yet, and the failure must be recorded all the same."""
    found = partial_outcome({"baseline": BASELINE, "latency-1": MALFORMED[place], "latency-2": GOOD})
    assert found is not None
    for one in found["baseline"]["measurements"]:
        assert math.isfinite(one["value"]), one
    assert named(found["baseline"], "latency_p50")


@pytest.mark.parametrize(
    "results",
    [
        {"baseline": {"measurements": None}},
        {"baseline": {"measurements": [3, None], "notes": [5]}},
        {"baseline": BASELINE, "candidates": {"candidates": [{"id": "cnd_a"}, 3]}},
        {"baseline": BASELINE, "candidates": {"candidates": 3}},
    ],
)
def test_nor_does_what_is_missing_do_harm(results: dict[str, Any]) -> None:
    found = partial_outcome(results)
    assert found is not None
    assert found["candidates"] == []


def test_a_model_that_was_timed_alone_has_its_own_samples() -> None:
    alone = result(original=7, candidate="original") | {"against": None}
    alone["conditions"] = {"original": alone["conditions"]["original"]}
    found = partial_outcome({"baseline": BASELINE, "latency-1": alone})
    assert found is not None
    assert [each["value"] for each in named(found["baseline"], "latency_p50")] == [7]
    assert found["candidates"] == []
