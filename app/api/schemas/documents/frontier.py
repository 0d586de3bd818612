"""Every measured variant of a model, as the API shows them."""

from typing import Any, Literal

from pydantic import BaseModel

from app.api.schemas.documents.parts import MeasuredData, measured_data
from app.domain.frontier import Placed
from app.domain.measurement import Measurement
from app.services.frontier import Frontier, Group


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
    """Variants that can be compared. `axes` are the measurements in which `pareto` ones are beaten by none.

    `conditions` are those under which all of them were timed: runtime, version, threads, rows a call, and the shapes of
    inputs that the model leaves open.
    """

    target: str
    fingerprint: str | None
    data: MeasuredData
    threads: int | None
    batch: int | None
    conditions: dict[str, Any]
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
        "data": measured_data(group.data),
        "threads": group.conditions.get("threads"),
        "batch": group.conditions.get("batch"),
        "conditions": group.conditions,
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
