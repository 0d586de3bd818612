"""Nothing makes a model worse in silence: a job's results hold the numbers before and after, of every technique."""

from typing import Any

import numpy as np
import pytest

from app.domain.recipe import NEEDS_CALIBRATION, TECHNIQUES
from tests.parts import models
from tests.unit.quantization.bad_models import at
from tests.unit.steps.conftest import Job, StepFailed, images, vectors


def prepared(job: Job, technique: str, **options: Any) -> Job:
    job.save_model(models.mlp())
    job.save_dataset("calibration", x=vectors(12, seed=1))
    job.save_dataset("evaluation", x=vectors(20, seed=2))
    job.spec = {"recipe": {"technique": technique, **options}}
    return job


def values(measurements: list[dict[str, Any]]) -> dict[str, Any]:
    return {entry["name"]: entry["value"] for entry in measurements}


@pytest.mark.parametrize("technique", TECHNIQUES)
def test_every_candidate_is_compared_with_its_original(job: Job, technique: str) -> None:
    prepared(job, technique, **({"rest": {"technique": "weight_only"}} if technique == "mixed" else {}))
    before = values(job.run_until("baseline")["measurements"])

    (candidate,) = [job.run(step) for step in ("calibrate", "candidates")][-1]["candidates"]

    after = values(candidate["measurements"])
    assert before["artifact_bytes"] == (job.scratch / job.model).stat().st_size
    assert after["artifact_bytes"] == candidate["bytes"]
    assert 10 < after["sqnr_db"] < 100


@pytest.mark.parametrize("technique", sorted(NEEDS_CALIBRATION))
def test_every_recovery_step_says_what_it_brought(job: Job, technique: str) -> None:
    steps = ["bias_correction", "equalization", "smoothquant", "clip_search"]
    job.save_model(models.conv_net())
    job.save_dataset("calibration", image=images(12, seed=1))
    job.spec = {"recipe": {"technique": technique, "recovery": steps, "weight_bits": 4}}

    (candidate,) = job.run_until("candidates")["candidates"]

    assert [rung["step"] for rung in candidate["recovery"]] == steps
    best = -np.inf
    for rung in candidate["recovery"]:
        # What a step was given is what the steps before it left.
        assert rung["before_db"] >= best - 0.01
        best = rung["after_db"] if rung["kept"] else rung["before_db"]
        assert best >= rung["before_db"]
        assert rung["kept"] or rung["reason"]
        assert rung["after_db"] is not None or "could" in rung["reason"] or "No" in rung["reason"]
    assert any(rung["kept"] for rung in candidate["recovery"])


@pytest.mark.parametrize("technique", sorted(NEEDS_CALIBRATION))
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_rows_that_are_no_numbers_end_the_job_before_they_are_calibrated_on(
    job: Job, technique: str, number: float
) -> None:
    prepared(job, technique)
    job.save_dataset("calibration", x=at(vectors(12), (7, 3), number))

    with pytest.raises(StepFailed) as raised:
        job.run_until("calibrate")

    assert raised.value.code == "dataset_not_finite"
    assert "'x'" in raised.value.detail


@pytest.mark.parametrize("technique", sorted(NEEDS_CALIBRATION))
def test_one_row_is_enough_and_said(job: Job, technique: str) -> None:
    prepared(job, technique)
    job.save_dataset("calibration", x=vectors(1))

    notes = job.run_until("calibrate")["notes"]

    assert notes == ["The calibration dataset has 1 row, fewer than the 200 asked for."]
    (candidate,) = job.run("candidates")["candidates"]
    assert values(candidate["measurements"])["sqnr_db"] > 5
    assert all("One calibration row" in rung["reason"] for rung in candidate["recovery"])
