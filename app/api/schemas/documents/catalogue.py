"""Targets, techniques and metrics as the API shows them."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, Field

from app.domain.suitability import Suitability
from app.services.targets import Target


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
