"""The steps of a job by a plain script: no service, no sandbox, no store; what our overhead is measured against."""

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from workers.tasks.measuring import Measuring

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
REPLICATES = 5
MEASURE_SECONDS = 2.0

_CHILD = """
import sys
from pathlib import Path
from workers.steps.program import serve
serve(Path(sys.argv[1]), sys.stdin, lambda event: print(event, file=sys.stderr) if "failed" in event else None)
"""


def run_plainly(scratch: Path, job: dict[str, Any]) -> float:
    """Run the steps of a job that the service has run, on the shipped example; returns seconds."""
    begun = time.monotonic()
    (scratch / "inputs" / "model").mkdir(parents=True)
    shutil.copy(EXAMPLES / "fashion_mobilenet.onnx", scratch / "inputs" / "model")
    roles = [role for role, found in job["spec"]["datasets"].items() if found]
    for role in roles:
        shutil.copy(EXAMPLES / f"{role}.npz", scratch / "inputs" / role)
    fingerprint = _steps(scratch, [("probe", "probe", {})])[0]
    common = {
        "spec": job["spec"],
        "model": "inputs/model/fashion_mobilenet.onnx",
        "datasets": {role: {"path": f"inputs/{role}", "file_name": f"{role}.npz"} for role in roles},
        "fingerprint": fingerprint,
    }
    done = _steps(scratch, [(name, name, common) for name in ("inspect", "baseline", "calibrate", "candidates")])
    baseline, made = done[1], done[-1]
    candidates = [
        {"id": found["id"], "path": f"candidates/{found['file']}", "session_options": found["session_options"]}
        for found in made["candidates"]
    ]
    original = {"path": common["model"], "session_options": {}}
    measuring = Measuring(
        original,
        candidates,
        common,
        batches=baseline["batches"],
        cases=baseline["cases"],
        runtimes=baseline["runtimes"],
        peaks=None,
        replicates=REPLICATES,
        most_replicates=REPLICATES,
        seconds=MEASURE_SECONDS,
        fresh=lambda step: _steps(scratch, [(step.name, step.folder, step.request)])[0],
        beside=lambda step: {"wide": []},
        show=lambda share, text: None,
    )
    measured = measuring.run()
    last = common | {"measurements": measured.folders, "profiles": measured.profiles}
    source = {"id": job["model"], "name": "plain", "sha256": "0" * 64, "bytes": 1}
    package = {"job": job["id"], "source": source, "data": {}, "steps": []}
    _steps(scratch, [("gate", "gate", last), ("package", "package", last | package)])
    return time.monotonic() - begun


def _steps(scratch: Path, steps: list[tuple[str, str, dict[str, Any]]]) -> list[dict[str, Any]]:
    """Run steps one after another in one fresh process; returns their results."""
    commands = ""
    for name, folder, request in steps:
        (scratch / folder).mkdir()
        (scratch / folder / "request.json").write_text(json.dumps(request))
        commands += json.dumps({"step": name, "request": f"{folder}/request.json"}) + "\n"
    subprocess.run([sys.executable, "-c", _CHILD, str(scratch)], input=commands, text=True, cwd=ROOT, check=True)
    return [json.loads((scratch / folder / "result.json").read_text()) for _, folder, _ in steps]
