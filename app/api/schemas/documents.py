"""The documents that the API answers with, and how rows become them."""

from collections.abc import Iterable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, Generic, Literal, TypeVar

from pydantic import BaseModel, Field

from app.db.tables import Artifact, Dataset, Job, Model
from app.domain.frontier import Placed
from app.domain.measurement import Measurement
from app.domain.suitability import Suitability
from app.domain.variants import Data, Measured
from app.services.comparison import SideBySide
from app.services.frontier import Frontier, Group
from app.services.jobs import JobView
from app.services.targets import Target

Item = TypeVar("Item")


class Page(BaseModel, Generic[Item]):
    """One page of a list, newest first."""

    items: list[Item]
    next_cursor: str | None = Field(description="Give it as `cursor` to read on; null at the end.")


class Failure(BaseModel):
    """Why something failed: the fields of a problem document that describe it."""

    code: str
    detail: str
    errors: list[dict[str, Any]] = []
    stage: str | None = None
    retryable: bool = False


class Tensor(BaseModel):
    """A named array. Unknown axes are null, symbolic ones a name; a dataset's shape has no sample axis."""

    name: str
    dtype: str
    shape: list[int | str | None] | None


class ModelDocument(BaseModel):
    """An uploaded model; what inspection finds is null until its state is `ready`."""

    id: str
    name: str
    file_name: str
    format: str | None
    bytes: int
    sha256: str
    state: Literal["inspecting", "ready", "rejected"]
    error: Failure | None
    inputs: list[Tensor] | None
    outputs: list[Tensor] | None
    opset: int | None
    parameters: int | None
    operators: dict[str, int] | None
    quantized: bool | None
    dynamic: bool | None
    external_data: bool | None
    notes: list[str]
    created_at: datetime


class DatasetDocument(BaseModel):
    """An uploaded dataset; what inspection finds is null until its state is `ready`."""

    id: str
    name: str
    file_name: str
    format: str | None
    bytes: int
    sha256: str
    state: Literal["inspecting", "ready", "rejected"]
    error: Failure | None
    rows: int | None
    fields: list[Tensor] | None
    preprocess: dict[str, Any] | None
    notes: list[str]
    created_at: datetime


class Baseline(BaseModel):
    """The original as it was measured."""

    measurements: list[Measurement]


class Candidate(BaseModel):
    """A variant that a job made and measured."""

    id: str
    recipe: dict[str, Any]
    measurements: list[Measurement]
    comparisons: list[dict[str, Any]] = []
    drops: list[dict[str, Any]] = []
    verdict: str | None = None
    tuning_verdict: str | None = None
    pareto: bool = False
    artifact: str | None = None
    session_options: dict[str, str] = {}
    notes: list[str] = []


class JobDocument(BaseModel):
    """A job: its specification with every default filled in, where it stands, and what it found."""

    id: str
    kind: Literal["optimize", "evaluate"]
    name: str | None
    state: Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
    gate: Literal["met", "missed", "undecided", "none"] | None
    stage: Literal["inspect", "baseline", "calibrate", "candidates", "gate", "package"] | None
    progress: float
    message: str | None
    attempt: int
    queue_position: int | None
    waiting_for: str | None
    target: str
    model: str
    spec: dict[str, Any]
    labels: dict[str, str]
    baseline: Baseline | None
    candidates: list[Candidate]
    chosen: str | None
    verdicts: list[dict[str, Any]]
    conclusion: str | None
    notes: list[str]
    artifacts: list[str]
    error: Failure | None
    created_at: datetime
    started_at: datetime | None
    ended_at: datetime | None
    links: dict[str, str]


class ArtifactDocument(BaseModel):
    """A file that a job made."""

    id: str
    job: str
    candidate: str
    file_name: str
    bytes: int
    sha256: str
    created_at: datetime
    links: dict[str, str]


class TargetDocument(BaseModel):
    """A machine class, whether a worker of it is alive, and what suits it.

    Of a built-in one that no worker has registered for, `fingerprint` and `sandbox` are empty.
    """

    id: str
    alive: bool
    workers: int
    builtin: bool
    summary: str | None
    features: list[str]
    suits: list[Suitability] = Field(description="What each technique is worth here, and why.")
    fingerprint: dict[str, Any]
    sandbox: dict[str, Any]


class Absence(BaseModel):
    """Where something cannot be had, and why."""

    target: str
    reason: str


class RecoveryStepEntry(BaseModel):
    """A step that brings a bad result back, and the targets whose workers cannot take it."""

    id: str
    summary: str
    needs: list[str]
    absent_on: list[Absence]


class CatalogueEntry(BaseModel):
    """A technique or metric with the JSON Schema of its options; techniques that have recovery steps list them."""

    id: str
    summary: str
    options_schema: dict[str, Any] = Field(alias="schema")
    recovery_steps: list[RecoveryStepEntry] = []


class Validation(BaseModel):
    """What a specification would do, what is wrong with it, and what is doubtful."""

    valid: bool
    spec: dict[str, Any] | None
    steps: list[str]
    errors: list[dict[str, str]]
    doubts: list[str]


def moment(milliseconds: int | None) -> str | None:
    """RFC 3339 in UTC."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


_FOUND_IN_MODELS = (
    "format",
    "inputs",
    "outputs",
    "opset",
    "parameters",
    "operators",
    "quantized",
    "dynamic",
    "external_data",
)


def _uploaded(row: Model | Dataset, found_names: tuple[str, ...]) -> dict[str, Any]:
    found = row.inspection or {}
    return {
        "id": row.id,
        "name": row.name,
        "file_name": row.file_name,
        "bytes": row.bytes,
        "sha256": row.sha256,
        "state": row.state,
        "error": row.error,
        "notes": found.get("notes", []),
        "created_at": moment(row.created_at),
        **{name: found.get(name) for name in found_names},
    }


def model_document(row: Model) -> dict[str, Any]:
    """A model as the API shows it."""
    return _uploaded(row, _FOUND_IN_MODELS)


def dataset_document(row: Dataset) -> dict[str, Any]:
    """A dataset as the API shows it."""
    return {**_uploaded(row, ("format", "rows", "fields")), "preprocess": row.preprocess}


def job_document(view: JobView) -> dict[str, Any]:
    """A job as the API shows it."""
    job: Job = view.job
    outcome = job.outcome or {}
    here = f"/v1/jobs/{job.id}"
    links = {"self": here, "log": f"{here}/log"}
    if job.report_blob_id is not None:
        links["report"] = f"{here}/report"
    if view.artifacts:
        links["content"] = f"/v1/artifacts/{view.artifacts[0]}/content"
    present = set(view.artifacts)
    candidates = [
        {**found, "artifact": found.get("artifact") if found.get("artifact") in present else None}
        for found in outcome.get("candidates", [])
    ]
    return {
        "id": job.id,
        "kind": job.kind,
        "name": job.name,
        "state": job.state,
        "gate": job.gate,
        "stage": job.stage,
        "progress": job.progress,
        "message": job.message,
        "attempt": job.attempt,
        "queue_position": view.queue_position,
        "waiting_for": view.waiting_for,
        "target": job.target,
        "model": job.spec.get("model", job.model_id),
        "spec": job.spec,
        "labels": job.spec.get("labels", {}),
        "baseline": outcome.get("baseline"),
        "candidates": candidates,
        "chosen": outcome.get("chosen"),
        "verdicts": outcome.get("verdicts", []),
        "conclusion": outcome.get("conclusion"),
        "notes": outcome.get("notes", []),
        "artifacts": list(view.artifacts),
        "error": job.error,
        "created_at": moment(job.created_at),
        "started_at": moment(job.started_at),
        "ended_at": moment(job.ended_at),
        "links": links,
    }


def artifact_document(row: Artifact) -> dict[str, Any]:
    """An artifact as the API shows it."""
    here = f"/v1/artifacts/{row.id}"
    return {
        "id": row.id,
        "job": row.job_id,
        "candidate": row.candidate_id,
        "file_name": row.file_name,
        "bytes": row.bytes,
        "sha256": row.sha256,
        "created_at": moment(row.created_at),
        "links": {
            "self": here,
            "content": f"{here}/content",
            "manifest": f"{here}/manifest",
            "job": f"/v1/jobs/{row.job_id}",
        },
    }


def target_document(target: Target, suits: Iterable[Suitability]) -> dict[str, Any]:
    """A target as the API shows it."""
    return {
        "id": target.id,
        "alive": target.alive,
        "workers": target.workers,
        "builtin": target.builtin,
        "summary": target.summary,
        "features": list(target.features),
        "suits": [found.model_dump(mode="json") for found in suits],
        "fingerprint": target.fingerprint,
        "sandbox": target.sandbox,
    }


class MeasuredData(BaseModel):
    """The rows that metrics were computed on; only those of an evaluation dataset were held out."""

    source: Literal["evaluation", "calibration", "synthetic"]
    dataset: str | None


class Multiple(BaseModel):
    """A ratio with its two-sided 95 % interval, where there is one."""

    ratio: float
    ci95: tuple[float, float] | None


class ConstraintStanding(BaseModel):
    """What a constraint says of a variant; `unknown` is what was not measured."""

    constraint: str
    standing: Literal["met", "missed", "undecided", "unknown"]


class FrontierVariant(BaseModel):
    """A variant of a model: the original, an artifact, or a candidate whose artifact is gone.

    `costs` are multiples of the original's latency, size and memory by name of the measurement.
    """

    id: str
    kind: Literal["model", "artifact", "candidate"]
    candidate: str | None
    artifact: str | None
    recipe: dict[str, Any] | None
    jobs: list[str]
    measurements: list[Measurement]
    comparisons: list[dict[str, Any]]
    drops: list[dict[str, Any]]
    costs: dict[str, Multiple]
    pareto: bool
    constraints: list[ConstraintStanding]


class FrontierChoice(BaseModel):
    """The variant with the least of what is minimized that meets every constraint; null with a reason.

    `indistinguishable` meet them too, and their intervals reach as low.
    """

    variant: str | None
    indistinguishable: list[str]
    reason: str | None


class FrontierGroup(BaseModel):
    """Variants that can be compared. `axes` are the measurements in which `pareto` ones are beaten by none."""

    target: str
    fingerprint: str | None
    data: MeasuredData
    threads: int | None
    batch: int | None
    axes: list[str]
    variants: list[FrontierVariant]
    best: FrontierChoice


class FrontierDocument(BaseModel):
    """Every measured variant of a model; `older` says that jobs beyond the newest 200 were left out."""

    model: str
    minimize: Literal["latency", "size", "memory"]
    constraints: list[str]
    groups: list[FrontierGroup]
    older: bool


class ComparedEntry(BaseModel):
    """One of those that are compared."""

    id: str
    kind: Literal["model", "artifact"]
    model: str
    job: str
    candidate: str | None
    recipe: dict[str, Any] | None
    target: str
    fingerprint: str | None
    data: MeasuredData


class ValueDifference(BaseModel):
    """How a value differs from the reference's.

    `difference` is value − reference, `ratio` value / reference, with two-sided 95 % intervals; where ratios were
    paired the difference follows from them, for the reference's value. `basis` is where they come from: `paired`,
    `through_original` (each was paired with the same original), `independent` (two intervals combined: Zou and Donner
    2008, MOVER), `exact` or `none`.
    """

    side: Literal["better", "worse", "within_noise", "unknown", "not_comparable"]
    basis: Literal["paired", "through_original", "independent", "exact", "none"]
    difference: float | None
    ci95: tuple[float, float] | None
    ratio: float | None
    ratio_ci95: tuple[float, float] | None
    differs_in: dict[str, list[Any]]
    reason: str | None


class ComparedValue(BaseModel):
    """A measurement of one entry, null where it was not measured; the reference differs from nothing."""

    id: str
    measurement: Measurement | None
    difference: ValueDifference | None


class ComparedRow(BaseModel):
    """One measurement of every entry, in their order."""

    name: str
    unit: str
    better: Literal["higher", "lower"]
    values: list[ComparedValue]


class ComparisonDocument(BaseModel):
    """Artifacts and models side by side; the first is the reference."""

    reference: str
    entries: list[ComparedEntry]
    measurements: list[ComparedRow]


def frontier_document(found: Frontier) -> dict[str, Any]:
    """A frontier as the API shows it."""
    return {
        "model": found.model,
        "minimize": found.minimize,
        "constraints": list(found.constraints),
        "groups": [_frontier_group(group, found.constraints) for group in found.groups],
        "older": found.older,
    }


def _frontier_group(group: Group, constraints: tuple[str, ...]) -> dict[str, Any]:
    best = group.best
    return {
        "target": group.target,
        "fingerprint": group.fingerprint,
        "data": _measured_data(group.data),
        "threads": group.threads,
        "batch": group.batch,
        "axes": list(group.axes),
        "variants": [_frontier_variant(placed, group, constraints) for placed in group.placed],
        "best": {
            "variant": best.variant.id if best.variant else None,
            "indistinguishable": [variant.id for variant in best.indistinguishable],
            "reason": best.reason,
        },
    }


def _frontier_variant(placed: Placed, group: Group, constraints: tuple[str, ...]) -> dict[str, Any]:
    variant = placed.variant
    return {
        "id": variant.id,
        "kind": "model" if variant.is_original else "artifact" if variant.artifact else "candidate",
        "candidate": variant.candidate,
        "artifact": variant.artifact,
        "recipe": variant.recipe,
        "jobs": group.jobs[variant.id],
        "measurements": list(variant.measurements),
        "comparisons": list(variant.comparisons),
        "drops": list(variant.drops),
        "costs": {name: {"ratio": ratio, "ci95": ends} for name, (ratio, ends) in placed.costs.items()},
        "pareto": placed.pareto,
        "constraints": [
            {"constraint": text, "standing": standing}
            for text, standing in zip(constraints, placed.standings, strict=True)
        ],
    }


def comparison_document(found: SideBySide) -> dict[str, Any]:
    """A comparison as the API shows it."""
    return {
        "reference": found.variants[0].id,
        "entries": [_compared_entry(variant) for variant in found.variants],
        "measurements": [
            {
                "name": row.found["name"],
                "unit": row.found["unit"],
                "better": row.found["better"],
                "values": [
                    {
                        "id": beside.variant.id,
                        "measurement": beside.found,
                        "difference": asdict(beside.difference) if beside.difference else None,
                    }
                    for beside in row.values
                ],
            }
            for row in found.rows
        ],
    }


def _compared_entry(variant: Measured) -> dict[str, Any]:
    return {
        "id": variant.id,
        "kind": "model" if variant.is_original else "artifact",
        "model": variant.model,
        "job": variant.job,
        "candidate": variant.candidate,
        "recipe": variant.recipe,
        "target": variant.target,
        "fingerprint": variant.fingerprint,
        "data": _measured_data(variant.data),
    }


def _measured_data(data: Data) -> dict[str, Any]:
    return {"source": data.source, "dataset": data.dataset}
