"""What is left of a job: the artifact, its manifest with lines that run it, and the report."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from packaging.requirements import Requirement

from tests.parts import models
from tests.unit.report.markup import Page
from tests.unit.steps.conftest import Job, StepFailed, images, vectors
from workers.runtimes.session import load
from workers.steps.snippet import snippet


@pytest.fixture(scope="session")
def clean_packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with numpy and onnxruntime, what they require, and nothing else."""
    folder = tmp_path_factory.mktemp("packages")
    waiting, seen = ["numpy", "onnxruntime"], set[str]()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        found = distribution(name)
        tops = {Path(str(file)).parts[0] for file in found.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (folder / top).exists():
                (folder / top).symlink_to(found.locate_file(top))
        requirements = [Requirement(text) for text in found.requires or ()]
        waiting += [one.name for one in requirements if one.marker is None or one.marker.evaluate({"extra": ""})]
    assert "onnx" not in {path.name for path in folder.iterdir()}
    return folder


def run_snippet(job: Job, packaged: dict[str, Any], packages: Path, folder: Path) -> str:
    """Run the manifest's lines beside the artifact, with nothing of this environment."""
    folder.mkdir()
    manifest = json.loads((job.scratch / "package" / packaged["manifest"]).read_text())
    (artifact,) = packaged["artifacts"]
    shutil.copy(job.scratch / "package" / artifact["file"], folder / artifact["file_name"])
    (folder / "run.py").write_text(manifest["snippet"])
    start = "import sys, runpy; sys.path.insert(0, sys.argv[1]); runpy.run_path('run.py', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", start, str(packages)],
        cwd=folder,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def packaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Job, dict[str, Any]]:
    """A static job with everything measured."""
    job = Job(tmp_path_factory.mktemp("scratch"))
    job.save_model(models.conv_net())
    job.save_dataset("calibration", image=images(8, seed=1))
    job.save_dataset("evaluation", image=images(20, seed=2), labels=np.arange(20) % 10)
    job.spec = {
        "recipe": {"technique": "static_int8"},
        "goal": {"constraints": [{"metric": "agreement", "max_drop": 0.5}]},
    }
    job.run_until("candidates")
    return job, job.package(job.measure())


def test_the_artifact_is_the_candidates_file(packaged: tuple[Job, dict[str, Any]]) -> None:
    job, result = packaged
    (artifact,) = result["artifacts"]
    path = job.scratch / "package" / artifact["file"]

    assert artifact["file_name"] == "My-net-static_int8.onnx"
    assert artifact["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert artifact["bytes"] == path.stat().st_size
    # A file with two names would be refused by whoever fetches it.
    assert path.stat().st_nlink == 1


def test_the_manifest_says_what_it_is_and_where_it_comes_from(packaged: tuple[Job, dict[str, Any]]) -> None:
    job, result = packaged
    manifest = json.loads((job.scratch / "package" / result["manifest"]).read_text())
    (artifact,) = result["artifacts"]

    assert manifest["artifact"]["sha256"] == artifact["sha256"]
    assert manifest["artifact"]["files"] == [
        {"name": artifact["file_name"], "bytes": artifact["bytes"], "sha256": artifact["sha256"]}
    ]
    assert manifest["model"]["sha256"] == "0" * 64
    assert set(manifest["data"]) == {"calibration", "evaluation"}
    assert manifest["recipe"]["reduce_range"] == "by_layer"
    assert manifest["versions"]["onnxruntime"] == "1.32.0"
    assert manifest["target"]["id"] == "0123456789abcdef"
    assert manifest["session_options"] == {}
    assert {"latency_p50", "artifact_bytes", "agreement", "peak_memory"} <= {
        entry["name"] for entry in manifest["measurements"]
    }
    report = (job.scratch / "package" / result["report"]).read_bytes()
    assert manifest["report"]["sha256"] == hashlib.sha256(report).hexdigest()


def test_the_report_holds_everything(packaged: tuple[Job, dict[str, Any]]) -> None:
    job, result = packaged
    report = json.loads((job.scratch / "package" / result["report"]).read_text())

    assert report["spec"]["recipe"]["technique"] == "static_int8"
    assert report["gate"] in {"met", "missed", "undecided"}
    assert report["verdicts"][0]["constraint"]["metric"] == "agreement"
    assert report["conclusion"]
    assert report["rows"] == {"calibration": 8, "evaluation": 20}
    assert report["calibration"]["samples"] == 8
    assert report["steps"][0]["step"] == "inspect"
    (candidate,) = report["candidates"]
    assert candidate["id"] == report["chosen"]
    assert "latency_p50" in {entry["name"] for entry in candidate["measurements"]}
    assert "latency_p50" in {entry["name"] for entry in report["baseline"]["measurements"]}
    latency = report["samples"][f"latency-{candidate['id']}-1"]
    assert len(latency["against"]["first"][0]) >= 20
    assert "Folded 1 batch normalization into the product before it." in report["notes"]


def test_the_report_is_a_page_too(packaged: tuple[Job, dict[str, Any]]) -> None:
    job, result = packaged
    report = json.loads((job.scratch / "package" / result["report"]).read_text())
    page = Page((job.scratch / "package" / result["page"]).read_text())

    assert report["conclusion"] in page.text
    assert "My net.onnx" in page.text
    assert page.figures
    assert {path.name for path in (job.scratch / "package").iterdir()} == {
        *("request.json", "result.json", "manifest.json", "report.json", "report.html"),
        result["artifacts"][0]["file"],
    }


def test_what_is_lost_is_paired_by_rows(packaged: tuple[Job, dict[str, Any]]) -> None:
    """Top-1 of the same 20 rows, by both models; the interval is that of the gate at the same confidence."""
    job, result = packaged
    report = json.loads((job.scratch / "package" / result["report"]).read_text())
    (candidate,) = report["candidates"]
    (drop,) = report["drops"][candidate["id"]]
    before, after = (
        next(found["value"] for found in part["measurements"] if found["name"] == "top1")
        for part in (report["baseline"], candidate)
    )

    assert drop["metric"] == "top1"
    assert drop["value"] == pytest.approx(before - after)
    assert drop["ci95"][0] <= drop["value"] <= drop["ci95"][1]
    assert drop["ci95"][1] - drop["ci95"][0] > 0.1, "20 rows do not tell more"
    assert json.loads((job.scratch / "gate" / "result.json").read_text())["drops"] == report["drops"]


def test_a_page_that_cannot_be_written_costs_no_result(job: Job) -> None:
    job.save_model(models.mlp())
    job.run_until("candidates")
    (job.scratch / "package" / "report.html").mkdir(parents=True)

    result = job.package(job.measure())

    assert result["page"] is None
    assert (job.scratch / "package" / result["artifacts"][0]["file"]).is_file()
    assert (job.scratch / "package" / result["report"]).is_file()


def test_no_place_of_this_machine_is_told(packaged: tuple[Job, dict[str, Any]]) -> None:
    job, result = packaged

    for name in (result["manifest"], result["report"], result["page"]):
        assert str(job.scratch) not in (job.scratch / "package" / name).read_text()


def test_the_manifest_names_the_runtime_that_was_timed(packaged: tuple[Job, dict[str, Any]]) -> None:
    job, result = packaged
    manifest = json.loads((job.scratch / "package" / result["manifest"]).read_text())
    (runtime,) = manifest["runtimes"]
    assert (runtime["runtime"], runtime["version"]) == ("onnxruntime", ort.__version__)
    assert (runtime["providers"], runtime["threads"]) == (["CPUExecutionProvider"], 1)
    assert not {"rows", "children", "batch", "shapes", "target"} & set(runtime)
    assert "slower or less accurate" in manifest["snippet"]
    assert "do not use" not in manifest["snippet"]


@pytest.mark.parametrize("asked", ["openvino", "auto"])
def test_an_artifact_that_another_runtime_was_timed_on(
    asked: str, job: Job, clean_packages: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    known = distribution("openvino").version
    job.save_model(models.mlp())
    job.spec = {"measure": {"runtime": asked}}
    job.run_until("candidates")
    result = job.package(job.measure(runtime="openvino"))
    manifest = json.loads((job.scratch / "package" / result["manifest"]).read_text())
    found = {runtime["runtime"]: runtime for runtime in manifest["runtimes"]}
    assert list(found) == (["openvino"] if asked == "openvino" else ["onnxruntime", "openvino"])
    assert found["openvino"]["device"] == "CPU"
    assert found["openvino"]["version"] == manifest["versions"]["openvino"] == known
    assert manifest["versions"]["onnxruntime"] == ort.__version__
    text = manifest["snippet"]
    # Of several, goals and metrics are those of the first.
    assert (f"measured with openvino {known}" in text) == (asked == "openvino")
    assert ("slower" in text) == (asked == "auto")
    assert run_snippet(job, result, clean_packages, tmp_path / "clean") == "y (1, 5)\n"


def test_a_snippet_runs_on_the_providers_that_were_timed(tmp_path: Path) -> None:
    session = load(models.save(models.mlp(), tmp_path / "m.onnx"))
    providers = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    text = snippet(
        "a.onnx",
        "a.onnx",
        feeds={"x": vectors(1)},
        inputs=session.inputs,
        session_options={},
        threads=1,
        version="1",
        measured_by={"runtime": "onnxruntime", "version": "1", "providers": providers},
    )
    assert f"providers={providers!r}" in text
    assert "an onnxruntime that has CUDAExecutionProvider" in text
    compile(text, "snippet", "exec")


def test_the_snippet_runs_where_only_onnxruntime_and_numpy_are(
    packaged: tuple[Job, dict[str, Any]], clean_packages: Path, tmp_path: Path
) -> None:
    job, result = packaged

    assert run_snippet(job, result, clean_packages, tmp_path / "clean") == "logits (1, 10)\n"


@pytest.mark.parametrize("technique", ["dynamic_int8", "float16"])
def test_the_snippet_feeds_integers_and_masks(job: Job, clean_packages: Path, tmp_path: Path, technique: str) -> None:
    job.save_model(models.transformer())
    job.spec = {"recipe": {"technique": technique}, "measure": {"shapes": {"input_ids": [1, 9]}}}
    job.run_until("candidates")

    printed = run_snippet(job, job.package(job.measure()), clean_packages, tmp_path / "clean")

    assert printed == "last_hidden_state (1, 9, 16)\npooled (1, 16)\n"


def test_the_snippet_feeds_half_precision(job: Job, clean_packages: Path, tmp_path: Path) -> None:
    job.save_model(models.mlp())
    job.save_dataset("evaluation", x=vectors(3))
    job.spec = {"recipe": {"technique": "float16", "keep_io_types": False}}
    job.run_until("candidates")

    assert run_snippet(job, job.package(job.measure()), clean_packages, tmp_path / "clean") == "y (1, 5)\n"


def test_several_files_are_one_archive_that_the_snippet_unpacks(job: Job, clean_packages: Path, tmp_path: Path) -> None:
    job.save_file_set(models.gemm(inputs=64, outputs=32))
    job.run_until("candidates")

    result = job.package(job.measure())

    (artifact,) = result["artifacts"]
    assert artifact["file_name"] == "My-net-dynamic_int8.zip"
    with zipfile.ZipFile(job.scratch / "package" / artifact["file"]) as archive:
        assert archive.namelist() == ["model.onnx", "model.onnx.data"]
        assert archive.testzip() is None
        # The same artifact is the same archive, whenever it is packed.
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    assert run_snippet(job, result, clean_packages, tmp_path / "clean") == "y (1, 32)\n"


def test_required_session_options_are_in_manifest_and_snippet(job: Job, clean_packages: Path, tmp_path: Path) -> None:
    job.save_model(models.mlp())
    job.run_until("candidates")
    path = job.scratch / "candidates/result.json"
    document = json.loads(path.read_text())
    document["candidates"][0]["session_options"] = {"session.x64quantprecision": "1", "it's": "a\\b"}
    path.write_text(json.dumps(document))

    result = job.package(job.measure())

    manifest = json.loads((job.scratch / "package" / result["manifest"]).read_text())
    assert manifest["session_options"]["session.x64quantprecision"] == "1"
    assert "options.add_session_config_entry('session.x64quantprecision', '1')" in manifest["snippet"]
    assert run_snippet(job, result, clean_packages, tmp_path / "clean") == "y (1, 5)\n"


def test_packaging_again_gives_the_same_bytes(packaged: tuple[Job, dict[str, Any]]) -> None:
    job, result = packaged
    first = (job.scratch / "package" / result["artifacts"][0]["file"]).read_bytes()

    again = job.package([path.name for path in job.scratch.iterdir() if "cnd_" in path.name])

    assert (job.scratch / "package" / again["artifacts"][0]["file"]).read_bytes() == first


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../etc/passwd", "etc-passwd-dynamic_int8.onnx"),
        ("net.tar.gz", "net-dynamic_int8.onnx"),
        ("モデル", "model-dynamic_int8.onnx"),
        ("x" * 300, "x" * 80 + "-dynamic_int8.onnx"),
    ],
)
def test_file_names_are_plain(job: Job, name: str, expected: str) -> None:
    job.save_model(models.mlp())
    job.run_until("candidates")
    job.run("gate")
    source = {"id": "mdl_" + "0" * 26, "name": name, "sha256": "0" * 64, "bytes": 1}

    result = job.run("package", job="job_1", source=source)

    assert result["artifacts"][0]["file_name"] == expected


def test_names_in_the_snippet_cannot_become_code(job: Job, clean_packages: Path, tmp_path: Path) -> None:
    name = "x'); raise SystemExit('code ran') #\n\\"
    model = models.gemm()
    model.graph.input[0].name = name
    model.graph.node[0].input[0] = name
    job.save_model(model)

    # Names with line breaks are refused where models are inspected.
    with pytest.raises(StepFailed):
        job.run("inspect")
    for step in ("baseline", "calibrate", "candidates"):
        job.run(step)
    job.scratch.joinpath("inspect/result.json").write_text('{"model": "inputs/model/model.onnx", "rows": {}}')

    assert run_snippet(job, job.package(job.measure()), clean_packages, tmp_path / "clean") == "y (1, 8)\n"


def test_this_runtime_is_the_one_that_is_named(packaged: tuple[Job, dict[str, Any]]) -> None:
    job, result = packaged
    manifest = json.loads((job.scratch / "package" / result["manifest"]).read_text())

    assert f"made with onnxruntime {ort.__version__}" in manifest["snippet"]
