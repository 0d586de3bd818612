"""Do the data fit the model, and does every row play one part?"""

import zipfile
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from tests.parts import models
from tests.unit.steps.conftest import Job, StepFailed, images, vectors


def test_it_counts_the_rows_of_each_role(job: Job) -> None:
    job.save_model(models.conv_net())
    job.save_dataset("calibration", image=images(5, seed=1))
    job.save_dataset("evaluation", image=images(7, seed=2), labels=np.arange(7), name_of_row=np.arange(7))

    result = job.run("inspect")

    assert result["rows"] == {"calibration": 5, "evaluation": 7}
    assert result["model"] == "inputs/model/model.onnx"
    assert result["notes"] == ["evaluation: Not inputs of the model, so not used: name_of_row."]


def test_a_job_without_data_is_fine(job: Job) -> None:
    job.save_model(models.conv_net())

    assert job.run("inspect")["rows"] == {}


def test_rows_in_two_roles_are_refused_with_their_numbers(job: Job) -> None:
    rows = images(10)
    job.save_model(models.conv_net())
    job.save_dataset("calibration", image=rows[:6], labels=np.zeros(6, int))
    job.save_dataset("tuning", image=images(4, seed=9))
    job.save_dataset("evaluation", image=rows[4:], labels=np.ones(6, int))

    with pytest.raises(StepFailed) as raised:
        job.run("inspect")

    assert raised.value.code == "datasets_overlap"
    assert "2 rows of calibration in evaluation too (by number: 4 and 0, 5 and 1)" in raised.value.detail
    assert "tuning" not in raised.value.detail


def test_many_shared_rows_are_not_all_listed(job: Job) -> None:
    job.save_model(models.conv_net())
    job.save_dataset("calibration", image=images(30))
    job.save_dataset("evaluation", image=images(30))

    with pytest.raises(StepFailed) as raised:
        job.run("inspect")

    assert "30 rows" in raised.value.detail
    assert raised.value.detail.count(" and ") == 5


def test_one_shared_row_is_counted_in_the_singular(job: Job) -> None:
    job.save_model(models.conv_net())
    job.save_dataset("calibration", image=images(1))
    job.save_dataset("evaluation", image=images(1))

    with pytest.raises(StepFailed, match="1 row of calibration in evaluation too"):
        job.run("inspect")


@pytest.mark.parametrize(
    ("arrays", "code", "part"),
    [
        ({"picture": images(3)}, "dataset_input_missing", "picture"),
        ({"image": images(3).astype(np.float64)}, "dataset_dtype_mismatch", "float32"),
        ({"image": images(3).transpose(0, 2, 3, 1)}, "dataset_shape_mismatch", "order"),
        ({"image": images(3), "labels": np.array([1, 2, 10])}, "labels_out_of_range", "10 classes"),
    ],
)
def test_data_that_do_not_fit_are_refused(job: Job, arrays: dict[str, models.Array], code: str, part: str) -> None:
    job.save_model(models.conv_net())
    job.save_dataset("evaluation", **arrays)

    with pytest.raises(StepFailed) as raised:
        job.run("inspect")

    assert raised.value.code == code
    assert "evaluation" in raised.value.detail
    assert part in raised.value.detail


def test_all_problems_of_a_dataset_come_at_once(job: Job) -> None:
    job.save_model(models.transformer())
    job.save_dataset("evaluation", input_ids=np.zeros((2, 4), np.float32))

    with pytest.raises(StepFailed) as raised:
        job.run("inspect")

    assert "input_ids" in raised.value.detail
    assert "attention_mask" in raised.value.detail


def test_a_metric_that_needs_labels_wants_them(job: Job) -> None:
    job.save_model(models.conv_net())
    job.save_dataset("evaluation", image=images(3))
    job.spec = {"metrics": ["top1"]}

    with pytest.raises(StepFailed) as raised:
        job.run("inspect")

    assert raised.value.code == "dataset_labels_missing"


@pytest.mark.parametrize(
    "spec",
    [{"metrics": ["top1"]}, {"goal": {"constraints": [{"metric": "top1", "max_drop": 0.1}]}}],
)
def test_labels_that_are_no_whole_numbers_are_refused_where_they_are_needed(job: Job, spec: dict[str, Any]) -> None:
    job.save_model(models.conv_net())
    job.save_dataset("evaluation", image=images(3), labels=np.zeros(3, np.float32))
    job.spec = spec

    with pytest.raises(StepFailed) as raised:
        job.run("inspect")

    assert raised.value.code == "dataset_labels_not_integers"


@pytest.mark.parametrize(
    ("metric", "labels", "code"),
    [
        ({"output": "logit"}, 2, "output_unknown"),
        ({"output": "kind", "labels": "kind"}, 2, None),
        ({"output": "kind", "labels": "kind"}, 3, "labels_out_of_range"),
        ({"output": "species", "labels": "kind"}, 3, None),
        ({"output": "kind", "labels": "sort"}, 2, "dataset_labels_missing"),
    ],
)
def test_a_metric_finds_what_it_names(job: Job, metric: dict[str, str], labels: int, code: str | None) -> None:
    job.save_model(models.two_heads())
    job.save_dataset("evaluation", x=vectors(4, 4), kind=np.array([0, 1, 0, labels]))
    job.spec = {"metrics": [{"name": "top1", **metric}]}

    if code is None:
        assert job.run("inspect")["notes"] == []
        return
    with pytest.raises(StepFailed) as raised:
        job.run("inspect")
    assert raised.value.code == code


def test_values_that_are_no_numbers_are_refused(job: Job) -> None:
    rows = vectors(4)
    rows[2, 3] = np.nan
    job.save_model(models.mlp())
    job.save_dataset("calibration", x=rows)

    with pytest.raises(StepFailed) as raised:
        job.run("inspect")

    assert raised.value.code == "dataset_not_finite"
    assert "row 2" in raised.value.detail


def test_a_file_set_is_unpacked(job: Job) -> None:
    job.save_file_set(models.mlp())

    result = job.run("inspect")

    assert result["model"].startswith("inspect/")
    assert (job.scratch / result["model"]).with_name("weights.bin").exists()
    job.model = result["model"]
    assert job.run("baseline")["source"] == "synthetic"


def test_an_archive_that_unpacks_to_too_much_is_refused(job: Job) -> None:
    path = job.save_model(models.mlp())
    archive = path.with_name("set.zip")
    with zipfile.ZipFile(archive, "w") as packed:
        packed.write(path, "model.onnx")
    job.model = "inputs/model/set.zip"

    with pytest.raises(StepFailed) as raised:
        job.run("inspect", unpacked_bytes=100)

    assert raised.value.code == "archive_too_large"


def test_a_model_that_cannot_be_opened_is_refused(job: Job) -> None:
    path = job.save_model(models.mlp())
    path.write_bytes(path.read_bytes()[:-500])

    with pytest.raises(StepFailed) as raised:
        job.run("inspect")

    assert raised.value.code == "truncated"


def test_labels_that_are_an_input_are_no_labels(job: Job) -> None:
    model = models.model(
        [models.helper.make_node("Add", ["x", "labels"], ["y"], name="add")],
        [models.value("x", ["batch", 2]), models.value("labels", ["batch", 2])],
        [models.value("y", ["batch", 2])],
    )
    job.save_model(model)
    job.save_dataset("evaluation", x=vectors(3, 2), labels=vectors(3, 2, seed=1))

    job.run("inspect")
    baseline = job.run("baseline")

    assert baseline["labels"] == {}
    assert model.graph.input[1].type.tensor_type.elem_type == TensorProto.FLOAT
