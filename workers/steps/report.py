"""Everything that a job measured, as one JSON document and as one page."""

import json
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workers.steps.candidates import CandidatesResult
from workers.steps.requests import PackageRequest

REPORT, PAGE = "report.json", "report.html"

_OF_A_PROFILE = (
    *("runs", "batch", "operators_ms", "profiled_ms", "unprofiled_ms", "unaccounted"),
    *("resolution_ms", "left_out"),
)


def report_document(
    request: PackageRequest,
    scratch: Path,
    made: CandidatesResult,
    artifacts: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """What the earlier steps found, raw samples included; `artifacts` is how they are packed."""
    found = {name: step_result(scratch, getattr(request, name)) for name in ("inspect", "baseline")}
    found["calibrate"] = step_result(scratch, request.calibrate) if made.candidates else {}
    judged = step_result(scratch, request.gate)
    by_id = {entry.get("id"): entry for entry in judged.get("candidates", [])}
    notes = [note for document in (*found.values(), judged) for note in document.get("notes", [])]
    notes += [note for candidate in made.candidates for note in candidate.notes]
    return {
        "job": request.job,
        "spec": request.spec.model_dump(mode="json"),
        "model": request.source.model_dump(exclude={"rows", "rows_sha256"}),
        "data": {role: source.model_dump() for role, source in sorted(request.data.items())},
        "target": request.fingerprint,
        "rows": found["inspect"].get("rows", {}),
        "baseline": found["baseline"] | ({"measurements": judged["baseline"]} if "baseline" in judged else {}),
        "calibration": found["calibrate"],
        "candidates": [
            {**candidate.model_dump(mode="json"), **by_id.get(candidate.id, {})} for candidate in made.candidates
        ],
        "drops": judged.get("drops", {}),
        "chosen": judged.get("chosen"),
        "gate": judged.get("gate"),
        "verdicts": judged.get("verdicts", []),
        "conclusion": judged.get("conclusion"),
        "notes": list(dict.fromkeys(notes)),
        "artifacts": list(artifacts),
        **_profiles(request, scratch),
        "samples": {name: step_result(scratch, name) for name in request.measurements},
        "steps": [step.model_dump() for step in request.steps],
    }


def _profiles(request: PackageRequest, scratch: Path) -> dict[str, Any]:
    """Operators and roofline of each model that was profiled, by its id, and how far the profile can be trusted."""
    operators: dict[str, Any] = {}
    profiles: dict[str, Any] = {}
    roofline: dict[str, Any] = {}
    for name, folder in request.profiles.items():
        found = step_result(scratch, folder)
        operators[name] = found["operators"]
        profiles[name] = {key: found[key] for key in _OF_A_PROFILE}
        if found.get("roofline"):
            roofline["peaks"] = found["roofline"]["peaks"]
            roofline[name] = found["roofline"]["operators"]
    return {"operators": operators, "profiles": profiles, "roofline": roofline}


def write_page(document: dict[str, Any], folder: Path) -> str | None:
    """Write the report as a page; null where that failed, for no result is lost over how it is shown."""
    # matplotlib, and the fonts that it looks for: only this step pays for them.
    from workers.report.page import render

    try:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            (folder / PAGE).write_text(render(document, cache=Path(cache)), encoding="utf-8")
    except Exception:
        traceback.print_exc()
        return None
    return PAGE


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document down for people too."""
    path.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def step_result(scratch: Path, folder: str) -> dict[str, Any]:
    """What a step found, as plain data."""
    document: dict[str, Any] = json.loads((scratch / folder / "result.json").read_bytes())
    return document
