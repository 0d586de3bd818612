"""Put the artifact, its manifest and the report where the parent fetches them."""

import re
import shutil
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from app.errors import StepError
from workers.runtimes.session import available_runtimes, load
from workers.steps.artifact import pack, sha256_of
from workers.steps.baseline import BaselineResult
from workers.steps.candidates import Candidate, CandidatesResult
from workers.steps.inputs import Progress
from workers.steps.report import REPORT, report_document, step_result, write_json, write_page
from workers.steps.requests import PackageRequest, read_result
from workers.steps.rows import rows_of
from workers.steps.snippet import snippet

MANIFEST = "manifest.json"

_OF_THE_SAMPLES = frozenset({"batch", "case", "shapes", "rows", "children", "target", "pooled"})
"""Conditions of a measurement that are not the session's."""


class PackagedArtifact(BaseModel):
    """One artifact as it will be downloaded; `file` is relative to the step's folder."""

    candidate: str
    file: str
    file_name: str
    bytes: int
    sha256: str


class PackageResult(BaseModel):
    """What the parent stores. `page` is the report as HTML."""

    artifacts: tuple[PackagedArtifact, ...]
    manifest: str = MANIFEST
    report: str = REPORT
    page: str | None = None


def run(request: PackageRequest, scratch: Path, folder: Path, progress: Progress) -> PackageResult:
    """Copy or pack the artifacts, and write the manifest, and the report as JSON and as a page.

    Of an evaluation there is the report alone.
    """
    if request.spec.kind == "evaluate":
        progress(0.5, "writing the report")
        report = report_document(request, scratch, CandidatesResult(candidates=()), [])
        write_json(folder / REPORT, report)
        return PackageResult(artifacts=(), page=write_page(report, folder))
    made = read_result(CandidatesResult, scratch, request.candidates)
    judged = step_result(scratch, request.gate)
    chosen = _shown(made, judged)
    artifacts = []
    for index, candidate in enumerate(made.candidates):
        progress(index / (len(made.candidates) + 1), f"packing {candidate.id}")
        artifacts.append(_artifact(candidate, request, scratch / request.candidates, folder))
    progress(0.9, "writing manifest and report")
    packed = [artifact.model_dump(exclude={"file"}) for artifact in artifacts]
    report = report_document(request, scratch, made, packed)
    write_json(folder / REPORT, report)
    artifact = next(entry for entry in artifacts if entry.candidate == chosen.id)
    write_json(folder / MANIFEST, _manifest(request, scratch, folder, chosen, judged, artifact))
    progress(0.95, "drawing the report")
    return PackageResult(artifacts=tuple(artifacts), page=write_page(report, folder))


def _shown(made: CandidatesResult, judged: dict[str, Any]) -> Candidate:
    """The candidate that the manifest is about: the one chosen, or the first where fp32 is kept."""
    if not made.candidates:
        raise StepError("There is no candidate to package.", code="nothing_to_package")
    return next((entry for entry in made.candidates if entry.id == judged.get("chosen")), made.candidates[0])


def _artifact(candidate: Candidate, request: PackageRequest, made: Path, folder: Path) -> PackagedArtifact:
    several = len(candidate.files) > 1
    suffix = ".zip" if several else ".onnx"
    target = folder / f"{candidate.id}{suffix}"
    source = made / candidate.file
    if several:
        pack(candidate.files, source.parent, target)
    else:
        shutil.copyfile(source, target)
    stem = re.sub(r"\.(onnx|zip|tar|tgz|gz)\b", "", request.source.name, flags=re.IGNORECASE)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-.") or "model"
    return PackagedArtifact(
        candidate=candidate.id,
        file=target.name,
        file_name=f"{stem[:80]}-{candidate.recipe['technique']}{suffix}",
        bytes=target.stat().st_size,
        sha256=sha256_of(target),
    )


def _manifest(
    request: PackageRequest,
    scratch: Path,
    folder: Path,
    candidate: Candidate,
    judged: dict[str, Any],
    artifact: PackagedArtifact,
) -> dict[str, Any]:
    session = load(scratch / request.candidates / candidate.file, session_options=candidate.session_options)
    rows = rows_of(request, scratch, session)
    threads = request.spec.measure.threads[0]
    measured_by = _measured_by(request, scratch, judged, candidate)
    versions = {**request.fingerprint.get("versions", {}), **_versions(measured_by)}
    main = candidate.files[0].name
    return {
        "job": request.job,
        "artifact": {
            "candidate": candidate.id,
            "file_name": artifact.file_name,
            "bytes": artifact.bytes,
            "sha256": artifact.sha256,
            "files": _files(candidate, artifact),
        },
        "model": request.source.model_dump(exclude={"rows", "rows_sha256"}),
        "data": {role: source.model_dump() for role, source in sorted(request.data.items())},
        "recipe": candidate.recipe,
        "session_options": candidate.session_options,
        "numerics": candidate.numerics.model_dump() if candidate.numerics else None,
        "inputs": [{"name": port.name, "dtype": port.dtype, "shape": list(port.shape)} for port in session.inputs],
        "outputs": [{"name": port.name, "dtype": port.dtype, "shape": list(port.shape)} for port in session.outputs],
        "versions": versions,
        "runtimes": measured_by,
        "target": request.fingerprint,
        "measurements": _measurements(candidate, judged),
        "report": {"sha256": sha256_of(folder / REPORT)},
        "snippet": snippet(
            artifact.file_name,
            main if len(candidate.files) > 1 else artifact.file_name,
            feeds=next(iter(rows.feeds(rows.size(1)))),
            inputs=session.inputs,
            session_options=candidate.session_options,
            threads=threads,
            version=str(session.conditions["version"]),
            measured_by=measured_by[0],
        ),
    }


def _measured_by(
    request: PackageRequest, scratch: Path, judged: dict[str, Any], candidate: Candidate
) -> list[dict[str, Any]]:
    """The runtimes that latency was measured on and all that their sessions said of themselves, the one of metrics and
    goals first; those that nothing was timed on by their names and versions alone."""
    runtimes = read_result(BaselineResult, scratch, request.baseline).runtimes
    said: dict[str, dict[str, Any]] = {}
    for found in _measurements(candidate, judged):
        conditions = found.get("conditions", {})
        if found["name"] == "latency_p50" and "runtime" in conditions:
            said.setdefault(
                conditions["runtime"], {name: each for name, each in conditions.items() if name not in _OF_THE_SAMPLES}
            )
    for runtime, version in available_runtimes([each for each in runtimes if each not in said]).items():
        said[runtime] = {"runtime": runtime, "version": version}
    return [said.get(runtime, {"runtime": runtime}) for runtime in runtimes]


def _versions(measured_by: list[dict[str, Any]]) -> dict[str, str]:
    return {found["runtime"]: str(found["version"]) for found in measured_by if "version" in found}


def _files(candidate: Candidate, artifact: PackagedArtifact) -> list[dict[str, Any]]:
    """The files inside of a `.zip`, or the one file under the name that it is downloaded with."""
    if len(candidate.files) > 1:
        return [file.model_dump() for file in candidate.files]
    return [{"name": artifact.file_name, "bytes": artifact.bytes, "sha256": artifact.sha256}]


def _measurements(candidate: Candidate, judged: dict[str, Any]) -> list[Any]:
    """What the gate combined, which has latency and memory too; else what the step itself measured."""
    for entry in judged.get("candidates", []):
        if entry.get("id") == candidate.id:
            return list(entry.get("measurements", []))
    return [measurement.model_dump(mode="json") for measurement in candidate.measurements]
