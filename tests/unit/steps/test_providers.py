"""What a job runs on is what its worker says, and never something else in silence.

Every onnxruntime lists Azure's provider, which runs no node itself: alone it must fail, beside the processor it must be
named.
"""

import json
from typing import Any

import onnxruntime as ort
import pytest

from tests.parts import models
from tests.unit.steps.conftest import Job, StepFailed

AZURE, PROCESSOR = "AzureExecutionProvider", "CPUExecutionProvider"
pytestmark = pytest.mark.skipif(AZURE not in ort.get_available_providers(), reason="this onnxruntime lists no other")


@pytest.fixture
def made(job: Job) -> Job:
    """A job whose candidate is made, on the processor."""
    job.save_model(models.mlp())
    job.spec = {"measure": {"load": {"callers": [1], "seconds": 0.05}}}
    job.run_until("candidates")
    return job


def measured(job: Job, step: str, providers: list[str]) -> dict[str, Any]:
    original = {"path": job.model, "session_options": {}}
    (found,) = json.loads((job.scratch / "candidates/result.json").read_text())["candidates"]
    candidate = {"path": f"candidates/{found['file']}", "session_options": found["session_options"]}
    asked: dict[str, dict[str, Any]] = {
        "measure_latency": {"baseline": original, "candidate": candidate, "candidate_id": found["id"], "seconds": 0.05},
        "measure_load": {"subject_model": candidate},
        "profile": {"model": original, "seconds": 0.05},
    }
    return job.run(step, f"{step}-{len(providers)}", providers=providers, **asked[step])


@pytest.mark.parametrize("step", ["measure_latency", "measure_load", "profile"])
def test_a_measuring_child_runs_on_what_it_is_told(step: str, made: Job) -> None:
    with pytest.raises(StepFailed) as failed:
        measured(made, step, [AZURE])
    assert failed.value.code == "provider_unavailable"
    assert "would fall back" in failed.value.detail
    found = measured(made, step, [AZURE, PROCESSOR])
    sessions = found["conditions"].values() if step == "measure_latency" else [found["conditions"]]
    for conditions in sessions:
        assert conditions["providers"] == [AZURE, PROCESSOR]
        assert conditions["nodes"][AZURE] == 0
        assert conditions["nodes"][PROCESSOR] > 0


@pytest.mark.parametrize("step", ["baseline", "candidates"])
def test_outputs_that_are_compared_come_from_what_the_job_runs_on(step: str, made: Job) -> None:
    with pytest.raises(StepFailed) as failed:
        made.run(step, f"{step}-again", providers=[AZURE])
    assert failed.value.code == "provider_unavailable"
    assert made.run(step, f"{step}-both", providers=[AZURE, PROCESSOR])


@pytest.mark.parametrize("asked", ["openvino", "auto"])
def test_another_runtime_is_not_timed_on_the_processor_instead(asked: str, made: Job) -> None:
    pytest.importorskip("openvino")
    made.spec = {"measure": {"runtime": asked}}
    providers = [AZURE, PROCESSOR]
    if asked == "openvino":
        with pytest.raises(StepFailed) as failed:
            made.run("baseline", "baseline-again", providers=providers)
        assert failed.value.code == "provider_unavailable"
    else:
        found = made.run("baseline", "baseline-again", providers=providers)
        assert found["runtimes"] == ["onnxruntime"]
        assert any("openvino was not timed" in note for note in found["notes"])
