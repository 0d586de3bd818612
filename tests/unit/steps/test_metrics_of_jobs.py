"""Metrics of every kind through the steps of a job: baseline, candidates and gate."""

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.parts import models
from tests.unit.steps.conftest import Job, StepFailed, vectors
from workers.evaluation.paired import paired_drops
from workers.evaluation.scores import read_scores
from workers.steps import outputs

ROWS = 48


def prepared(job: Job, **arrays: NDArray[Any]) -> Job:
    job.save_model(models.mlp())
    job.save_dataset("evaluation", x=vectors(ROWS, seed=2), **arrays)
    return job


def by_name(measurements: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {entry["name"]: entry for entry in measurements}


def outputs_of(job: Job) -> NDArray[Any]:
    prepared(job)
    job.run_until("baseline")
    with np.load(job.scratch / "baseline/outputs.npz") as kept:
        return np.asarray(kept["y"])


def judged(job: Job) -> dict[str, Any]:
    job.run_until("candidates")
    job.run("gate", measurements=job.measure())
    found: dict[str, Any] = json.loads((job.scratch / "gate/result.json").read_text())
    return found


def test_metrics_of_both_forms_come_through_to_a_verdict(job: Job) -> None:
    labels = outputs_of(job).argmax(axis=1)
    labels[::8] = (labels[::8] + 1) % 5
    groups = np.repeat([f"photo {number}" for number in range(ROWS // 4)], 4)
    prepared(job, labels=labels, groups=groups, slices=np.arange(ROWS) % 2)
    constraints = [{"metric": name, "max_drop": 0.3} for name in ("top1", "f1", "auc")]
    job.spec = {"metrics": [{"name": "f1", "options": {"average": "weighted"}}], "goal": {"constraints": constraints}}

    found = judged(job)

    before, after = by_name(found["baseline"]), by_name(found["candidates"][0]["measurements"])
    for name in ("top1", "f1", "auc"):
        for measured in (before[name], after[name]):
            assert measured["ci95"][0] <= measured["value"] <= measured["ci95"][1]
            assert measured["conditions"]["groups"] == ROWS // 4
    assert before["f1"]["conditions"]["options"] == {"average": "weighted"}
    assert before["top1"]["value"] == pytest.approx(7 / 8)
    assert {verdict["constraint"]["metric"] for verdict in found["verdicts"]} == {"top1", "f1", "auc"}
    for verdict in found["verdicts"]:
        assert verdict["ci"][0] <= verdict["value"] <= verdict["ci"][1]
        assert verdict["worst_slice"]["slice"] in ("0", "1")
        assert "slices" in verdict["reason"]
    scores = read_scores(job.scratch / "baseline")
    assert scores["f1"].options == {"average": "weighted"}
    assert scores["top1"].groups is not None


def test_without_a_goal_the_worst_slice_is_a_note(job: Job) -> None:
    prepared(job, labels=outputs_of(job).argmax(axis=1), slices=np.repeat(["day", "night"], ROWS // 2))
    notes = judged(job)["notes"]
    assert any(note.startswith("top1: Of 2 slices ") and "bounds that hold for all" in note for note in notes)


def test_labels_that_are_numbers(job: Job) -> None:
    """Under a name of their own, with five of them a row."""
    wanted = outputs_of(job) + 0.1 * np.random.default_rng(4).standard_normal((ROWS, 5))
    prepared(job, targets=wanted.astype(np.float32))
    job.spec = {"metrics": [{"name": name, "labels": "targets"} for name in ("mae", "rmse", "r2")]}

    found = by_name(job.run_until("baseline")["measurements"])

    assert found["mae"]["value"] == pytest.approx(0.1 * np.sqrt(2 / np.pi), rel=0.2)
    assert found["rmse"]["value"] == pytest.approx(0.1, rel=0.2)
    assert found["r2"]["conditions"]["labels"] == "targets"
    assert "top1" not in found


def test_labels_that_are_numbers_leave_top1_out(job: Job) -> None:
    prepared(job, labels=outputs_of(job))
    job.spec = {"metrics": ["mae"]}
    found = by_name(job.run_until("baseline")["measurements"])
    assert found["mae"]["value"] == pytest.approx(0, abs=1e-6)
    assert "top1" not in found


def test_labels_of_the_wrong_kind_are_refused(job: Job) -> None:
    prepared(job, labels=np.full(ROWS, 0.5, np.float32))
    job.spec = {"metrics": ["auc"]}
    with pytest.raises(StepFailed) as failed:
        job.run("inspect")
    assert failed.value.code == "dataset_labels_not_integers"


def test_a_set_of_one_class_has_no_area_and_says_why(job: Job) -> None:
    prepared(job, labels=np.ones(ROWS, np.int64))
    job.spec = {"metrics": ["auc", "top1"]}
    found = by_name(job.run_until("baseline")["measurements"])
    assert found["auc"]["value"] is None
    assert "one class alone, 1" in found["auc"]["reason"]
    assert found["top1"]["value"] is not None


def test_options_that_are_not_the_metric_s_are_refused(job: Job) -> None:
    prepared(job, labels=np.ones(ROWS, np.int64))
    job.spec = {"metrics": [{"name": "ece", "options": {"bins": "many"}}]}
    with pytest.raises(StepFailed) as failed:
        job.run_until("baseline")
    assert failed.value.code == "metric_options_invalid"
    assert "bins" in failed.value.detail


def test_outputs_too_large_to_be_kept_are_judged_on_every_row(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """What compares with labels alone comes out as if all were kept; what compares with the original, of the rest."""
    labels = outputs_of(job).argmax(axis=1)
    labels[::8] = (labels[::8] + 1) % 5
    prepared(job, labels=labels, slices=np.arange(ROWS) % 2)
    job.spec = {"metrics": ["top1", "f1"]}
    plain = [by_name(job.run("baseline")["measurements"]), by_name(candidate_of(job)["measurements"])]
    monkeypatch.setattr(outputs, "MOST_BYTES", 12 * 5 * 4)
    baseline = job.run("baseline")
    cut = [by_name(baseline["measurements"]), by_name(candidate_of(job)["measurements"])]
    assert baseline["rows"] == 12
    assert any("first 12 of 48 rows were kept" in note and "all 48" in note for note in baseline["notes"])
    for whole, some in zip(plain, cut, strict=True):
        assert some["top1"] == whole["top1"]
        assert some["top1"]["conditions"]["rows"] == ROWS
        assert some["f1"]["conditions"]["rows"] == 12
    assert cut[1]["agreement"]["conditions"]["rows"] == 12
    job.run("gate", measurements=job.measure())
    kept = [read_scores(job.scratch / "baseline"), read_scores(next((job.scratch / "candidates").glob("cnd_*")))]
    assert [len(scores["top1"]) for scores in kept] == [ROWS, ROWS]
    [drop] = [drop for drop in paired_drops(*kept) if drop.metric == "top1"]
    assert drop.value == pytest.approx(plain[0]["top1"]["value"] - plain[1]["top1"]["value"])


def candidate_of(job: Job) -> dict[str, Any]:
    job.run("calibrate")
    [candidate] = job.run("candidates")["candidates"]
    found: dict[str, Any] = candidate
    return found
