"""`token_accuracy`: the share of positions whose highest output is the label, the ignored ones left out."""

import numpy as np

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.definition import (
    Floats,
    RowMetric,
    Rows,
    chosen,
    no_class_axis,
    not_whole,
    outside,
    positions,
    ratio,
)


def metric(options: MetricOptions) -> RowMetric:
    ignore: int = options.model_dump()["ignore"]

    def score(rows: Rows) -> Floats:
        """Positions that are right, and positions that count, [rows, 2]."""
        labels, counted = counted_labels(rows, ignore)
        right = (chosen(positions(rows.artifact)) == labels) & counted
        return np.stack([right.sum(axis=1), counted.sum(axis=1)], axis=1).astype(np.float64)

    return RowMetric(
        "token_accuracy",
        score,
        ratio,
        ideal=None,
        range=(0.0, 1.0),
        unfit=lambda rows: not_sequences(rows, ignore),
        interval="bounded",
    )


def counted_labels(
    rows: Rows, ignore: int
) -> tuple[np.ndarray[tuple[int, ...], np.dtype[np.int64]], np.ndarray[tuple[int, ...], np.dtype[np.bool_]]]:
    """The labels of each position, [rows, positions], and which of them count."""
    labels = rows.truth.reshape(len(rows.truth), -1).astype(np.int64)
    return labels, labels != ignore


def not_sequences(rows: Rows, ignore: int, *, aligned: bool = True) -> str | None:
    """Why outputs and labels are not classes and whole numbers, at the same positions where `aligned`, or None."""
    if (reason := no_class_axis(rows.artifact) or not_whole(rows.truth)) is not None:
        return reason
    labels, counted = counted_labels(rows, ignore)
    places = positions(rows.artifact).shape[1]
    if aligned and labels.shape[1] != places:
        return f"a row of the output has {places} positions, and of the labels {labels.shape[1]}"
    return outside(labels[counted], rows.artifact.shape[-1])
