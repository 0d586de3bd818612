"""Artifacts and models side by side, as the API shows them."""

from dataclasses import asdict
from typing import Any, Literal

from pydantic import BaseModel

from app.api.schemas.documents.parts import MeasuredData, measured_data
from app.domain.measurement import Measurement
from app.domain.variants import Measured
from app.services.comparison import SideBySide


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
        "data": measured_data(variant.data),
    }
