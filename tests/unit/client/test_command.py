"""The other commands: what they print, where, and how they end."""

import fcntl
import hashlib
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from bitpress.command import serve
from bitpress.command.exits import MEANINGS, ExitCode
from bitpress.command.output import in_bytes

from tests.unit.client import documents
from tests.unit.client.conftest import Ran
from tests.unit.client.documents import ARTIFACT_ID, DATASET_ID, JOB_ID, MODEL_ID
from tests.unit.client.misbehaving import KEY, Service, answer, content, not_modified, page, problem, text

Run = Callable[..., Ran]
README = Path(__file__).resolve().parents[3] / "client" / "README.md"
NO_CONTENT = text(204, "")


def test_what_is_listed_is_one_line_each(service: Service, run: Run) -> None:
    service.plan("GET", "/v1/models", page([documents.model(), documents.model(name="x" * 200, state="rejected")]))
    ran = run("models", "list")
    assert ran.code == 0
    assert len(ran.out.splitlines()) == 4
    assert re.search(rf"{MODEL_ID}\s+net\s+ready\s+251 KB", ran.out)


@pytest.mark.parametrize("kind", ["models", "datasets", "jobs"])
def test_lists_as_json_hold_no_more_than_asked_for(service: Service, run: Run, kind: str) -> None:
    service.plan("GET", f"/v1/{kind}", page([{"id": "1"}, {"id": "2"}], "2"), page([{"id": "3"}, {"id": "4"}], "4"))
    ran = run(kind, "list", "--json", "--limit", 3)
    assert [item["id"] for item in ran.json()] == ["1", "2", "3"]
    assert len(service.seen) == 2


def test_jobs_are_chosen_from(service: Service, run: Run) -> None:
    service.plan("GET", "/v1/jobs", page([documents.job()]))
    ran = run("jobs", "list", "--state", "queued", "--label", "team=kiosk", "--model", MODEL_ID, "--target", "local")
    assert service.seen[0].query == {
        "state": "queued",
        "label": "team:kiosk",
        "model": MODEL_ID,
        "target": "local",
    }
    assert re.search(rf"{JOB_ID}\s+kiosk\s+static_int8\s+queued behind 2", ran.out)


def test_a_model_is_shown(service: Service, run: Run) -> None:
    service.plan("GET", f"/v1/models/{MODEL_ID}", answer(documents.model(notes=["Two inputs are constant."])))
    ran = run("models", "show", MODEL_ID)
    for line in (
        "format      onnx, opset 17",
        "parameters  62,410",
        "inputs      image float32[batch, 1, 28, ?]",
        "operators   Conv 12, Relu 11",
        "notes       Two inputs are constant.",
    ):
        assert line in ran.out


def test_a_dataset_is_uploaded_with_its_preprocess(service: Service, run: Run, tmp_path: Path) -> None:
    images = tmp_path / "images.zip"
    images.write_bytes(b"PK")
    service.plan("POST", "/v1/datasets", answer(documents.dataset(), status=201))
    ran = run("datasets", "upload", images, "--preprocess", '{"input": "image"}', "--name", "holdout", "--json")
    assert ran.json()["id"] == DATASET_ID
    assert b'{"input": "image"}' in service.seen[0].body


def test_a_bucket_is_named(service: Service, run: Run) -> None:
    service.plan("POST", "/v1/models", answer(documents.model(), status=201))
    assert run("models", "upload", "s3://models/net.onnx").code == 0
    assert service.seen[0].json() == {"source": "s3://models/net.onnx"}


def test_downloads_print_where_they_went(
    service: Service, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = b"onnx"
    service.plan(
        "GET", f"/v1/artifacts/{ARTIFACT_ID}", answer(documents.artifact(data, hashlib.sha256(data).hexdigest()))
    )
    service.plan("GET", f"/v1/artifacts/{ARTIFACT_ID}/content", content(data))
    monkeypatch.chdir(tmp_path)
    assert run("artifacts", "download", ARTIFACT_ID).out == "net.static_int8.onnx\n"
    assert run("artifacts", "download", ARTIFACT_ID, "-o", tmp_path / "b.onnx").out == f"{tmp_path / 'b.onnx'}\n"
    assert (tmp_path / "b.onnx").read_bytes() == data


def test_a_folder_that_is_not_there(service: Service, run: Run, tmp_path: Path) -> None:
    service.plan("GET", f"/v1/artifacts/{ARTIFACT_ID}", answer(documents.artifact(b"", "0" * 64)))
    ran = run("artifacts", "download", ARTIFACT_ID, "-o", tmp_path / "nowhere" / "b.onnx")
    assert ran.code == 1
    assert re.fullmatch(r"bitpress: .*/nowhere/.*: No such file or directory\n", ran.err)


@pytest.mark.parametrize(
    ("kind", "thing"),
    [("models", MODEL_ID), ("datasets", DATASET_ID), ("jobs", JOB_ID), ("artifacts", ARTIFACT_ID)],
)
def test_deleting(service: Service, run: Run, kind: str, thing: str) -> None:
    refused = problem(409, "in_use", "It is used by job job_1. Delete its jobs first.")
    service.plan("DELETE", f"/v1/{kind}/{thing}", NO_CONTENT, refused)
    ran = run(kind, "delete", thing)
    assert (ran.code, ran.out, ran.err) == (0, "", f"{thing} is deleted\n")
    ran = run(kind, "delete", thing)
    assert (ran.code, ran.err) == (1, "bitpress: It is used by job job_1. Delete its jobs first. (in_use)\n")


def test_documents_are_printed(service: Service, run: Run) -> None:
    service.plan("GET", f"/v1/jobs/{JOB_ID}/log", text(200, "one\ntwo\n", Content_Type="text/plain; charset=utf-8"))
    service.plan("GET", f"/v1/jobs/{JOB_ID}/report", answer({"samples": [1]}))
    service.plan("GET", f"/v1/artifacts/{ARTIFACT_ID}/manifest", answer({"recipe": "ä"}))
    assert run("jobs", "log", JOB_ID).out == "one\ntwo\n"
    assert run("jobs", "report", JOB_ID).json() == {"samples": [1]}
    assert "ä" in run("artifacts", "manifest", ARTIFACT_ID).out


def test_cancelling(service: Service, run: Run) -> None:
    service.plan("POST", f"/v1/jobs/{JOB_ID}/cancel", answer(documents.job(state="cancelling"), status=202))
    assert run("jobs", "cancel", JOB_ID).err == f"{JOB_ID} is cancelling\n"


def test_the_catalogue(service: Service, run: Run) -> None:
    machine = {"model_name": "A processor", "cores": 2, "memory_bytes": 8_000_000_000}
    local = {"id": "local", "alive": True, "builtin": False, "summary": None, "features": ["avx2"]}
    profile = {"id": "arm-i8mm", "alive": False, "builtin": True, "summary": "64-bit Arm.", "features": ["i8mm"]}
    targets = [{**local, "fingerprint": machine}, {**profile, "fingerprint": {}}]
    schema = {
        "properties": {
            "technique": {"const": "static_int8", "default": "static_int8"},
            "calibration": {"$ref": "#/$defs/Calibration"},
            "per_channel": {"default": True, "description": "One scale\na channel."},
        },
        "$defs": {"Calibration": {"properties": {"samples": {"default": 200, "description": "Rows."}}}},
    }
    technique = {"id": "static_int8", "summary": "Weights and activations.", "schema": schema}
    service.plan("GET", "/v1/targets", page(targets))
    service.plan("GET", "/v1/techniques", page([technique]))
    service.plan("GET", "/v1/metrics", page([{"id": "kl", "summary": "Nats.", "schema": {}}]))
    listed = run("targets").out
    assert re.search(r"local\s+yes\s+A processor\s+2\s+8 GB\s+avx2", listed)
    assert re.search(r"arm-i8mm\s+no\s+64-bit Arm\.\s+-\s+i8mm", listed), "what a profile is stands for its processor"
    assert re.search(r"static_int8\s+Weights and activations\.", run("techniques").out)
    options = run("techniques", "static_int8").out
    assert re.search(r"calibration\.samples\s+200\s+Rows\.", options)
    assert re.search(r"per_channel\s+true\s+One scale a channel\.", options)
    assert re.search(r"kl\s+Nats\.", run("metrics").out)
    ran = run("techniques", "magic")
    assert ran.code == 2
    assert "there are static_int8" in " ".join(ran.err.split())


def test_a_key_that_is_wrong(service: Service, run: Run) -> None:
    service.plan("GET", "/v1/targets", problem(401, "unauthenticated", "The API key is unknown."))
    ran = run("targets")
    assert ran.code == 1
    assert ran.err == (
        "bitpress: The API key is unknown. (unauthenticated)\n  Set BITPRESS_KEY to the API key of this service.\n"
    )


def test_a_service_that_is_not_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BITPRESS_URL", "http://127.0.0.1:9")
    ran = run("targets")
    assert (ran.code, ran.out) == (6, "")
    assert re.fullmatch(r"bitpress: Cannot reach http://127\.0\.0\.1:9: .*\.\n", ran.err)


@pytest.mark.parametrize("command", [["jobs", "show"], ["models", "delete"], ["artifacts", "manifest"]])
@pytest.mark.parametrize("thing", ["dst_1", "mdl", "job_../models", "art_A"])
def test_an_id_of_another_kind(service: Service, run: Run, command: list[str], thing: str) -> None:
    ran = run(*command, thing)
    assert ran.code == 2
    assert "is not an id of the form" in " ".join(ran.err.split())
    assert service.seen == []


def test_exit_codes_are_written_down(run: Run) -> None:
    said = run("--help").out
    documented = README.read_text(encoding="utf-8")
    assert set(MEANINGS) == set(ExitCode)
    for code, meaning in MEANINGS.items():
        assert f"{code:>3}  {meaning}" in said
        assert f"| {code} | {meaning} |" in documented


def test_the_service_is_started_where_it_is_installed(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    started: list[list[str]] = []
    monkeypatch.setattr(serve, "find_spec", lambda name: SimpleNamespace(name=name))
    monkeypatch.setattr(os, "execv", lambda path, command: started.append(command))
    run("serve", "--port", "0", "--help")
    assert started == [[sys.executable, "-P", "-m", "app.embedded", "--port", "0", "--help"]]


def test_where_it_is_not_installed_it_says_how(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError("No module named 'app'")

    monkeypatch.setattr(serve, "find_spec", missing)
    ran = run("serve")
    assert ran.code == 1
    assert "`make serve` installs and starts it" in ran.err


def test_help_loads_neither_httpx_nor_rich() -> None:
    program = (
        "import sys\nfrom bitpress.command import main\nsys.argv = ['bitpress', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    print({'httpx', 'rich', 'pydantic', 'app'} & set(sys.modules))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("set()\n")


def test_the_sdk_needs_no_pydantic_and_no_service() -> None:
    program = "import sys, bitpress; bitpress.Client; print({'pydantic', 'app', 'typer'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_a_bar_is_drawn_on_a_terminal_and_json_stays_clean(service: Service) -> None:
    service.plan("POST", "/v1/jobs", answer(documents.job(), status=202))
    service.plan(
        "GET",
        f"/v1/jobs/{JOB_ID}",
        answer(documents.job(state="running", stage="candidates", message="static_int8", progress=0.4), ETag='"1"'),
        not_modified('"1"', after=1.0),
        answer(documents.ended_job(), ETag='"2"'),
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    drawn = bytearray()

    def look() -> None:
        while True:
            try:
                drawn.extend(os.read(ours, 4096))
            except OSError:
                return

    watcher = threading.Thread(target=look)
    watcher.start()
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from bitpress.command import main; main()",
            "optimize",
            MODEL_ID,
            "-t",
            "float16",
            "--wait",
            "--json",
        ],
        env={**os.environ, "BITPRESS_URL": service.url, "BITPRESS_KEY": KEY, "TERM": "xterm"},
        stdout=subprocess.PIPE,
        stderr=theirs,
        check=False,
    )
    os.close(theirs)
    watcher.join(5)
    os.close(ours)
    assert done.returncode == 0
    assert json.loads(done.stdout)["state"] == "succeeded"
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", drawn.decode())
    assert re.search(r"candidates: static_int8 .*40%", plain)


@pytest.mark.parametrize(
    ("count", "written"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 KB"),
        (9_960, "9.96 KB"),
        (251_300, "251 KB"),
        (999_600, "1 MB"),
        (600_000_000, "600 MB"),
        (1_230_000_000, "1.23 GB"),
        (5e15, "5000 TB"),
    ],
)
def test_sizes(count: float, written: str) -> None:
    assert in_bytes(count) == written
