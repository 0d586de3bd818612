"""One dataset for all roles, from inspection to the report; and what two roles may not share."""

import hashlib
from typing import Any

import numpy as np
import pytest

from app.domain.dataset import Split
from app.errors import StepError
from tests.parts import models
from tests.unit.steps.conftest import Job, StepFailed, vectors
from workers.formats.datasets.splitting import split_rows
from workers.runtimes.session import load
from workers.steps import roles, rows
from workers.steps.inputs import DatasetFile

ROWS = 200
STATIC = {"technique": "static_int8", "calibration": {"method": "minmax", "samples": 32}, "recovery": []}


def of_role(job: Job, role: str) -> Any:
    """The numbers of a role's rows."""
    return np.load(job.scratch / job.datasets[role]["rows"])


@pytest.fixture
def split(job: Job) -> Job:
    """A job with one dataset for all roles, inspected."""
    job.save_model(models.mlp())
    job.save_whole(x=vectors(ROWS), labels=np.arange(ROWS) % 4)
    job.inspect()
    return job


def test_every_row_gets_one_role(split: Job) -> None:
    result = split.inspect()
    assert list(result["rows"]) == ["calibration", "tuning", "evaluation"]
    numbers = [of_role(split, role) for role in result["rows"]]
    assert sorted(np.concatenate(numbers).tolist()) == list(range(ROWS))
    assert [len(each) for each in numbers] == list(result["rows"].values())
    for role, each in zip(result["rows"], numbers, strict=True):
        assert result["split"][role]["sha256"] == hashlib.sha256(each.astype("<i8").tobytes()).hexdigest()
    [note] = result["notes"]
    assert "200 rows" in note
    assert f"calibration {len(numbers[0])}, tuning {len(numbers[1])}, evaluation {len(numbers[2])}" in note


def test_the_same_content_is_split_alike_in_every_job(split: Job) -> None:
    """Another recipe, other labels and another order change nothing of whose a row is."""
    before = {role: vectors(ROWS)[of_role(split, role)].tolist() for role in split.datasets}
    split.spec = {"recipe": STATIC, "metrics": ["top1"]}
    order = np.random.default_rng(1).permutation(ROWS)
    split.save_whole(x=vectors(ROWS)[order], labels=np.zeros(ROWS, int), name=np.arange(ROWS))
    split.inspect()
    after = {role: vectors(ROWS)[order][of_role(split, role)].tolist() for role in split.datasets}
    assert {role: sorted(found) for role, found in after.items()} == {
        role: sorted(found) for role, found in before.items()
    }


def test_the_steps_see_each_role_as_if_it_had_a_dataset_of_its_own(split: Job) -> None:
    """Everything comes out as from files that hold just the rows of each role."""
    content, labels = vectors(ROWS), np.arange(ROWS) % 4
    split.spec = {"recipe": STATIC, "metrics": ["top1"]}
    for step in ("baseline", "calibrate"):
        split.run(step)
    split.run("candidates")
    apart = Job(split.scratch.with_name("apart"), spec=split.spec)
    apart.save_model(models.mlp())
    for role in split.datasets:
        numbers = of_role(split, role)
        apart.save_dataset(role, x=content[numbers], labels=labels[numbers])
    apart.run_until("candidates")
    for folder in ("baseline", "calibrate", "candidates"):
        mine, plain = (
            {path.relative_to(job.scratch): path for path in sorted((job.scratch / folder).rglob("*.np?"))}
            for job in (split, apart)
        )
        assert list(mine) == list(plain) != []
        for name, path in mine.items():
            assert path.read_bytes() == plain[name].read_bytes(), name
    assert split.run("baseline")["rows"] == len(of_role(split, "evaluation"))


def test_the_rest_of_a_job_runs_on_the_rows_of_its_roles(split: Job) -> None:
    split.spec = {"recipe": {"technique": "dynamic_int8"}, "measure": {"batch": [4]}}
    split.run("baseline")
    split.run("calibrate")
    split.run("candidates")
    measured = split.measure()
    split.package(measured)
    report = split.scratch / "package/report.json"
    assert '"evaluation"' in report.read_text()


def test_timed_calls_are_fed_with_rows_of_the_role(split: Job) -> None:
    session = load(split.scratch / split.model)
    source = DatasetFile.model_validate(split.datasets["evaluation"])
    found = rows.DatasetRows(session.inputs, source, split.scratch, "evaluation")
    numbers = of_role(split, "evaluation")
    assert found.count == len(numbers)
    fed = np.concatenate([feeds["x"] for feeds in found.feeds(8, 0, 24)])
    np.testing.assert_array_equal(fed, vectors(ROWS)[numbers[:24]])
    np.testing.assert_array_equal(found.labels(30), numbers[:30] % 4)


def test_rows_of_one_group_have_one_role(job: Job) -> None:
    groups = np.arange(ROWS) // 4
    job.save_model(models.mlp())
    job.save_whole(x=vectors(ROWS), groups=groups)
    result = job.inspect()
    found = [set(groups[of_role(job, role)].tolist()) for role in result["rows"]]
    assert sum(map(len, found)) == len(set.union(*found)) == ROWS // 4
    assert "their 50 groups" in result["notes"][0]


def test_groups_that_are_an_input_are_no_groups(job: Job) -> None:
    model = models.model(
        [models.helper.make_node("Add", ["x", "groups"], ["y"], name="add")],
        [models.value("x", ["batch", 2]), models.value("groups", ["batch", 2])],
        [models.value("y", ["batch", 2])],
    )
    job.save_model(model)
    job.save_whole(x=vectors(ROWS, 2), groups=vectors(ROWS, 2, seed=1))
    assert "what each holds" in job.inspect()["notes"][0]


def test_equal_rows_are_together_and_may_be_too_many(job: Job) -> None:
    job.save_model(models.mlp())
    job.save_whole(x=np.repeat(vectors(5), 40, axis=0))
    with pytest.raises(StepFailed) as failed:
        job.inspect()
    assert failed.value.code == "split_too_small"


@pytest.mark.parametrize(
    ("shares", "whole"), [({"evaluation": 1}, "evaluation"), ({"calibration": 1.0}, "calibration")]
)
def test_a_role_that_has_every_row_needs_no_list(job: Job, shares: dict[str, float], whole: str) -> None:
    job.save_model(models.mlp())
    job.spec = {"split": shares}
    job.save_whole(x=vectors(3))
    result = job.inspect()
    assert result["rows"] == {whole: 3}
    assert result["split"] == {whole: {"file": None, "sha256": None}}
    assert result["notes"] == []
    assert job.run("baseline")["source"] == whole


def test_an_evaluation_takes_every_row_or_those_held_out(job: Job) -> None:
    job.save_model(models.mlp())
    job.save_whole(x=vectors(ROWS))
    job.spec = {"kind": "evaluate", "recipe": None}
    assert job.inspect()["rows"] == {"evaluation": ROWS}
    job.spec |= {"split": {"calibration": 0.2, "tuning": 0.2, "evaluation": 0.6}}
    found = job.inspect()
    assert list(found["rows"]) == ["evaluation"]
    assert 90 < found["rows"]["evaluation"] < 150
    judged = of_role(job, "evaluation").tolist()
    job.spec = {}
    job.inspect()
    assert of_role(job, "evaluation").tolist() == judged


def test_a_role_with_too_few_rows_is_told_of(job: Job) -> None:
    job.save_model(models.mlp())
    job.save_whole(x=vectors(40))
    job.spec = {"split": {"calibration": 0.02, "evaluation": 0.98}}
    with pytest.raises(StepFailed) as failed:
        job.inspect()
    assert failed.value.code == "split_too_small"
    assert "calibration was given" in failed.value.detail
    assert "8 or more" in failed.value.detail
    assert "40 rows" in failed.value.detail
    assert "`split`" in failed.value.detail


def test_one_group_cannot_judge(job: Job) -> None:
    job.save_model(models.mlp())
    job.save_whole(x=vectors(ROWS), groups=np.repeat(np.arange(2), 100))
    with pytest.raises(StepFailed) as failed:
        job.inspect()
    assert failed.value.code == "split_too_small"
    assert "there are 2" in failed.value.detail


def test_data_that_do_not_fit_are_refused(job: Job) -> None:
    job.save_model(models.mlp())
    job.save_whole(y=vectors(ROWS))
    with pytest.raises(StepFailed) as failed:
        job.inspect()
    assert failed.value.code == "dataset_input_missing"
    assert failed.value.detail.startswith("The dataset does not fit")
    job.save_whole(x=vectors(ROWS))
    job.spec = {"metrics": ["top1"]}
    with pytest.raises(StepFailed) as failed:
        job.inspect()
    assert failed.value.code == "dataset_labels_missing"


# Groups of two datasets


def shared(
    job: Job, calibration: Any, evaluation: Any, other: str = "evaluation", first: str = "calibration"
) -> list[str]:
    job.save_model(models.mlp())
    job.save_dataset(first, x=vectors(len(calibration)), groups=np.asarray(calibration))
    job.save_dataset(other, x=vectors(len(evaluation), seed=1), groups=np.asarray(evaluation))
    notes: list[str] = job.run("inspect")["notes"]
    return notes


@pytest.mark.parametrize(
    ("calibration", "evaluation", "listed"),
    [
        (["a", "b"], ["b", "c", "b"], "1 group of calibration in evaluation too (b)"),
        ([101, 102, 205], [205, 102, 9], "2 groups of calibration in evaluation too (102, 205)"),
        ([0, 1, 2], [2, 3], "1 group of calibration"),
        (["\ud800\0b" + "c" * 90, "a"], ["\ud800\0b" + "c" * 90], f"too (??b{'c' * 47})"),
        ([5, 6], [0, 1, 2, 3, 4, 5], "1 group of calibration"),
        (["0", "1", "x"], [0, 1], "2 groups"),
    ],
)
@pytest.mark.parametrize("first", ["calibration", "tuning", "training"])
def test_a_group_that_made_cannot_judge(
    job: Job, calibration: list[Any], evaluation: list[Any], listed: str, first: str
) -> None:
    with pytest.raises(StepFailed) as failed:
        shared(job, calibration, evaluation, first=first)
    assert failed.value.code == "datasets_overlap"
    assert listed.replace("calibration", first) in failed.value.detail
    assert "datasets.all" in failed.value.detail


@pytest.mark.parametrize(
    ("calibration", "evaluation", "other"),
    [
        ([0, 1, 2], [0, 0, 1], "evaluation"),  # counted anew for each file, perhaps
        ([1, 2, 3], [1, 2], "evaluation"),
        ([0, 1], [1, 2], "evaluation"),
        (["a", "b"], ["b", "c"], "tuning"),  # neither judges
    ],
)
def test_groups_that_may_be_the_same_are_told_of(
    job: Job, calibration: list[Any], evaluation: list[Any], other: str
) -> None:
    [note] = shared(job, calibration, evaluation, other)
    assert "of the same name" in note
    assert f"{other} is not held out of calibration" in note


@pytest.mark.parametrize(
    ("calibration", "evaluation"), [(["a"], ["b"]), ([7, 9], [8, 10]), ([0, 1, 2], [3, 4]), ([1, 2], ["a", "b"])]
)
def test_groups_of_their_own_are_nothing_to_speak_of(job: Job, calibration: list[Any], evaluation: list[Any]) -> None:
    assert shared(job, calibration, evaluation) == []


def test_small_roles_are_found_by_what_they_got() -> None:
    numbers = split_rows([b"%d" % number for number in range(60)], None, Split(calibration=0.2, evaluation=0.8))
    roles.refuse_small(numbers, 60, None, Split(calibration=0.2, evaluation=0.8))
    numbers["calibration"] = numbers["calibration"][:7]
    with pytest.raises(StepError, match="calibration was given 7"):
        roles.refuse_small(numbers, 60, None, Split(calibration=0.2, evaluation=0.8))
