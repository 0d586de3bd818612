"""`bitpress optimize`: from a line of options to a job, its numbers and its exit code."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bitpress.command import results

from tests.unit.client import documents
from tests.unit.client.conftest import Ran
from tests.unit.client.documents import ARTIFACT_ID, DATASET_ID, JOB_ID, MODEL_ID
from tests.unit.client.misbehaving import Service, answer, content, page, problem, text

Run = Callable[..., Ran]
DATA = os.urandom(1000)
JOB = f"/v1/jobs/{JOB_ID}"
INT8 = ("-t", "dynamic_int8")


@pytest.fixture
def submitted(service: Service) -> Service:
    """A service that takes any job, and has one that ended well."""
    service.plan("POST", "/v1/jobs", answer(documents.job(), status=202))
    return service.plan("GET", JOB, answer(documents.ended_job(), ETag='"2"'))


def specification(service: Service) -> Any:
    (seen,) = service.requests("POST", "/v1/jobs")
    return seen.json()


def test_only_what_was_said_is_sent(submitted: Service, run: Run) -> None:
    ran = run("optimize", MODEL_ID, "-t", "dynamic_int8")
    assert ran.code == 0
    assert specification(submitted) == {"model": MODEL_ID, "recipe": {"technique": "dynamic_int8"}}
    assert ran.out == f"{JOB_ID}\n", "a script can read the id"
    assert f"bitpress jobs wait {JOB_ID}" in ran.err


def test_everything_that_can_be_said(submitted: Service, run: Run) -> None:
    ran = run(
        *("optimize", MODEL_ID, "--technique", "static_int8", "--calibration", DATASET_ID, "--tuning", "dst_2"),
        *("--evaluation", "dst_3", "--option", "calibration.method=percentile", "-O", "calibration.percentile=99.9"),
        *("-O", "per_channel=false", "--keep-float", "/head/*", "--keep-float", "op_type=Softmax"),
        *("--minimize", "latency=2,size=1", "--max-drop", "top1=0.01", "--at-least", "agreement=0.98"),
        *("--at-most", "latency_p50=5", "--metric", "kl", "--target", "kiosk", "--threads", 1, "--threads", 4),
        *(
            "--measure",
            '{"batch": [2], "runtime": "openvino"}',
            "--batch",
            8,
            "--priority",
            9,
            "--name",
            "lite",
            "--label",
            "team=kiosk",
            "--label",
            "note=a=b",
        ),
    )
    assert ran.code == 0, ran.err
    assert specification(submitted) == {
        "model": MODEL_ID,
        "datasets": {"calibration": DATASET_ID, "tuning": "dst_2", "evaluation": "dst_3"},
        "recipe": {
            "technique": "static_int8",
            "calibration": {"method": "percentile", "percentile": 99.9},
            "per_channel": False,
            "keep_float": ["/head/*", {"op_type": "Softmax"}],
        },
        "goal": {
            "minimize": {"latency": 2, "size": 1},
            "constraints": [
                {"metric": "top1", "max_drop": 0.01},
                {"metric": "agreement", "min": 0.98},
                {"metric": "latency_p50", "max": 5},
            ],
        },
        "metrics": ["kl"],
        "measure": {"threads": [1, 4], "batch": [8], "runtime": "openvino"},
        "target": "kiosk",
        "priority": 9,
        "name": "lite",
        "labels": {"team": "kiosk", "note": "a=b"},
    }


@pytest.mark.parametrize(
    ("options", "more"),
    [
        ([], {}),
        (["--split", "calibration=0.1,evaluation=0.9"], {"split": {"calibration": 0.1, "evaluation": 0.9}}),
    ],
)
@pytest.mark.parametrize(
    ("command", "same"),
    [
        (["optimize", MODEL_ID, *INT8], {"recipe": {"technique": "dynamic_int8"}}),
        (["evaluate", MODEL_ID], {"kind": "evaluate"}),
    ],
)
def test_one_dataset_for_all_roles(
    submitted: Service, run: Run, command: list[str], same: Any, options: list[str], more: Any
) -> None:
    ran = run(*command, "--data", DATASET_ID, *options)
    assert ran.code == 0, ran.err
    assert specification(submitted) == {"model": MODEL_ID, "datasets": {"all": DATASET_ID}, **same, **more}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--data", DATASET_ID, "--evaluation", DATASET_ID], "leave --evaluation out"),
        (["--evaluation", DATASET_ID, "--split", "evaluation=1"], "--data"),
        (["--data", DATASET_ID, "--split", "evaluation"], "'evaluation' is not of the form name=value"),
        (["--data", DATASET_ID, "--split", "evaluation=all"], "'all' is not a number"),
        (["--data", "nothing.npz"], "there is no file nothing.npz"),
    ],
)
@pytest.mark.parametrize("command", [["optimize", MODEL_ID, *INT8], ["evaluate", MODEL_ID]])
def test_a_split_that_makes_no_sense_is_sent_to_nobody(
    submitted: Service, run: Run, command: list[str], options: list[str], said: str
) -> None:
    ran = run(*command, *options)
    assert (ran.code, ran.out) == (2, "")
    assert said in " ".join(ran.err.split())
    assert submitted.seen == []


def test_recipes_and_goals_from_files(submitted: Service, run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"technique": "static_int8", "calibration": {"samples": 5}, "keep_float": ["a"]}))
    goal = '{"minimize": "size", "constraints": [{"metric": "top1", "min": 0.9}]}'
    options = ("-O", "calibration.method=entropy", "--keep-float", "b", "--max-drop", "top1=0.02")
    assert run("optimize", MODEL_ID, "--recipe", f"@{recipe}", "--goal", goal, *options).code == 0
    sent = specification(submitted)
    assert sent["recipe"]["calibration"] == {"samples": 5, "method": "entropy"}
    assert sent["recipe"]["keep_float"] == ["a", "b"]
    assert sent["goal"]["constraints"] == [{"metric": "top1", "min": 0.9}, {"metric": "top1", "max_drop": 0.02}]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--max-drop", "top1=1%"], "'1%' is not a number; shares are fractions"),
        (["--max-drop", "top1"], "'top1' is not of the form name=value"),
        (["--label", "=x"], "'=x' is not of the form name=value"),
        (["--recipe", "{"], "not JSON"),
        (["--recipe", "[]"], "has to be a JSON object"),
        (["--recipe", "@/nowhere.json"], "cannot read /nowhere.json"),
        (["-O", "a=1", "-O", "a.b=2"], "already has a value"),
        (["--threads", "0"], "--threads"),
        (["--nonsense"], "--nonsense"),
        (["--calibration", "nothing.npz"], "there is no file nothing.npz"),
        (["--evaluation", "mdl_1"], "there is no file mdl_1"),
    ],
)
def test_a_mistake_is_named_before_anything_is_sent(
    submitted: Service, run: Run, options: list[str], said: str
) -> None:
    ran = run("optimize", MODEL_ID, *INT8, *options)
    assert (ran.code, ran.out) == (2, "")
    assert said in " ".join(ran.err.split())
    assert submitted.seen == []


@pytest.mark.parametrize("options", [[], ["--max-drop", "top1=0.01"], ["-O", "per_channel=false"], ["--recipe", "{}"]])
def test_without_a_technique_nothing_is_uploaded(
    submitted: Service, run: Run, tmp_path: Path, options: list[str]
) -> None:
    model = tmp_path / "fresh.onnx"
    model.write_bytes(DATA)
    ran = run("optimize", model, *options)
    assert (ran.code, ran.out) == (2, "")
    assert "--technique" in ran.err
    assert "bitpress techniques" in ran.err
    assert submitted.seen == []


@pytest.mark.parametrize("options", [["--calibration", "nothing.npz"], ["--evaluation", "mdl_1"], ["--tuning", "."]])
def test_no_model_is_uploaded_for_data_that_are_not_there(
    submitted: Service, run: Run, tmp_path: Path, options: list[str]
) -> None:
    model = tmp_path / "fresh.onnx"
    model.write_bytes(DATA)
    assert run("optimize", model, *INT8, *options).code == 2
    assert submitted.seen == []


def test_a_file_is_uploaded_once(submitted: Service, run: Run, tmp_path: Path) -> None:
    model, data = tmp_path / "net.onnx", tmp_path / "images.npz"
    model.write_bytes(DATA)
    data.write_bytes(DATA[1:])
    submitted.plan("GET", "/v1/models", page([]))
    submitted.plan("POST", "/v1/models", answer(documents.model(), status=201))
    submitted.plan(
        "GET",
        "/v1/datasets",
        page([documents.dataset(id="dst_pictures", preprocess={"input": "x"}), documents.dataset()]),
    )
    ran = run("optimize", model, *INT8, "--calibration", data)
    assert ran.code == 0, ran.err
    assert specification(submitted)["datasets"] == {"calibration": DATASET_ID}
    asked = submitted.requests("GET", "/v1/models")[0].query
    assert asked == {"sha256": hashlib.sha256(DATA).hexdigest(), "state": "ready"}
    assert submitted.requests("POST", "/v1/datasets") == []
    assert f"net.onnx is {MODEL_ID}, uploaded now" in ran.err
    assert f"images.npz is {DATASET_ID}, uploaded before" in ran.err


def test_a_rejected_upload_ends_it(submitted: Service, run: Run, tmp_path: Path) -> None:
    model = tmp_path / "net.onnx"
    model.write_bytes(DATA)
    error = {"code": "not_onnx", "detail": "The file is no ONNX model. Export it anew."}
    submitted.plan("GET", "/v1/models", page([]))
    submitted.plan("POST", "/v1/models", answer(documents.model(state="rejected", error=error), status=201))
    ran = run("optimize", model, *INT8)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "bitpress: The file is no ONNX model. Export it anew. (not_onnx)\n"


def test_waiting_prints_the_numbers(submitted: Service, run: Run) -> None:
    ran = run("optimize", MODEL_ID, "-t", "static_int8", "--wait")
    assert ran.code == 0, ran.err
    lines = [" ".join(line.split()) for line in ran.out.splitlines()]
    assert "variant size p50 ms p99 ms top1 % agreement % × fp32 gate" in lines
    assert "fp32 251 KB 1.200 1.500 91.2 [90.0, 92.4] - 1.00" in lines
    assert "static_int8 81 KB 0.800* - 90.8 [89.6, 92.0] 98.5 1.50 met" in lines
    assert "static_int8 is 1.50 times as fast." in lines
    assert "met: top1, max_drop 0.01" in lines
    assert "* measured under doubt: noisy" in lines
    assert f"artifact: {ARTIFACT_ID}" in lines


@pytest.mark.parametrize(
    ("measured", "written"),
    [
        (documents.measurement("sqnr_db", 34.128, "dB", ci95=[33.0, 35.0]), "34.1 [33.0, 35.0]"),
        (documents.measurement("kl", 0.000123456, "nats"), "0.0001235"),
        (documents.measurement("latency_p99", 12.34567, "ms", method="estimated"), "~12.3"),
        (documents.measurement("top1", None, "fraction", method="absent"), "-"),
    ],
)
def test_numbers_are_as_precise_as_they_are_meant(measured: Any, written: str) -> None:
    assert results._written(measured, interval=True) == written


def test_a_speed_within_the_noise_says_so() -> None:
    (candidate,) = documents.ended_job()["candidates"]
    candidate["comparisons"][0] |= {"ratio": 0.99, "within_noise": True}
    assert results._speed(candidate) == "1.01 (noise)"


def test_json_is_alone_on_stdout(submitted: Service, run: Run) -> None:
    ran = run("optimize", MODEL_ID, *INT8, "--wait", "--json")
    assert ran.json() == documents.ended_job()
    assert f"{JOB_ID} is queued" in ran.err
    assert "%" not in ran.err, "no bar where nobody is looking"


@pytest.mark.parametrize(
    ("ended", "code"),
    [
        ({"gate": "met"}, 0),
        ({"gate": "none"}, 0),
        ({"gate": None}, 0),
        ({"gate": "missed"}, 3),
        ({"gate": "undecided"}, 4),
        ({"state": "cancelled", "gate": None}, 5),
        ({"state": "failed", "gate": None, "error": {"code": "memory_limit_exceeded", "detail": "Too large."}}, 1),
    ],
)
def test_the_exit_code_says_how_it_ended(service: Service, run: Run, ended: dict[str, Any], code: int) -> None:
    service.plan("POST", "/v1/jobs", answer(documents.job(), status=202))
    service.plan("GET", JOB, answer(documents.ended_job(**ended), ETag='"2"'))
    assert run("optimize", MODEL_ID, *INT8, "--wait").code == code
    assert run("jobs", "wait", JOB_ID).code == code
    assert run("jobs", "show", JOB_ID).code == 0, "a look is a look"


def test_an_end_to_waiting(service: Service, run: Run) -> None:
    service.plan("POST", "/v1/jobs", answer(documents.job(), status=202))
    service.plan("GET", JOB, answer(documents.job(state="running", stage="gate", progress=0.5), ETag='"1"'))
    ran = run("optimize", MODEL_ID, *INT8, "--wait", "--timeout", "0")
    assert ran.code == 7
    assert f"{JOB_ID} has not ended after 0 s; it goes on." in ran.err


def test_an_interrupted_wait_says_that_the_job_goes_on(
    submitted: Service, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("bitpress.client.Client.wait", interrupted)
    ran = run("optimize", MODEL_ID, *INT8, "--wait")
    assert ran.code == 130
    assert f"{JOB_ID} goes on" in ran.err


def test_everything_is_saved(submitted: Service, run: Run, tmp_path: Path) -> None:
    known = documents.artifact(DATA, hashlib.sha256(DATA).hexdigest())
    submitted.plan("GET", f"/v1/artifacts/{ARTIFACT_ID}", answer(known))
    submitted.plan("GET", f"/v1/artifacts/{ARTIFACT_ID}/content", content(DATA))
    submitted.plan("GET", f"/v1/artifacts/{ARTIFACT_ID}/manifest", answer({"recipe": {}}))
    submitted.plan("GET", f"{JOB}/report", answer({"samples": [1, 2]}), text(200, "<!DOCTYPE html>"))
    folder = tmp_path / "out" / "here"
    ran = run("optimize", MODEL_ID, *INT8, "--output", folder)
    assert ran.code == 0, ran.err
    assert (folder / "net.static_int8.onnx").read_bytes() == DATA
    assert json.loads((folder / "net.static_int8.onnx.manifest.json").read_text()) == {"recipe": {}}
    assert json.loads((folder / f"{JOB_ID}.report.json").read_text()) == {"samples": [1, 2]}
    assert (folder / f"{JOB_ID}.report.html").read_text() == "<!DOCTYPE html>"
    assert f"saved {folder / 'net.static_int8.onnx'}" in ran.err


def test_a_service_that_draws_no_page_gives_the_numbers(submitted: Service, run: Run, tmp_path: Path) -> None:
    known = documents.artifact(DATA, hashlib.sha256(DATA).hexdigest())
    submitted.plan("GET", f"/v1/artifacts/{ARTIFACT_ID}", answer(known))
    submitted.plan("GET", f"/v1/artifacts/{ARTIFACT_ID}/content", content(DATA))
    submitted.plan("GET", f"/v1/artifacts/{ARTIFACT_ID}/manifest", answer({"recipe": {}}))
    submitted.plan("GET", f"{JOB}/report", answer({"samples": [1, 2]}))
    ran = run("optimize", MODEL_ID, *INT8, "--output", tmp_path)
    assert ran.code == 0, ran.err
    assert "as JSON only" in ran.err
    assert json.loads((tmp_path / f"{JOB_ID}.report.json").read_text()) == {"samples": [1, 2]}
    assert list(tmp_path.glob("*.html")) == []


def test_a_dry_run_creates_nothing(service: Service, run: Run) -> None:
    errors = [{"pointer": "/datasets/calibration", "code": "calibration_missing", "detail": "Give data."}]
    sound = {"valid": True, "spec": {}, "steps": ["inspect", "gate"], "errors": [], "doubts": ["Nothing held out."]}
    wrong = {"valid": False, "spec": None, "steps": [], "errors": errors, "doubts": []}
    service.plan("POST", "/v1/jobs/validate", answer(sound), answer(wrong))
    ran = run("optimize", MODEL_ID, "-t", "dynamic_int8", "--dry-run")
    assert (ran.code, ran.out) == (0, "doubtful: Nothing held out.\nwould run: inspect, gate\n")
    ran = run("optimize", MODEL_ID, "-t", "static_int8", "--dry-run")
    assert (ran.code, ran.out) == (1, "wrong: /datasets/calibration: Give data. (calibration_missing)\n")
    assert service.requests("POST", "/v1/jobs") == []


def test_a_refusal_names_every_field(service: Service, run: Run) -> None:
    errors = [
        {"pointer": "/recipe/percentil", "code": "unknown_field", "detail": "There is no option 'percentil' here."},
        {"pointer": "/goal", "code": "contradiction", "detail": "Nothing can be both."},
    ]
    service.plan("POST", "/v1/jobs", problem(422, "unknown_field", "2 things are wrong.", errors=errors))
    ran = run("optimize", MODEL_ID, *INT8)
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines() == [
        "bitpress: 2 things are wrong. (unknown_field)",
        "  /recipe/percentil: There is no option 'percentil' here. (unknown_field)",
        "  /goal: Nothing can be both. (contradiction)",
    ]
