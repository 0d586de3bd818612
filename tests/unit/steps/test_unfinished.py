"""What is left of a baseline that did not end, computed without the model."""

import json
from typing import Any

import numpy as np
import pytest

from tests.parts import misbehaving_models as misbehaving
from tests.unit.steps.conftest import Job, StepFailed
from workers.steps import unfinished
from workers.steps.baseline import BEGUN

ROWS, BAD = 12, 7


def stopped(job: Job, *, bad: int = BAD, **measure: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Run a baseline that stops at one row; the labels, and the classes that the model chose."""
    job.save_model(misbehaving.refusing())
    rows = misbehaving.rows(ROWS, bad=bad)
    labels = np.arange(ROWS) % misbehaving.OUTPUTS
    job.save_dataset("evaluation", x=rows, labels=labels, groups=np.arange(ROWS) // 2)
    job.spec = {"kind": "evaluate", "recipe": None, "metrics": ["top1", "top5", "ece"], "measure": measure}
    with pytest.raises(StepFailed) as failed:
        job.run("baseline")
    assert failed.value.code == "model_does_not_run"
    return labels, (rows @ misbehaving.weights()).argmax(axis=1)


def test_metrics_are_those_of_the_rows_before(job: Job) -> None:
    labels, chosen = stopped(job)
    (job.scratch / job.model).unlink()  # nobody opens it again

    result = job.run("unfinished")

    size, *metrics = result["measurements"]
    assert (size["name"], size["flags"]) == ("artifact_bytes", [])
    assert {found["name"] for found in metrics} == {"top1", "top5", "ece"}
    for found in metrics:
        assert (found["count"], found["flags"]) == (BAD, ["incomplete"])
        assert (found["conditions"]["rows"], found["conditions"]["held_out"]) == (BAD, True)
        assert found["conditions"]["groups"] == 4, "groups are cut to the rows"
    top1 = next(found for found in metrics if found["name"] == "top1")
    assert top1["value"] == pytest.approx((labels == chosen)[:BAD].mean())
    assert result["notes"] == [f"{BAD} of {ROWS} rows had been run; it stopped at row {BAD} (the first is row 0)."]


def test_several_rows_a_call(job: Job) -> None:
    stopped(job, batch=[5])
    result = job.run("unfinished")
    assert result["measurements"][1]["count"] == 5
    assert "it stopped at rows 5 to 9 " in result["notes"][0]


def test_the_first_row(job: Job) -> None:
    stopped(job, bad=0)
    result = job.run("unfinished")
    assert [found["name"] for found in result["measurements"]] == ["artifact_bytes"]
    assert result["notes"] == ["It stopped at row 0."]


def test_random_rows_have_no_labels(job: Job) -> None:
    job.save_model(misbehaving.refusing(crowded=True))
    job.spec = {"kind": "evaluate", "recipe": None, "measure": {"batch": [8], "shapes": {"x": [1, 16]}}}
    with pytest.raises(StepFailed) as failed:
        job.run("baseline")
    assert "random rows 0 to 7" in failed.value.detail
    assert [found["name"] for found in job.run("unfinished")["measurements"]] == ["artifact_bytes"]


def test_metrics_that_did_not_end(job: Job) -> None:
    """Every row had been run, and it was what came then that ended it."""
    job.save_model(misbehaving.undefined())
    rows = np.abs(misbehaving.rows(ROWS))
    job.save_dataset("evaluation", x=rows, labels=np.arange(ROWS) % misbehaving.OUTPUTS)
    job.spec = {"kind": "evaluate", "recipe": None}
    job.run("baseline")
    assert not (job.scratch / "baseline" / BEGUN).exists(), "a baseline that ended leaves no such file"
    begun = unfinished.Begun(source="evaluation", inputs=(), outputs=(), metrics=(), measurements=())
    (job.scratch / "baseline" / BEGUN).write_text(begun.model_dump_json())
    assert job.run("unfinished")["notes"] == ["Every row had been run; it stopped at the metrics."]


def test_a_baseline_that_ends_has_only_what_later_steps_read(job: Job) -> None:
    job.save_model(misbehaving.refusing())
    job.save_dataset("evaluation", x=misbehaving.rows(ROWS), labels=np.arange(ROWS) % misbehaving.OUTPUTS)
    result = job.run("baseline")
    kept = {path.name for path in (job.scratch / "baseline").iterdir()}
    assert kept == {"request.json", "result.json", "outputs.npz", "labels-0.npy", "scores.npz"}
    assert json.dumps(result)


def test_values_of_outputs_that_are_nan_in_some_rows_are_flagged(job: Job) -> None:
    job.save_model(misbehaving.undefined())
    rows = np.abs(misbehaving.rows(ROWS))
    rows[[2, 5], 0] *= -1
    labels = (rows @ misbehaving.weights()).argmax(axis=1)
    job.save_dataset("evaluation", x=rows, labels=labels)
    job.spec = {"kind": "evaluate", "recipe": None, "metrics": ["top1", "ece"]}
    found = {entry["name"]: entry for entry in job.run("baseline")["measurements"]}
    assert (found["top1"]["value"], found["top1"]["flags"]) == (pytest.approx(10 / 12), ["non_finite"])
    assert (found["ece"]["value"], found["ece"]["flags"]) == (None, ["non_finite"])
    assert found["artifact_bytes"]["flags"] == []
