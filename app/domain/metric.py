"""The metrics by name: what each says, its direction, and what it needs."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from app.domain.measurement import Better


class Metric(BaseModel):
    """A number about what a model computes.

    `needs_labels`: only with an evaluation set that has `labels`. `relative_to_original`: compares the
    artifact with the model it was made from, so it says nothing of the original itself. `share`: a
    fraction of rows, each right or wrong, so that exact paired intervals apply.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    summary: str
    unit: Literal["fraction", "dB", "nats", "1"]
    better: Better
    needs_labels: bool = False
    relative_to_original: bool = True
    share: bool = False


METRICS: dict[str, Metric] = {
    metric.id: metric
    for metric in (
        Metric(
            id="top1",
            summary="Share of rows whose highest output on the last axis is the label.",
            unit="fraction",
            better="higher",
            needs_labels=True,
            relative_to_original=False,
            share=True,
        ),
        Metric(
            id="agreement",
            summary="Share of rows whose highest output on the last axis is the original's.",
            unit="fraction",
            better="higher",
            share=True,
        ),
        Metric(
            id="sqnr_db",
            summary="10·log10(Σy² / Σ(y−ŷ)²) over all rows, in float64, capped at 200.",
            unit="dB",
            better="higher",
        ),
        Metric(
            id="cosine",
            summary="Cosine between the original's and the artifact's output, mean over rows.",
            unit="1",
            better="higher",
        ),
        Metric(
            id="kl",
            summary="Kullback-Leibler divergence original‖artifact after softmax, mean over rows.",
            unit="nats",
            better="lower",
        ),
    )
}

ALWAYS = ("agreement", "sqnr_db", "cosine")
"""Fidelity to the original, computed for every artifact whether asked for or not."""


def metric_catalogue() -> list[dict[str, Any]]:
    """Describe each metric, as `/v1/metrics` publishes it."""
    return [
        {**metric.model_dump(), "schema": {"type": "object", "properties": {}, "additionalProperties": False}}
        for metric in METRICS.values()
    ]
