"""The client's types are what the committed OpenAPI document says."""

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
GENERATOR = ROOT / "client" / "generate_types.py"


def generate(*arguments: str, seed: str = "0") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONHASHSEED": seed}
    command = [sys.executable, str(GENERATOR), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_the_committed_types_have_not_drifted() -> None:
    done = generate("--check")
    assert done.returncode == 0, done.stderr


def test_drift_is_noticed(tmp_path: Path) -> None:
    document = json.loads((ROOT / "openapi.json").read_text(encoding="utf-8"))
    job = document["components"]["schemas"]["JobDocument"]
    job["properties"]["colour"] = {"type": "string"}
    changed = tmp_path / "openapi.json"
    changed.write_text(json.dumps(document), encoding="utf-8")
    done = generate("--check", "--openapi", str(changed))
    assert done.returncode == 1
    assert "run `python client/generate_types.py`" in done.stderr


def test_the_same_document_gives_the_same_text(tmp_path: Path) -> None:
    first, second = tmp_path / "first.py", tmp_path / "second.py"
    for path, seed in ((first, "1"), (second, "2")):
        assert generate("--types", str(path), seed=seed).returncode == 0
    assert first.read_bytes() == second.read_bytes()
