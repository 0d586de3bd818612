"""The labels of a row: one for each position, or several of which any will do."""

import numpy as np
from numpy.typing import NDArray

from workers.evaluation.metrics.definition import Rows, no_class_axis, not_whole, outside, positions

NONE = -1
"""Fills up the labels of a row that accepts fewer than others."""


def accepted_labels(rows: Rows) -> NDArray[np.int64]:
    """Whole numbers [rows, positions, accepted]; `NONE` accepts nothing."""
    labels: NDArray[np.int64] = rows.truth.reshape(len(rows.truth), -1).astype(np.int64)
    return labels[:, np.newaxis, :] if _several(rows) else labels[:, :, np.newaxis]


def unfit(rows: Rows) -> str | None:
    """Why outputs and labels are not a vector of classes and what it should choose for each position, or None."""
    if (reason := no_class_axis(rows.artifact) or not_whole(rows.truth)) is not None:
        return reason
    if not _several(rows) and _labels_a_row(rows) != positions(rows.artifact).shape[1]:
        return (
            f"the labels have the shape {list(rows.truth.shape)}, but outputs of the shape "
            f"{list(rows.artifact.shape)} want {list(rows.artifact.shape[:-1])}"
        )
    labels = rows.truth
    if _several(rows):
        if (accepting := (labels != NONE).any(axis=1)).sum() < len(labels):
            return f"{int((~accepting).sum())} rows accept no label at all"
        labels = labels[labels != NONE]
    return outside(labels, rows.artifact.shape[-1])


def _labels_a_row(rows: Rows) -> int:
    return int(np.prod(rows.truth.shape[1:], dtype=int))


def _several(rows: Rows) -> bool:
    """Whether each row, of one position, has several labels: then any of them is right."""
    return rows.truth.ndim == 2 and rows.truth.shape[1] > 1 and positions(rows.artifact).shape[1] == 1
