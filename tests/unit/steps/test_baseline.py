"""The original, run over the rows that artifacts are compared on."""

import json
from typing import Any

import numpy as np
import pytest

from tests.parts import models
from tests.unit.steps.conftest import Job, StepFailed, images, vectors
from workers.evaluation.scores import read_scores
from workers.runtimes.session import load
from workers.steps import outputs


def by_name(result: dict[str, Any]) -> dict[str, Any]:
    return {entry["name"]: entry for entry in result["measurements"]}


def test_it_keeps_outputs_labels_and_scores_of_the_evaluation_rows(job: Job) -> None:
    path = job.save_model(models.conv_net())
    rows = images(20, seed=2)
    expected = load(path).run({"image": rows})[0]
    labels = expected.argmax(axis=1)
    labels[:5] = (labels[:5] + 1) % 10
    job.save_dataset("calibration", image=images(3, seed=1))
    job.save_dataset("evaluation", image=rows, labels=labels)

    result = job.run("baseline")

    assert (result["source"], result["rows"], result["output"]) == ("evaluation", 20, "logits")
    with np.load(job.scratch / "baseline" / result["outputs"]) as kept:
        np.testing.assert_allclose(kept["logits"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.load(job.scratch / "baseline" / result["labels"]["labels"]), labels)
    measured = by_name(result)
    assert measured["top1"]["value"] == 0.75
    assert measured["top1"]["conditions"]["held_out"] is True
    assert measured["artifact_bytes"]["value"] == path.stat().st_size
    assert set(measured) == {"artifact_bytes", "top1"}
    assert read_scores(job.scratch / "baseline")["top1"].values.sum() == 15
    assert result["notes"] == []


def test_calibration_rows_hold_nothing_out(job: Job) -> None:
    job.save_model(models.mlp())
    job.save_dataset("calibration", x=vectors(4), labels=np.arange(4))

    result = job.run("baseline")

    assert (result["source"], result["rows"]) == ("calibration", 4)
    assert "Nothing was held out" in result["notes"][0]
    conditions = by_name(result)["top1"]["conditions"]
    assert (conditions["source"], conditions["held_out"]) == ("calibration", False)


def test_labels_are_scored_whatever_metrics_are_named(job: Job) -> None:
    job.save_model(models.mlp())
    job.save_dataset("evaluation", x=vectors(4), labels=np.arange(4))
    job.spec = {"metrics": ["kl"]}

    assert by_name(job.run("baseline"))["top1"]["method"] == "measured"


def test_labels_that_are_no_whole_numbers_are_not_scored(job: Job) -> None:
    job.save_model(models.mlp())
    job.save_dataset("evaluation", x=vectors(4), labels=np.arange(4, dtype=np.float32))

    inspected, result = job.run("inspect"), job.run("baseline")

    top1 = by_name(result)["top1"]
    assert (top1["method"], top1["value"]) == ("absent", None)
    assert "float32" in top1["reason"]
    assert any("whole numbers" in note for note in inspected["notes"])


def test_each_metric_looks_at_the_output_and_labels_that_it_names(job: Job) -> None:
    path = job.save_model(models.two_heads())
    rows = vectors(20, 4)
    kinds, species = (found.argmax(axis=1) for found in load(path).run({"x": rows}))
    job.save_dataset("evaluation", x=rows, kind=kinds, labels=(species + 1) % 5)
    job.spec = {
        "metrics": [
            {"name": "top1", "output": "kind", "labels": "kind"},
            {"name": "top1", "output": "species"},
            {"name": "cosine", "output": "species"},
        ],
        "recipe": {"technique": "float16"},
    }

    made = job.run_until("candidates")
    original = json.loads((job.scratch / "baseline/result.json").read_text())

    top1 = [entry for entry in original["measurements"] if entry["name"] == "top1"]
    assert [(entry["value"], entry["conditions"]["output"]) for entry in top1] == [(1.0, "kind"), (0.0, "species")]
    measured = [
        (entry["name"], entry["conditions"]["output"])
        for entry in made["candidates"][0]["measurements"]
        if entry["name"] != "artifact_bytes"
    ]
    assert measured == [
        ("top1", "kind"), ("top1", "species"), ("agreement", "kind"), ("sqnr_db", "kind"), ("cosine", "species"),
    ]  # fmt: skip


@pytest.mark.parametrize(("fixed", "batches", "noted"), [("batch", [1, 4], False), (1, [1], True)])
def test_rows_a_call_are_those_that_the_model_takes(job: Job, fixed: Any, batches: list[int], noted: bool) -> None:
    job.save_model(models.gemm(batch=fixed))
    job.spec = {"measure": {"batch": [1, 4]}}

    result = job.run("baseline")

    assert result["batches"] == batches
    assert any("takes 1 row a call" in note for note in result["notes"]) == noted


def test_without_data_random_rows_are_marked(job: Job) -> None:
    job.save_model(models.transformer())
    job.spec = {"metrics": ["top1"]}

    result = job.run("baseline")

    assert (result["source"], result["rows"]) == ("synthetic", 32)
    assert "no data" in result["notes"][0]
    assert "measure.shapes" in " ".join(result["notes"])
    assert by_name(result)["top1"]["method"] == "absent"


def test_random_rows_take_the_shapes_of_the_job(job: Job) -> None:
    job.save_model(models.transformer())
    job.spec = {"measure": {"shapes": {"input_ids": [1, 3]}}}

    result = job.run("baseline")

    with np.load(job.scratch / "baseline" / result["outputs"]) as kept:
        assert kept["last_hidden_state"].shape == (32, 3, 16)


def test_shapes_that_do_not_fit_fail_the_job(job: Job) -> None:
    job.save_model(models.transformer())
    job.spec = {"measure": {"shapes": {"input_ids": [1, 3, 4]}}}

    with pytest.raises(StepFailed) as raised:
        job.run("baseline")

    assert raised.value.code == "shapes_do_not_fit"


def test_a_model_of_batch_1_runs_row_by_row(job: Job) -> None:
    job.save_model(models.conv_net(batch=1))
    job.save_dataset("evaluation", image=images(5), labels=np.arange(5))
    job.spec = {"measure": {"batch": [4]}}

    assert job.run("baseline")["rows"] == 5


def test_external_data_count_as_bytes_and_other_files_do_not(job: Job) -> None:
    path = job.save_model(models.mlp(), external=True)
    path.with_name("notes.txt").write_text("x" * 1000)

    result = job.run("baseline")

    expected = path.stat().st_size + path.with_name("weights.bin").stat().st_size
    assert by_name(result)["artifact_bytes"]["value"] == expected


def test_outputs_beyond_the_cap_are_cut_with_a_note(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs, "MOST_BYTES", 10 * 5 * 4)
    job.save_model(models.mlp())
    job.save_dataset("evaluation", x=vectors(40))

    result = job.run("baseline")

    assert result["rows"] == 10
    assert any("first 10 of 40 rows" in note for note in result["notes"])


def test_values_that_are_no_numbers_are_noted(job: Job) -> None:
    model = models.model(
        [models.helper.make_node("Log", ["x"], ["y"], name="log")],
        [models.value("x", ["batch", 2])],
        [models.value("y", ["batch", 2])],
    )
    job.save_model(model)
    job.save_dataset("evaluation", x=np.array([[1, 1], [-1, 1], [2, 2]], np.float32))

    result = job.run("baseline")

    assert result["unusual"] == {"y": 1}
    assert "Output y of the original is infinite or not a number in 1 of 3 rows." in result["notes"]


def test_the_result_is_finite_json(job: Job) -> None:
    job.save_model(models.mlp())
    job.run("baseline")

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    json.loads((job.scratch / "baseline/result.json").read_text(), parse_constant=refuse)
