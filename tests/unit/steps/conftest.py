"""A job's scratch folder, and its steps run one by one through the child's own program."""

import io
import json
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from app.domain.ids import new_id
from tests.parts import models
from tests.parts.models import Array
from workers.steps.program import serve

FINGERPRINT = {
    "id": "0123456789abcdef",
    "architecture": "x86_64",
    "features": ["avx2", "fma"],
    "versions": {"python": "3.11", "onnxruntime": "1.32.0"},
}


class StepFailed(Exception):
    """A step that reported `failed`, with its event."""

    def __init__(self, event: dict[str, Any]) -> None:
        super().__init__(event)
        self.code = event["code"]
        self.detail = event["detail"]


@dataclass
class Job:
    """One job in its scratch folder."""

    scratch: Path
    model: str = "inputs/model/model.onnx"
    spec: dict[str, Any] = field(default_factory=dict)
    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    whole: dict[str, Any] | None = None
    events: list[dict[str, Any]] = field(default_factory=list)

    def save_model(self, model: ModelProto, *, external: bool = False) -> Path:
        return models.save(model, self.scratch / self.model, external=external)

    def save_file_set(self, model: ModelProto) -> None:
        """Save a model with external data as the archive that an upload of it is."""
        path = self.save_model(model, external=True)
        self.model = "inputs/model/set.zip"
        with zipfile.ZipFile(self.scratch / self.model, "w") as packed:
            for name in ("model.onnx", "weights.bin"):
                packed.write(path.with_name(name), f"net/{name}")
                path.with_name(name).unlink()

    def save_dataset(self, role: str, **arrays: Array) -> None:
        self.datasets[role] = self._saved(role, arrays)

    def save_whole(self, **arrays: Array) -> None:
        """Save a dataset whose rows inspection gives to the roles."""
        self.whole = self._saved("all", arrays)

    def _saved(self, name: str, arrays: dict[str, Array]) -> dict[str, Any]:
        path = self.scratch / "inputs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.savez(file, **arrays)
        return {"path": f"inputs/{name}", "file_name": f"{name}.npz", "preprocess": None}

    def inspect(self) -> dict[str, Any]:
        """Inspect, and go on with what came of it, as the parent does."""
        result = self.run("inspect")
        self.model = result["model"]
        if self.whole is not None:
            self.datasets = {
                role: self.whole | {"rows": f"inspect/{rows['file']}" if rows["file"] else None}
                for role, rows in result["split"].items()
            }
        return result

    def request(self, **extra: Any) -> dict[str, Any]:
        recipe = {"technique": "dynamic_int8"}
        return {
            "spec": {"model": "mdl_" + "0" * 26, "recipe": recipe, **self.spec},
            "model": self.model,
            "datasets": self.datasets,
            "whole": self.whole,
            "fingerprint": FINGERPRINT,
            "measure": self.spec.get("measure", {}),
            **extra,
        }

    def run(self, step: str, folder: str | None = None, **extra: Any) -> dict[str, Any]:
        """Run a step as the parent would; its result, or StepFailed."""
        place = self.scratch / (folder or step)
        place.mkdir(parents=True, exist_ok=True)
        (place / "request.json").write_text(json.dumps(self.request(**extra)))
        command = json.dumps({"step": step, "request": f"{place.name}/request.json"})
        events: list[dict[str, Any]] = []
        serve(self.scratch, io.StringIO(command + "\n"), events.append)
        self.events += events
        if "failed" in events[-1]:
            raise StepFailed(events[-1])
        assert events[-1] == {"done": place.name}
        result: dict[str, Any] = json.loads((place / "result.json").read_text())
        return result

    def run_until(self, last: str) -> dict[str, Any]:
        """Run the steps up to one of them; the last one's result."""
        result: dict[str, Any] = {}
        for step in ("inspect", "baseline", "calibrate", "candidates"):
            result = self.inspect() if step == "inspect" else self.run(step)
            if step == last:
                break
        return result

    def measure(self, **extra: Any) -> list[str]:
        """Measure every candidate briefly; the folders of the measurements."""
        made = json.loads((self.scratch / "candidates/result.json").read_text())["candidates"]
        original = {"path": self.model, "session_options": {}}
        folders: list[str] = []
        for found in made:
            candidate = {"path": f"candidates/{found['file']}", "session_options": found["session_options"]}
            for replicate in (1, 2):
                folders.append(f"latency-{found['id']}-{replicate}")
                self.run(
                    "measure_latency",
                    folders[-1],
                    candidate_id=found["id"],
                    replicate=replicate,
                    baseline=original,
                    candidate=candidate,
                    seconds=0.05,
                    **extra,
                )
        return folders

    def package(self, measured: list[str]) -> dict[str, Any]:
        """Judge and package; the package step's result."""
        self.run("gate", measurements=measured)
        return self.run(
            "package",
            measurements=measured,
            job=new_id("job"),
            source={"id": "mdl_" + "0" * 26, "name": "My net.onnx", "sha256": "0" * 64, "bytes": 1},
            data={
                role: {"id": "dst_" + "0" * 26, "name": role, "sha256": "1" * 64, "bytes": 2, "rows": 3}
                for role in self.datasets
            },
            steps=[{"step": "inspect", "seconds": 0.1, "attempt": 1}],
        )


@pytest.fixture
def job(tmp_path: Path) -> Job:
    (tmp_path / "scratch").mkdir()
    return Job(tmp_path / "scratch")


def images(rows: int, seed: int = 0) -> Array:
    """Rows for `models.conv_net`."""
    return np.random.default_rng(seed).standard_normal((rows, 3, 12, 12)).astype(np.float32)


def vectors(rows: int, width: int = 32, seed: int = 0) -> Array:
    """Rows for `models.mlp`."""
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)
