"""What goes wrong while a model is measured: a coded error, or a result with a flag; and what was measured is kept."""

import io
import os
import platform
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import psutil
import pytest
from onnx import ModelProto
from sqlalchemy import select, update

from app.db.tables import Job, JobStep
from app.embedded import worker_command
from app.queue.names import jobs_queue
from tests.conftest import QUICK
from tests.parts import misbehaving_models as misbehaving
from tests.parts.misbehaving_models import GOES_WRONG, OUTPUTS
from tests.parts.service import ROOT, Service, running_service, wait_until

MiB = 1 << 20
MEMORY = 700 * MiB
ROWS, BAD = 12, 7
IS_X86 = platform.machine().lower() in ("x86_64", "amd64")
MEASURED_ONCE = ("load_time", "first_run", "peak_memory")


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service whose children have little memory, and that notices soon what is lost."""
    settings = {
        **QUICK,
        "BITPRESS_SANDBOX_MEMORY_BYTES": str(MEMORY),
        "BITPRESS_LEASE_SECONDS": "2",
        "BITPRESS_WAKE_SECONDS": "1",
        "BITPRESS_SWEEP_SECONDS": "0.5",
    }
    with running_service(tmp_path_factory.mktemp("tight"), **settings) as running:
        yield running


def upload(service: Service, kind: str, name: str, content: bytes) -> dict[str, Any]:
    answer = service.api.post(f"/v1/{kind}", files={"file": (name, content)})
    assert answer.status_code == 201, answer.text
    return service.inspected(kind, answer.json()["id"])


def uploaded(service: Service, kind: str, name: str, content: bytes) -> str:
    body = upload(service, kind, name, content)
    assert body["state"] == "ready", body["error"]
    upload_id: str = body["id"]
    return upload_id


def model_of(service: Service, made: ModelProto) -> str:
    return uploaded(service, "models", "m.onnx", made.SerializeToString())


def arrays(**given: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **given)
    return buffer.getvalue()


def data_of(service: Service, **given: Any) -> str:
    return uploaded(service, "datasets", "d.npz", arrays(**given))


def evaluated(service: Service, model: str, data: str | None = None, **spec: Any) -> dict[str, Any]:
    datasets = {} if data is None else {"evaluation": data}
    return service.ended(service.submit(kind="evaluate", model=model, datasets=datasets, **spec)["id"])


def found(body: dict[str, Any], name: str, **conditions: Any) -> dict[str, Any]:
    """The first measurement of that name under these conditions."""
    assert body["baseline"] is not None, body["error"]
    fitting = [
        one
        for one in body["baseline"]["measurements"]
        if one["name"] == name and conditions.items() <= one["conditions"].items()
    ]
    assert fitting, (name, conditions, body["baseline"]["measurements"])
    return dict(fitting[0])


def is_helpful(text: str, *says: str) -> None:
    """A sentence to a stranger: it ends, it says what it must, and shows nothing of this machine."""
    assert text.rstrip().endswith((".", "?")), text
    assert "/tmp" not in text, text
    assert "Traceback" not in text, text
    for words in says:
        assert words in text, text


def right(labels: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Which rows the models get right, computed here."""
    found: np.ndarray[Any, Any] = (rows @ misbehaving.weights()).argmax(axis=1) == labels
    return found


LABELS = np.arange(ROWS, dtype=np.int64) % OUTPUTS

CODES: dict[str, tuple[str, tuple[str, ...]]] = {
    "endless": ("time_limit_exceeded", ("did not end in time", "limits.run_seconds")),
    "growing": ("memory_limit_exceeded", ("700 MiB", "smaller model or batch")),
    "gigantic": ("memory_limit_exceeded", ("ran out of the memory", "smaller model or batch")),
    "crashing": ("step_crashed", ("signal SIGFPE", "log")),
    "refusing": ("model_does_not_run", ("onnxruntime cannot run the model", "lookup")),
}
CASES = [name for name in CODES if name != "crashing" or IS_X86]
"""Elsewhere a division by zero gives a number; what becomes of a child that dies is tested below."""


@pytest.mark.parametrize("case", CASES)
def test_a_model_that_goes_wrong_on_one_row(tight: Service, case: str) -> None:
    """Row 7 of 12 ends the baseline step; metrics of the seven before it are in the job, and say so."""
    rows = misbehaving.rows(ROWS, bad=BAD)
    model = model_of(tight, GOES_WRONG[case]())
    seconds = {"run_seconds": 6} if case == "endless" else {}
    body = evaluated(tight, model, data_of(tight, x=rows, labels=LABELS), limits=seconds)
    code, says = CODES[case]
    assert (body["state"], body["error"]["code"], body["error"]["stage"]) == ("failed", code, "baseline"), body["error"]
    is_helpful(body["error"]["detail"], f"row {BAD}", *says)
    top1 = found(body, "top1")
    assert top1["value"] == pytest.approx(right(LABELS, rows)[:BAD].mean())
    assert (top1["count"], top1["conditions"]["rows"], top1["flags"]) == (BAD, BAD, ["incomplete"])
    assert top1["ci95"][0] <= top1["value"] <= top1["ci95"][1]
    assert found(body, "artifact_bytes")["flags"] == []
    assert (body["gate"], body["chosen"], body["artifacts"]) == (None, None, [])
    notes = " ".join(body["notes"])
    assert "did not come to its end" in notes
    assert f"{BAD} of {ROWS} rows had been run" in notes
    assert tight.api.get(body["links"]["log"]).status_code == 200


@pytest.mark.parametrize("case", [case for case in CASES if case != "gigantic"])
def test_a_model_that_goes_wrong_with_many_rows_a_call(tight: Service, case: str) -> None:
    """All metrics and the latency of single rows are there by then."""
    rows = misbehaving.rows(ROWS)
    model = model_of(tight, GOES_WRONG[case](crowded=True))
    # Long enough for two processes on a busy machine; what never ends takes all of it.
    limits = {"run_seconds": 14} if case == "endless" else {}
    data = data_of(tight, x=rows, labels=LABELS)
    body = evaluated(tight, model, data, measure={"batch": [1, 8]}, limits=limits)
    code, says = CODES[case]
    assert (body["state"], body["error"]["code"]) == ("failed", code), body["error"]
    is_helpful(body["error"]["detail"], "the original", "8 rows a call", "1 thread", *says)
    top1 = found(body, "top1")
    assert top1["value"] == pytest.approx(right(LABELS, rows).mean())
    assert (top1["count"], top1["flags"]) == (ROWS, [])
    single = found(body, "latency_p50", batch=1)
    assert single["value"] > 0
    assert (single["flags"], single["conditions"]["runtime"]) == (["incomplete"], "onnxruntime")
    assert not [one for one in body["baseline"]["measurements"] if one["conditions"].get("batch") == 8]
    for name in MEASURED_ONCE:
        assert found(body, name)["value"] > 0
        assert found(body, name)["flags"] == ["incomplete"]


def test_a_model_that_goes_wrong_without_data(tight: Service) -> None:
    """Of random rows there is nothing to say but how many of them ran."""
    shapes = {"x": [1, 16]}
    model = model_of(tight, GOES_WRONG["refusing"](crowded=True))
    body = evaluated(tight, model, measure={"batch": [8], "shapes": shapes})
    assert (body["state"], body["error"]["code"]) == ("failed", "model_does_not_run")
    is_helpful(body["error"]["detail"], "random rows 0 to 7", "Bring data", "lookup")


if IS_X86:

    def test_a_model_that_crashes_the_runtime_while_it_is_loaded(tight: Service) -> None:
        """Constants are folded then: no job is needed to find out."""
        body = upload(tight, "models", "m.onnx", misbehaving.crashing_at_load().SerializeToString())
        assert (body["state"], body["error"]["code"]) == ("rejected", "step_crashed"), body
        is_helpful(body["error"]["detail"], "signal SIGFPE", "on its own")


def test_a_child_that_dies_again_and_again(tight: Service) -> None:
    """A child that dies is given two more chances; what the last one had come to is kept."""
    rows = misbehaving.rows(ROWS, bad=BAD)
    model, data = model_of(tight, misbehaving.endless()), data_of(tight, x=rows, labels=LABELS)
    job = tight.submit(kind="evaluate", model=model, datasets={"evaluation": data}, limits={"run_seconds": 60})
    killed: set[int] = set()

    def ended() -> bool:
        for child in tight.sandbox_children():
            if len(killed) < 3 and child.pid not in killed and at_row(tight, job["id"], BAD):
                killed.add(child.pid)
                child.send_signal(signal.SIGSEGV)
        return bool(tight.job(job["id"])["state"] == "failed")

    wait_until(ended, what="the end of a job whose child dies")
    body = tight.job(job["id"])
    assert (body["error"]["code"], body["error"]["retryable"]) == ("step_crashed", False)
    is_helpful(body["error"]["detail"], "signal SIGSEGV", f"stopped at row {BAD}")
    assert found(body, "top1")["count"] == BAD
    assert len(killed) == 3


def at_row(service: Service, job_id: str, row: int) -> bool:
    """Whether the baseline of a job has come to that row."""
    for done in (service.data_dir / "scratch").glob(f"*/{job_id}-*/baseline/outputs-done.npy"):
        try:
            return bool(np.load(done)[0] == row)
        except (OSError, ValueError, EOFError):  # being made, or gone again
            return False
    return False


def test_a_model_that_returns_nan(tight: Service) -> None:
    """What NaN leaves a meaning has a value with a flag; what it does not is absent, with the number of rows."""
    rows = misbehaving.rows(ROWS)
    rows[:, 0] = np.abs(rows[:, 0])
    rows[[2, 5, 9], 0] *= -1
    truth = (rows @ misbehaving.weights()).argmax(axis=1)
    goal = {"constraints": [{"metric": "top1", "min": 0.5}, {"metric": "mae", "max": 100}]}
    data = data_of(tight, x=rows, labels=truth.astype(np.int64), numbers=rows[:, :OUTPUTS])
    metrics = ["top1", "top5", {"name": "mae", "labels": "numbers"}, "ece", "perplexity"]
    body = evaluated(tight, model_of(tight, misbehaving.undefined()), data, metrics=metrics, goal=goal)
    assert body["state"] == "succeeded", body["error"]
    for name in ("top1", "top5"):
        assert found(body, name)["value"] == pytest.approx(9 / 12), "a row of NaN is no right row"
        assert found(body, name)["flags"] == ["non_finite"]
    for name in ("mae", "ece", "perplexity"):
        one = found(body, name)
        assert (one["value"], one["method"], one["flags"]) == (None, "absent", ["non_finite"])
        assert "not finite in 3 of 12 rows" in one["reason"]
    assert "Output y of the original is infinite or not a number in 3 of 12 rows." in body["notes"]
    verdicts = {verdict["constraint"]["metric"]: verdict for verdict in body["verdicts"]}
    assert verdicts["mae"]["verdict"] == "missed"
    is_helpful(verdicts["mae"]["reason"], "cannot be computed", "3 of 12 rows")
    assert found(body, "latency_p50")["value"] > 0
    report = tight.api.get(body["links"]["report"], headers={"Accept": "text/html"})
    assert report.status_code == 200
    assert "not a number" in report.text


# Outputs and labels that metrics cannot read

EVERY: list[dict[str, Any]] = [
    *({"name": name, "output": "classes"} for name in ("top1", "top5", "f1", "balanced_accuracy", "worst_class")),
    *({"name": name, "output": "classes"} for name in ("auc", "ece")),
    *({"name": name, "output": "number", "labels": "numbers"} for name in ("mae", "rmse", "r2", "pearson", "spearman")),
    *({"name": name, "output": "tokens", "labels": "words"} for name in ("token_accuracy", "perplexity")),
    {"name": "cer", "output": "tokens", "labels": "words", "options": {"blank": 0}},
    {"name": "wer", "output": "tokens", "labels": "words", "options": {"blank": 0, "separator": 1}},
    {"name": "exact_match", "output": "tokens", "labels": "words", "options": {"blank": 0}},
    {"name": "coco_map", "output": "boxes", "labels": "objects", "options": {"scores": "scores"}},
    {"name": "miou", "output": "mask", "labels": "points", "options": {"classes_axis": "first"}},
    {"name": "retrieval_recall", "output": "embedding"},
]
"""Each metric that needs no original, with an output that it reads."""


def labelled(rows: int, **changes: Any) -> dict[str, Any]:
    """Arrays that every metric reads."""
    random = np.random.default_rng(3)
    corners = random.uniform(0, 5, (rows, 2, 2))
    boxes = np.concatenate([np.zeros((rows, 2, 1)), corners, corners + random.uniform(1, 3, (rows, 2, 2))], axis=2)
    return {
        "x": misbehaving.rows(rows),
        "labels": np.arange(rows, dtype=np.int64) % OUTPUTS,
        "numbers": random.normal(size=rows).astype(np.float32),
        "words": random.integers(1, OUTPUTS, (rows, 4)),
        "objects": boxes.astype(np.float32),
        "points": random.integers(0, 3, (rows, 2, 2)),
        **changes,
    }


@pytest.fixture(scope="module")
def many_headed(tight: Service) -> str:
    return model_of(tight, misbehaving.many_headed())


UNREADABLE: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"name": "top1", "output": "grid"}, ("the shape [24]", "[24, 2, 2, 8]", "want [24, 2, 2]")),
    ({"name": "top1", "output": "number"}, ("no class axis", "a row of it is 1")),
    ({"name": "top5", "output": "number"}, ("no class axis",)),
    ({"name": "balanced_accuracy", "output": "tokens"}, ("4 × 8", "one number")),
    ({"name": "f1", "output": "grid"}, ("2 × 2 × 8", "one number")),
    ({"name": "ece", "output": "grid"}, ("2 × 2 × 8",)),
    ({"name": "auc", "output": "tokens"}, ("4 × 8", "one number")),
    ({"name": "mae", "output": "classes", "labels": "numbers"}, ("8", "one number")),
    ({"name": "pearson", "output": "classes", "labels": "numbers"}, ("8",)),
    ({"name": "token_accuracy", "output": "classes", "labels": "words"}, ("1 position", "4")),
    ({"name": "cer", "output": "number", "labels": "words", "options": {"blank": 0}}, ("no class axis",)),
    ({"name": "cer", "output": "classes", "labels": "words", "options": {"blank": 0}}, ("one vector of 8", "CTC")),
    (
        {"name": "wer", "output": "classes", "labels": "words", "options": {"blank": 0, "separator": 1}},
        ("one vector of 8", "CTC"),
    ),
    ({"name": "exact_match", "output": "tokens", "labels": "words", "options": {"blank": 9}}, ("blank is class 9",)),
    ({"name": "perplexity", "output": "classes", "labels": "words"}, ("position",)),
    ({"name": "coco_map", "output": "five", "labels": "objects", "options": {"scores": "scores"}}, ("3 × 5",)),
    ({"name": "coco_map", "output": "boxes", "labels": "words", "options": {"scores": "scores"}}, ("labels are [",)),
    ({"name": "coco_map", "output": "boxes", "labels": "objects", "options": {"scores": "text"}}, ("'text'",)),
    ({"name": "coco_map", "output": "boxes", "labels": "objects", "options": {"scores": "classes"}}, ("'classes'",)),
    ({"name": "miou", "output": "classes", "labels": "points"}, ("8", "2 × 2")),
]


def test_outputs_that_a_metric_cannot_read(tight: Service, many_headed: str) -> None:
    """The job comes to its end, and says of each metric why it has no value."""
    metrics = [asked for asked, _ in UNREADABLE]
    body = evaluated(tight, many_headed, data_of(tight, **labelled(24)), metrics=metrics)
    assert body["state"] == "succeeded", body["error"]
    measured = [one for one in body["baseline"]["measurements"] if one["name"] in {each["name"] for each in metrics}]
    assert len(measured) == len(UNREADABLE)
    for asked, says in UNREADABLE:
        stated = {"output": asked["output"]} | ({"options": asked["options"]} if "options" in asked else {})
        stated |= {"labels": asked["labels"]} if "labels" in asked else {}
        one = found(body, asked["name"], **stated)
        assert (one["value"], one["method"]) == (None, "absent"), one
        assert len(one["reason"].split()) > 4, one
        for words in says:
            assert words in one["reason"], one
    assert any("text" in note for note in body["notes"]), "an output of text is not compared"
    assert found(body, "latency_p50")["value"] > 0


@pytest.mark.parametrize(
    ("metric", "place", "code", "says"),
    [
        ({"name": "top1", "output": "chosen"}, "/metrics/0/output", "output_not_float", ("int64", "classes")),
        ({"name": "top1", "output": "text"}, "/metrics/0/output", "output_not_float", ("string",)),
        ({"name": "top1", "output": "classe"}, "/metrics/0/output", "output_unknown", ("Did you mean classes",)),
        (
            {"name": "coco_map", "output": "boxes", "labels": "objects", "options": {"scores": "score"}},
            "/metrics/0/options/scores",
            "output_unknown",
            ("Did you mean scores",),
        ),
    ],
)
def test_outputs_that_no_metric_reads_are_refused_at_once(
    tight: Service, many_headed: str, metric: dict[str, Any], place: str, code: str, says: tuple[str, ...]
) -> None:
    body = {"kind": "evaluate", "model": many_headed, "metrics": [metric]}
    answer = tight.api.post("/v1/jobs", json=body | {"datasets": {"evaluation": every_row(tight)}})
    assert answer.status_code == 422, answer.text
    [error] = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == (place, code)
    is_helpful(error["detail"], *says)


def every_row(service: Service) -> str:
    if "labelled" not in service.made:
        service.made["labelled"] = data_of(service, **labelled(24))
    dataset_id: str = service.made["labelled"]
    return dataset_id


ROW_LABELS = np.arange(24, dtype=np.int64) % OUTPUTS

REFUSED_LABELS: dict[str, tuple[Any, str, tuple[str, ...]]] = {
    "one beyond": (ROW_LABELS + (ROW_LABELS == 7), "labels_out_of_range", ("0 to 8", "8 classes, 0 to 7")),
    "counted from 1": (ROW_LABELS + 1, "labels_out_of_range", ("1 to 8", "subtract 1")),
    "negative": (ROW_LABELS - 1, "labels_out_of_range", ("-1 to 6", "Map them")),
    "floats": (ROW_LABELS.astype(np.float32), "dataset_labels_not_integers", ("float32", "int64")),
}


@pytest.mark.parametrize("case", REFUSED_LABELS)
def test_labels_that_are_no_classes_of_the_model(tight: Service, case: str) -> None:
    """They are told at once, at the dataset; nothing is queued."""
    labels, code, says = REFUSED_LABELS[case]
    if "endless" not in tight.made:
        tight.made["endless"] = model_of(tight, misbehaving.endless())
    data = data_of(tight, x=misbehaving.rows(24), labels=labels)
    body = {"kind": "evaluate", "model": tight.made["endless"], "datasets": {"evaluation": data}, "metrics": ["top1"]}
    answer = tight.api.post("/v1/jobs", json=body)
    assert answer.status_code == 422, answer.text
    [error] = answer.json()["errors"]
    assert (error["pointer"], error["code"]) == ("/datasets/evaluation", code)
    is_helpful(error["detail"], *says)


def test_labels_out_of_range_under_another_name(tight: Service, many_headed: str) -> None:
    """What only the worker reads is told by its first step, before anything is run."""
    data = data_of(tight, x=misbehaving.rows(24), kinds=ROW_LABELS + 5)
    body = evaluated(tight, many_headed, data, metrics=[{"name": "top1", "output": "classes", "labels": "kinds"}])
    assert (body["state"], body["error"]["code"]) == ("failed", "labels_out_of_range"), body["error"]
    assert body["error"]["stage"] == "inspect"
    is_helpful(body["error"]["detail"], "evaluation dataset", "5 to 12", "8 classes")


def test_labels_that_are_no_numbers(tight: Service) -> None:
    """Rejected when they are uploaded, with the row."""
    labels = ROW_LABELS.astype(np.float32)
    labels[4] = np.nan
    body = upload(tight, "datasets", "d.npz", arrays(x=misbehaving.rows(24), labels=labels))
    assert (body["state"], body["error"]["code"]) == ("rejected", "dataset_not_finite")
    is_helpful(body["error"]["detail"], "'labels'", "NaN in row 4")


def test_labels_of_sequences_boxes_and_points_out_of_range(tight: Service, many_headed: str) -> None:
    """Labels whose classes only the metric knows: it has no value, and says which they are."""
    given = labelled(24)
    given["words"][3, 2] = 8
    given["points"][5, 1, 1] = 3
    given["objects"][2, 0, 0] = 0.5
    wanted = {"token_accuracy": "1 to 8", "cer": "1 to 8", "miou": "0 to 3", "coco_map": "no whole numbers"}
    metrics = [asked for asked in EVERY if asked["name"] in wanted]
    body = evaluated(tight, many_headed, data_of(tight, **given), metrics=metrics)
    assert body["state"] == "succeeded", body["error"]
    for name, says in wanted.items():
        one = found(body, name)
        assert (one["value"], one["method"]) == (None, "absent"), one
        assert says in one["reason"], one


# Evaluation sets that are too small to tell

OF_SEVERAL_CLASSES = ("f1", "balanced_accuracy", "worst_class", "auc")
OF_SEVERAL_VALUES = ("r2", "pearson", "spearman")


def test_an_evaluation_set_of_one_class(tight: Service, many_headed: str) -> None:
    """What tells classes apart has no value, with the reason; all the rest has one."""
    same = {"labels": np.full(24, 3, np.int64), "numbers": np.full(24, 0.5, np.float32)}
    goal = {"constraints": [{"metric": "auc", "min": 0.5}]}
    body = evaluated(tight, many_headed, data_of(tight, **labelled(24, **same)), metrics=EVERY, goal=goal)
    assert body["state"] == "succeeded", body["error"]
    without = dict.fromkeys(OF_SEVERAL_CLASSES, "one class alone, 3") | dict.fromkeys(OF_SEVERAL_VALUES, "not vary")
    for asked in EVERY:
        one = found(body, asked["name"])
        if asked["name"] in without:
            assert (one["value"], one["method"]) == (None, "absent"), one
            assert without[asked["name"]] in one["reason"], one
        else:
            is_sound(one)
    assert body["gate"] == "undecided"
    is_helpful(body["verdicts"][0]["reason"], "auc was not measured", "one class alone")


def is_sound(measured: dict[str, Any]) -> None:
    """A value inside its interval, where it has one."""
    assert measured["method"] == "measured", measured
    assert np.isfinite(measured["value"]), measured
    if measured["ci95"] is not None:
        assert measured["ci95"][0] <= measured["value"] <= measured["ci95"][1], measured


def test_an_evaluation_set_of_one_row(tight: Service, many_headed: str) -> None:
    """One row is right or wrong and tells next to nothing: the interval says that, or there is none."""
    goal = {"constraints": [{"metric": "top1", "min": 0.5}]}
    body = evaluated(tight, many_headed, data_of(tight, **labelled(1)), metrics=EVERY, goal=goal)
    assert body["state"] == "succeeded", body["error"]
    for asked in EVERY:
        one = found(body, asked["name"])
        if one["method"] == "absent":
            assert len(one["reason"].split()) > 4, one
            continue
        is_sound(one)
        assert one["count"] == 1, one
        if one["ci95"] is not None:
            wide = one["ci95"][1] - one["ci95"][0]
            assert wide > 0.75, f"one row shows no such thing: {one}"
    for name in (*OF_SEVERAL_CLASSES, *OF_SEVERAL_VALUES, "retrieval_recall"):
        assert found(body, name)["method"] == "absent", name
    for name in OF_SEVERAL_VALUES:
        assert "alone" in found(body, name)["reason"], name
    assert found(body, "top1")["ci95"] is not None
    assert body["gate"] == "undecided"
    is_helpful(body["verdicts"][0]["reason"])
    assert found(body, "latency_p50")["value"] > 0


# Targets that go away


@contextmanager
def worker_of(service: Service, target: str) -> Iterator[subprocess.Popen[bytes]]:
    """A worker that nobody starts again, on a target of its own."""
    environment = service.job_worker()[0].environ() | {"BITPRESS_TARGET": target}
    with (service.data_dir / "logs" / f"{target}.log").open("ab") as output:
        process = subprocess.Popen(
            worker_command(jobs_queue(target)),
            cwd=ROOT,
            env=environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        wait_until(lambda: is_alive(service, target), what=f"a worker of {target}")
        yield process
    finally:
        end_of(process)


def is_alive(service: Service, target: str) -> bool:
    return any(found["alive"] for found in service.api.get("/v1/targets").json()["items"] if found["id"] == target)


def end_of(process: subprocess.Popen[bytes]) -> None:
    """kill -9 of a worker: its own children die with it."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)


def steps_of(service: Service, job_id: str) -> list[str]:
    with service.database.read() as session:
        return list(session.scalars(select(JobStep.folder).where(JobStep.job_id == job_id)))


def has_timed(service: Service, job_id: str) -> bool:
    return any(folder.startswith("latency-") for folder in steps_of(service, job_id))


def evaluating(service: Service, target: str, **spec: Any) -> str:
    """A job that measures for a long time; its id."""
    rows = misbehaving.rows(ROWS)
    if "target's" not in service.made:
        model = model_of(service, misbehaving.endless())
        service.made["target's"] = {"model": model, "evaluation": data_of(service, x=rows, labels=LABELS)}
    made = service.made["target's"]
    job = service.submit(
        kind="evaluate",
        model=made["model"],
        datasets={"evaluation": made["evaluation"]},
        target=target,
        measure={"load": {"callers": [1, 2, 3, 4], "seconds": 60}},
        **spec,
    )
    job_id: str = job["id"]
    return job_id


def keeps_what_was_measured(body: dict[str, Any]) -> None:
    rows = misbehaving.rows(ROWS)
    assert found(body, "top1")["value"] == pytest.approx(right(LABELS, rows).mean())
    latency = found(body, "latency_p50")
    assert latency["value"] > 0
    assert latency["flags"] == ["incomplete"]
    assert "did not come to its end" in " ".join(body["notes"])


def test_a_target_that_goes_away_for_good(tight: Service) -> None:
    """The job waits for another worker, says so, and fails when none has come in time, with what was measured."""
    with worker_of(tight, "going") as worker:
        job_id = evaluating(tight, "going", limits={"queue_seconds": 6})
        wait_until(lambda: has_timed(tight, job_id), what="a latency")
        end_of(worker)
        wait_until(lambda: tight.job(job_id)["state"] == "queued", what="the job's return")
        waiting = tight.job(job_id)
        assert (waiting["attempt"], waiting["queue_position"]) == (1, 1)
        assert "its worker was lost" in waiting["message"]
        assert "going" in waiting["waiting_for"]
        body = tight.ended(job_id)
    assert (body["state"], body["error"]["code"], body["error"]["retryable"]) == ("failed", "queue_timeout", True)
    is_helpful(body["error"]["detail"], "stopped or was lost", "limits.queue_seconds", "Start a worker")
    assert (body["stage"], body["message"]) == (None, None)
    keeps_what_was_measured(body)
    assert steps_of(tight, job_id) == []


def test_a_target_that_comes_back_goes_on_where_it_was(tight: Service) -> None:
    with worker_of(tight, "coming") as worker:
        job_id = evaluating(tight, "coming", limits={"run_seconds": 8})
        wait_until(lambda: has_timed(tight, job_id), what="a latency")
        end_of(worker)
        before = steps_of(tight, job_id)
    with worker_of(tight, "coming"):
        wait_until(lambda: tight.job(job_id)["attempt"] == 2, what="another attempt")
        assert set(before) <= set(steps_of(tight, job_id)), "nothing measured is measured again"
        body = tight.ended(job_id)
    assert (body["state"], body["error"]["code"]) == ("failed", "time_limit_exceeded"), body["error"]
    keeps_what_was_measured(body)


def test_a_worker_that_is_lost_again_and_again(tight: Service) -> None:
    """After the third time the job fails, and what it measured is there."""
    job_id = evaluating(tight, "local")
    for attempt in (1, 2, 3):
        wait_until(lambda attempt=attempt: tight.job(job_id)["attempt"] == attempt, what=f"attempt {attempt}")
        wait_until(lambda: has_timed(tight, job_id), what="a latency")
        for process in tight.job_worker():
            kill(process)
    body = tight.ended(job_id)
    assert (body["state"], body["error"]["code"], body["error"]["retryable"]) == ("failed", "worker_lost", True)
    is_helpful(body["error"]["detail"], "3 times", "smaller model")
    keeps_what_was_measured(body)


def kill(process: psutil.Process) -> None:
    with suppress(psutil.NoSuchProcess):
        process.kill()


def test_a_cancelled_job_keeps_what_it_measured(tight: Service) -> None:
    job_id = evaluating(tight, "local")
    wait_until(lambda: has_timed(tight, job_id), what="a latency")
    assert tight.api.post(f"/v1/jobs/{job_id}/cancel").status_code in (200, 202)
    body = tight.ended(job_id)
    assert (body["state"], body["error"]) == ("cancelled", None)
    keeps_what_was_measured(body)


# Clocks that jump; those that a timing process reads are in tests/integration/tasks/test_clocks.py


def test_a_database_clock_that_jumps_forward(tight: Service) -> None:
    """Every lease has lapsed at once: the job goes back into the queue, is taken again, and goes on."""
    rows = data_of(tight, x=misbehaving.rows(ROWS), labels=LABELS)
    model = model_of(tight, misbehaving.endless())
    load = {"callers": [1], "seconds": 2}
    job = tight.submit(kind="evaluate", model=model, datasets={"evaluation": rows}, measure={"load": load})
    wait_until(lambda: has_timed(tight, job["id"]), what="a latency")

    def lapsed() -> bool:
        with tight.database.write() as session:
            session.execute(update(Job).where(Job.id == job["id"], Job.attempt == 1).values(lease_until=1))
        return bool(tight.job(job["id"])["attempt"] == 2)

    wait_until(lapsed, what="another attempt", every=0.01)
    body = tight.ended(job["id"])
    assert (body["state"], body["attempt"]) == ("succeeded", 2), body["error"]
    assert found(body, "latency_p50")["conditions"]["children"] == 2
    assert found(body, "top1")["count"] == ROWS


# Runtimes that are chosen by their time


def test_the_runtime_that_wins_is_named(tight: Service) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed (extra `openvino`)")
    rows = misbehaving.rows(ROWS)
    model = model_of(tight, misbehaving.undefined())
    body = evaluated(tight, model, data_of(tight, x=np.abs(rows), labels=LABELS), measure={"runtime": "auto"})
    assert body["state"] == "succeeded", body["error"]
    times = {
        one["conditions"]["runtime"]: one
        for one in body["baseline"]["measurements"]
        if one["name"] == "latency_p50" and one["value"] is not None
    }
    assert set(times) == {"onnxruntime", "openvino"}
    assert all(one["value"] > 0 and one["conditions"]["version"] for one in times.values())
    assert found(body, "latency_p50")["conditions"]["runtime"] == "onnxruntime", "goals go by the usual one"
    said = [note for note in body["notes"] if "openvino" in note.lower()]
    assert said, body["notes"]
    is_helpful(said[0])


def test_a_runtime_that_cannot_run_the_model_is_left_out_with_the_reason(tight: Service) -> None:
    """OpenVINO does not take text: the job goes on with the other, and says why."""
    pytest.importorskip("openvino", reason="OpenVINO is not installed (extra `openvino`)")
    model = model_of(tight, misbehaving.many_headed())
    body = evaluated(tight, model, measure={"runtime": "auto", "shapes": {"x": [1, 16]}})
    assert body["state"] == "succeeded", body["error"]
    left_out = [note for note in body["notes"] if note.startswith("openvino was not timed")]
    assert left_out, body["notes"]
    is_helpful(left_out[0])
