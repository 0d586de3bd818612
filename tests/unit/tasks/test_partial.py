"""What is left of a job that fails."""

from typing import Any

from tests.unit.evaluation.conftest import latency_replicate
from workers.tasks.partial import partial_outcome

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
    top1, one, two = found["baseline"]["measurements"]
    assert top1 == BASELINE["measurements"][0]
    assert (one["value"], one["conditions"]["children"], one["flags"]) == (11, 2, ["incomplete"])
    assert (two["value"], two["conditions"]["threads"]) == (5, 2)
    [candidate] = found["candidates"]
    assert candidate["id"] == "cnd_a"
    assert [each["value"] for each in candidate["measurements"]] == [1, 8.5, 4]


def test_a_model_that_was_timed_alone_has_its_own_samples() -> None:
    alone = result(original=7, candidate="original") | {"against": None}
    alone["conditions"] = {"original": alone["conditions"]["original"]}
    found = partial_outcome({"baseline": BASELINE, "latency-1": alone})
    assert found is not None
    assert found["baseline"]["measurements"][-1]["value"] == 7
    assert found["candidates"] == []
