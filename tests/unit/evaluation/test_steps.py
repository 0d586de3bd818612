"""The measuring steps and the gate, through the child's own program, on small real models. No times are asserted."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from app.domain.measurement import UNITS
from tests.parts import models
from tests.unit.steps.conftest import Job, StepFailed
from workers.evaluation.energy import EnergyCounter
from workers.evaluation.latency import latencies
from workers.evaluation.replicate import LatencyReplicate
from workers.evaluation.scores import Scores, read_scores, save_scores
from workers.formats.datasets.opening import open_dataset
from workers.runtimes.session import load
from workers.steps import measure_latency
from workers.steps.feeds import first_feeds
from workers.steps.inputs import DatasetFile
from workers.steps.rows import DatasetRows, SyntheticRows
from workers.tasks.plan import conditions, latency_step

ROWS = 40
A_MOMENT_OF_LOAD = {"load": {"callers": [1], "seconds": 0.05}}


def images(rows: int, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.random.default_rng(seed).standard_normal((rows, 16)).astype(np.float32)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    """A job on one Gemm with 40 evaluation rows, whose labels are the original's answers but for four."""
    job = Job(tmp_path)
    job.save_model(models.gemm())
    job.save_dataset("evaluation", **_labelled(job, images(ROWS, 1)))
    return job


def _labelled(job: Job, rows: np.ndarray[Any, np.dtype[np.float32]]) -> dict[str, Any]:
    session = load(job.scratch / job.model)
    name = session.inputs[0].name
    labels = session.run({name: rows})[0].argmax(axis=-1)
    labels[:4] = (labels[:4] + 1) % 8
    return {name: rows, "labels": labels}


def original(job: Job) -> dict[str, Any]:
    return {"path": job.model, "session_options": {}}


def time_it(job: Job, folder: str, **changes: Any) -> LatencyReplicate:
    request = {"candidate_id": "cnd_a", "baseline": original(job), "candidate": original(job), "seconds": 0.05}
    return LatencyReplicate.model_validate(job.run("measure_latency", folder, **{**request, **changes}))


def test_one_child_times_both_models_in_blocks(job: Job) -> None:
    found = time_it(job, "latency-1")
    for pair in (found.same, found.against):
        assert len(pair.first) == len(pair.second) >= 1
        assert all(len(block) >= 20 for block in (*pair.first, *pair.second))
        assert all(sample > 0 for block in pair.first for sample in block)
    assert found.rows == 32
    assert (found.threads, found.batch) == (1, 1)
    assert set(found.load_ms) == {"original", "artifact"}
    assert found.conditions["original"]["session_options"] == {}
    assert list((job.scratch / "latency-1").iterdir()) != []
    assert not (job.scratch / "latency-1/zero.onnx").exists()


def test_more_threads_rest_soon_and_say_so(job: Job) -> None:
    found = time_it(job, "latency-1", threads=2, batch=4)
    assert (found.threads, found.batch) == (2, 4)
    assert found.conditions["artifact"]["session_options"] == {"session.intra_op.spin_duration_us": "1000"}
    assert found.conditions["artifact"]["threads"] == 2


def sequences(tmp_path: Path) -> Job:
    """A job on one MatMul over sequences of any length."""
    job = Job(tmp_path)
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", "length", 8]) for name in "xy")
    weight = numpy_helper.from_array(np.eye(8, dtype=np.float32), "w")
    graph = helper.make_graph([node], "sequences", [x], [y], [weight])
    job.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))
    return job


@pytest.mark.parametrize(
    ("changes", "shape"),
    [
        ({"batch": 2}, (2, 16, 8)),  # nothing tells, so that a length is made up: it is told all the same
        ({"case": "step", "shapes": {"x": (1, 3, 8)}}, (1, 3, 8)),
    ],
)
def test_what_the_model_leaves_open_is_told(tmp_path: Path, changes: dict[str, Any], shape: tuple[int, ...]) -> None:
    job = sequences(tmp_path)
    found = time_it(job, "latency-1", **changes)
    assert found.shapes == {"x": shape}
    for measurement in latencies([found], "artifact"):
        assert measurement.conditions["shapes"] == {"x": shape}, measurement.name
    loaded = job.run("measure_load", "load-1", subject_model=original(job), measure=A_MOMENT_OF_LOAD)
    assert loaded["shapes"] == {"x": [1, 16, 8]}


def test_a_shape_that_is_the_model_s_own_is_not_told(job: Job) -> None:
    assert time_it(job, "latency-1", batch=4).shapes == {}, "how many rows a call takes is `batch`"


class InventedCounter(EnergyCounter):
    """A machine that takes 20 W at rest, and 30 more for each processor of this process."""

    readable = True

    def __init__(self) -> None:
        self._at = time.monotonic(), time.process_time()

    def since_last(self) -> float:
        (wall, processor), self._at = self._at, (time.monotonic(), time.process_time())
        return 20 * (self._at[0] - wall) + 30 * (self._at[1] - processor)


def test_energy_is_what_a_call_takes_above_the_machine_at_rest(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure_latency, "EnergyCounter", InventedCounter)
    found = time_it(job, "latency-1")
    assert found.idle_watts == pytest.approx(20, rel=0.2)
    assert found.energy_joules is not None
    for subject, joules in found.energy_joules.items():
        assert joules == pytest.approx(30 * found.cpu_seconds[subject], rel=0.25)
    [energy] = [each for each in latencies([found, found], "artifact") if each.name == "energy_per_inference"]
    assert energy.conditions["idle_watts"] == pytest.approx(20, rel=0.2)


def test_required_session_options_are_used(job: Job) -> None:
    options = {"session.x64quantprecision": "1"}
    found = time_it(job, "latency-1", candidate={"path": job.model, "session_options": options})
    assert found.conditions["artifact"]["session_options"] == options
    assert found.conditions["original"]["session_options"] == {}


def test_a_model_that_does_not_load_is_an_expected_failure(job: Job) -> None:
    (job.scratch / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(StepFailed) as error:
        time_it(job, "latency-1", candidate={"path": "broken.onnx", "session_options": {}})
    assert error.value.code == "model_does_not_load"


@pytest.mark.parametrize(("replicate", "subject"), [(1, "original"), (2, "artifact")])
def test_one_child_tells_the_memory_of_the_model_that_it_loads_first(job: Job, replicate: int, subject: str) -> None:
    found = time_it(job, "latency-1", replicate=replicate).memory
    assert found is not None
    assert found.subject == subject
    assert found.loaded_bytes >= 0
    assert found.steady_bytes <= found.peak_bytes


def test_memory_is_that_of_the_weights_and_what_the_calls_take(tmp_path: Path) -> None:
    """Weights of 64 MB, in a process of its own: this one holds too much already for its marks to move."""
    job = Job(tmp_path)
    job.save_model(models.gemm(inputs=4096, outputs=4096))
    program = (
        "import sys, json, io\n"
        "from pathlib import Path\n"
        "from workers.steps.program import serve\n"
        "serve(Path(sys.argv[1]), io.StringIO(sys.argv[2]), lambda event: None)\n"
    )
    folder = job.scratch / "latency-1"
    folder.mkdir()
    request = job.request(baseline=original(job), seconds=0.05)
    (folder / "request.json").write_text(json.dumps(request))
    command = json.dumps({"step": "measure_latency", "request": "latency-1/request.json"})
    subprocess.run([sys.executable, "-c", program, str(job.scratch), command], check=True)
    memory = LatencyReplicate.model_validate_json((folder / "result.json").read_text()).memory
    assert memory is not None
    assert memory.subject == "original"
    assert 64e6 < memory.loaded_bytes <= memory.peak_bytes < 3 * 64e6
    assert memory.steady_bytes >= 64e6


def test_without_data_the_measuring_steps_make_rows_up(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.save_model(models.gemm())
    assert time_it(job, "latency-1").rows == 8


@pytest.mark.parametrize(("batch", "feeds"), [(1, 32), (16, 2), (64, 1)])
def test_feeds_are_whole_and_hold_the_first_rows(job: Job, batch: int, feeds: int) -> None:
    session = load(job.scratch / job.model)
    dataset = DatasetFile.model_validate(job.datasets["evaluation"])
    rows = DatasetRows(session.inputs, dataset, job.scratch, "evaluation")
    found = first_feeds(rows, batch)
    name = session.inputs[0].name
    assert len(found) == feeds
    assert all(feed[name].shape == (batch, 16) for feed in found)
    with open_dataset(job.scratch / dataset.path) as opened:
        [everything] = opened.batches(ROWS, [name])
    cycled = everything[name][np.arange(batch * feeds) % ROWS]
    assert np.array_equal(np.concatenate([feed[name] for feed in found]), cycled)


def test_one_feed_is_enough_for_memory(job: Job) -> None:
    rows = SyntheticRows(load(job.scratch / job.model))
    assert len(first_feeds(rows, 8, most=1)) == 1


# The gate


def judged(job: Job, **goal: Any) -> dict[str, Any]:
    job.spec = {"goal": goal} if goal else {}
    job.run_until("candidates")
    folders = job.measure()
    return job.run("gate", measurements=folders)


def test_the_gate_has_everything_of_both_models(job: Job) -> None:
    found = judged(job, constraints=[{"metric": "top1", "max_drop": 0.5}])
    [candidate] = found["candidates"]
    assert found["chosen"] == candidate["id"]
    for measurements in (found["baseline"], candidate["measurements"]):
        names = [measurement["name"] for measurement in measurements]
        assert set(UNITS) <= set(names)
        assert len(names) == len(set(names))
    baseline = {measurement["name"]: measurement for measurement in found["baseline"]}
    assert baseline["top1"]["value"] == pytest.approx(0.9)
    assert baseline["peak_memory"]["method"] == "measured"
    assert baseline["energy_per_inference"]["method"] in ("absent", "measured")
    assert {"agreement", "sqnr_db", "cosine", "top1"} <= {entry["name"] for entry in candidate["measurements"]}
    assert found["gate"] == candidate["verdict"] == "met"
    assert found["verdicts"][0]["ci"][1] <= 0.5
    assert "dynamic_int8 is " in found["conclusion"]
    assert {"latency_p50", "artifact_bytes", "load_time"} <= {entry["name"] for entry in candidate["comparisons"]}


def test_without_a_goal_there_is_no_verdict(job: Job) -> None:
    found = judged(job)
    assert found["gate"] == "none"
    assert found["verdicts"] == []


def test_without_data_nothing_was_held_out(tmp_path: Path) -> None:
    job = Job(tmp_path)
    job.save_model(models.gemm())
    found = judged(job, constraints=[{"metric": "agreement", "max_drop": 0.9}])
    assert found["gate"] == "undecided"
    assert "Nothing was held out" in found["verdicts"][0]["reason"]
    assert "random rows" in found["conclusion"]


def test_what_a_constraint_names_is_measured(job: Job) -> None:
    found = judged(job, constraints=[{"metric": "kl", "max": 5}])
    [verdict] = found["verdicts"]
    assert verdict["verdict"] == "met"
    assert 0 <= verdict["value"] < 5
    assert "kl" in {entry["name"] for entry in found["candidates"][0]["measurements"]}


def test_the_conclusion_is_about_what_the_job_asks_for(job: Job) -> None:
    """What the goal bounds comes before what is only measured, and that before top-1."""
    job.spec = {"metrics": ["max_error", "kl"]}
    job.run_until("candidates")
    folders = job.measure()
    bounds = [{"metric": "latency_p50", "max": 1e9}, {"metric": "kl", "max": 5}]
    for spec, said in (
        ({"metrics": ["max_error"], "goal": {"constraints": bounds}}, "with kl "),
        ({"metrics": ["max_error", "kl"]}, "with max_error "),
        ({}, "accurate"),
    ):
        job.spec = spec
        assert said in job.run("gate", measurements=folders)["conclusion"]


def test_what_an_artifact_loses_is_paired_with_the_original(job: Job) -> None:
    """Three rows that the original has right, made wrong in what the artifact's run left."""
    [made] = job.run_until("candidates")["candidates"]
    home = (job.scratch / "candidates" / made["outputs"]).parent
    right = read_scores(job.scratch / "baseline")["top1"].values
    after = right.copy()
    after[np.flatnonzero(right[:, 0] == 1)[:3]] = 0
    save_scores(home, {**read_scores(home), "top1": Scores(after)})

    [drop] = job.run("gate", measurements=job.measure())["drops"][made["id"]]

    assert drop["metric"] == "top1"
    assert drop["value"] == pytest.approx(3 / ROWS)
    assert drop["ci95"][0] <= 3 / ROWS <= drop["ci95"][1]


def test_a_constraint_on_what_cannot_be_measured_loses_nothing(tmp_path: Path) -> None:
    """One number a row has no class axis."""
    job = Job(tmp_path)
    job.save_model(models.gemm(outputs=1))
    job.save_dataset("evaluation", x=images(ROWS, 1))
    found = judged(job, constraints=[{"metric": "agreement", "min": 0.5}, {"metric": "sqnr_db", "min": 1}])
    assert found["gate"] == "undecided"
    assert [verdict["verdict"] for verdict in found["verdicts"]] == ["undecided", "met"]
    assert "no class axis" in found["verdicts"][0]["reason"]
    assert found["chosen"] is not None
    assert "no class axis" in found["conclusion"]


def test_each_pair_of_threads_and_batch_has_its_rows(job: Job) -> None:
    job.spec = {"measure": {"threads": [1, 2], "batch": [1, 4]}}
    made = job.run_until("candidates")["candidates"]
    candidates = [
        {"id": found["id"], "path": f"candidates/{found['file']}", "session_options": found["session_options"]}
        for found in made
    ]
    measure = {"threads": [1, 2], "batch": [1, 4]}
    steps = [
        latency_step(condition, replicate, original(job), job.request(), seconds=0.02)
        for replicate in (1, 2)
        for condition in conditions(candidates, measure)
    ]
    for step in steps:
        job.run(step.name, step.folder, **step.request)
    folders = [step.folder for step in steps]
    found = job.run("gate", measurements=folders)
    pairs = [(1, 1), (1, 4), (2, 1), (2, 4)]
    for measurements in (found["baseline"], found["candidates"][0]["measurements"]):
        for name in ("latency_p50", "throughput", "energy_per_inference"):
            rows = [entry["conditions"] for entry in measurements if entry["name"] == name]
            assert [(row["threads"], row["batch"], row["children"]) for row in rows] == [(*pair, 2) for pair in pairs]
    compared = [
        entry["conditions"] for entry in found["candidates"][0]["comparisons"] if entry["name"] == "latency_p50"
    ]
    assert [(row["threads"], row["batch"]) for row in compared] == pairs
