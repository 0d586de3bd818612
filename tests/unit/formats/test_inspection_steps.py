"""The steps that inspect uploads, as the confined child runs them."""

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.domain.dataset import DatasetInspection
from app.domain.model import ModelInspection
from app.domain.target import Fingerprint
from tests.parts import models
from workers.steps.program import serve


def asked(scratch: Path, step: str, request: dict[str, Any]) -> tuple[list[dict[str, Any]], Path]:
    """What is told on the progress pipe, and the step's folder."""
    folder = scratch / f"{step}-1"
    folder.mkdir(parents=True)
    (folder / "request.json").write_text(json.dumps(request))
    told: list[dict[str, Any]] = []
    serve(scratch, io.StringIO(json.dumps({"step": step, "request": f"{step}-1/request.json"})), told.append)
    return told, folder


def test_a_model_is_inspected(tmp_path: Path) -> None:
    models.save(models.conv_net(), tmp_path / "inputs" / "file")
    request = {"path": "inputs/file", "file_name": "net.onnx", "limits": {"unpacked_bytes": 1 << 30}}
    told, folder = asked(tmp_path, "inspect_model", request)
    assert told[-1] == {"done": "inspect_model-1"}
    assert any("progress" in line for line in told)
    found = ModelInspection.model_validate_json((folder / "result.json").read_text())
    assert found.files == ("net.onnx",)
    assert json.loads((folder / "result.json").read_text())["inputs"] == [
        {"name": "image", "dtype": "float32", "shape": ["batch", 3, 12, 12]}
    ]


def test_a_file_set_is_unpacked_inside_the_step_s_folder(tmp_path: Path) -> None:
    models.save(models.mlp(), tmp_path / "made" / "net.onnx", external=True)
    (tmp_path / "scratch" / "inputs").mkdir(parents=True)
    with zipfile.ZipFile(tmp_path / "scratch" / "inputs" / "file", "w") as archive:
        for path in (tmp_path / "made").iterdir():
            archive.write(path, path.name)
    told, folder = asked(tmp_path / "scratch", "inspect_model", {"path": "inputs/file", "file_name": "set.zip"})
    assert told[-1] == {"done": "inspect_model-1"}
    found = ModelInspection.model_validate_json((folder / "result.json").read_text())
    assert (found.files, found.external_data) == (("net.onnx", "weights.bin"), True)
    assert (folder / "files" / "net.onnx").is_file()


def test_a_dataset_is_inspected(tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    with (tmp_path / "inputs" / "file").open("wb") as file:
        np.savez(file, x=np.ones((5, 2), np.float32), labels=np.arange(5))
    told, folder = asked(
        tmp_path, "inspect_dataset", {"path": "inputs/file", "file_name": "data.npz", "preprocess": None}
    )
    assert told[-1] == {"done": "inspect_dataset-1"}
    found = DatasetInspection.model_validate_json((folder / "result.json").read_text())
    assert (found.rows, found.label_range) == (5, (0, 4))


@pytest.mark.parametrize(
    ("step", "content", "code"),
    [
        ("inspect_model", b"hello", "not_onnx"),
        ("inspect_model", models.mlp().SerializeToString()[:900], "truncated"),
        ("inspect_dataset", b"hello", "dataset_format_unknown"),
    ],
)
def test_a_rejection_is_told_with_its_code(step: str, content: bytes, code: str, tmp_path: Path) -> None:
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "file").write_bytes(content)
    told, folder = asked(tmp_path, step, {"path": "inputs/file", "file_name": "upload"})
    assert (told[-1]["code"], told[-1]["retryable"]) == (code, False)
    assert not (folder / "result.json").exists()


def test_the_machine_is_described(tmp_path: Path) -> None:
    told, folder = asked(tmp_path, "probe", {})
    assert told[-1] == {"done": "probe-1"}
    assert Fingerprint.model_validate_json((folder / "result.json").read_text()).cores >= 1
