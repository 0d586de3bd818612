"""The key of a calibration: another one for all that it depends on, the same for all else."""

from dataclasses import replace
from typing import Any

import pytest

from app.domain.job import JobSpec
from app.services.work import ClaimedJob, Input
from workers.tasks.observations import observation_key

DATASET, MODEL = "dst_" + "0" * 26, "mdl_" + "0" * 26

MACHINE = {
    "architecture": "x86_64",
    "features": ["avx2"],
    "versions": {"bitpress": "1", "onnxruntime": "1", "onnx": "1", "numpy": "1", "python": "3.11"},
}


def file_of(name: str, sha256: str, preprocess: dict[str, Any] | None = None) -> Input:
    return Input(f"id of {name}", name, name, "somewhere", sha256, 10, preprocess)


def job(recipe: dict[str, Any] | None = None, **changes: Any) -> ClaimedJob:
    spec = {"model": MODEL, "recipe": recipe or {"technique": "static_int8"}, "datasets": {"calibration": DATASET}}
    whole = ClaimedJob(
        id="job_1",
        attempt=1,
        spec=JobSpec.model_validate(spec),
        model=file_of("m.onnx", "1" * 64),
        session_options={},
        datasets={"calibration": file_of("c.npz", "2" * 64), "evaluation": file_of("e.npz", "3" * 64)},
        finished={},
    )
    return replace(whole, **changes)


def of(claimed: ClaimedJob, machine: dict[str, Any] = MACHINE) -> str:
    key = observation_key(claimed, machine)
    assert key is not None
    assert len(key) == 64
    return key


def recipe(**options: Any) -> ClaimedJob:
    return job({"technique": "static_int8", **options})


@pytest.mark.parametrize(
    "same",
    [
        job(id="job_2", attempt=3),
        job(datasets={"calibration": replace(file_of("c.npz", "2" * 64), id="another", name="another")}),
        recipe(calibration={"method": "entropy"}),
        recipe(calibration={"method": "percentile", "percentile": 99}),
        recipe(weight_bits=4, reduce_range=True, per_channel=False),
        recipe(recovery=["bias_correction"]),
        recipe(calibration={"method": "minmax"}, sensitivity=True),
    ],
)
def test_what_does_not_change_the_observations_does_not_change_the_key(same: ClaimedJob) -> None:
    assert of(same) == of(job())


@pytest.mark.parametrize(
    "other",
    [
        job(model=file_of("m.onnx", "9" * 64)),
        job(model=file_of("m.zip", "1" * 64)),
        job(datasets={"calibration": file_of("c.npz", "9" * 64)}),
        job(datasets={"calibration": file_of("c.npz", "2" * 64, {"scale": 2})}),
        recipe(op_types=["Conv"]),
        recipe(keep_float=["/head/*"]),
        recipe(calibration={"samples": 7}),
        recipe(requantize=True),
        recipe(calibration={"method": "minmax"}),
    ],
)
def test_what_changes_the_observations_changes_the_key(other: ClaimedJob) -> None:
    assert of(other) != of(job())


@pytest.mark.parametrize(
    "machine",
    [
        MACHINE | {"features": ["avx2", "avx512f"]},
        MACHINE | {"architecture": "aarch64"},
        MACHINE | {"versions": MACHINE["versions"] | {"onnxruntime": "2"}},  # type: ignore[operator]
        MACHINE | {"versions": MACHINE["versions"] | {"bitpress": "2"}},  # type: ignore[operator]
    ],
)
def test_another_processor_or_version_observes_anew(machine: dict[str, Any]) -> None:
    assert of(job(), machine) != of(job())


def test_rows_that_are_chosen_of_one_dataset_are_part_of_it() -> None:
    """The whole file under another name of its role is the same, some of its rows are other data."""
    whole = job(datasets={"all": file_of("c.npz", "2" * 64)})
    keys = [observation_key(whole, MACHINE, chosen) for chosen in (None, "4" * 64, "5" * 64)]
    assert len({*keys, None}) == 4
    assert keys[0] == of(job())


def test_what_needs_no_calibration_has_no_key() -> None:
    assert observation_key(job({"technique": "dynamic_int8"}), MACHINE) is None
    assert observation_key(job(datasets={}), MACHINE) is None
