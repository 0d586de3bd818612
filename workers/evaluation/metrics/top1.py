"""`top1`: the share of rows whose highest output on the last axis is the label."""

import numpy as np

from workers.evaluation.metrics.definition import (
    Floats,
    RowMetric,
    Rows,
    mean,
    no_class_axis,
    not_whole,
    outside,
    positions,
)


def _score(rows: Rows) -> Floats:
    """1 where the label is the highest (the first of equals, as NumPy has it); an undefined output is wrong.

    A row of several positions, such as a sequence of tokens, scores the share of them that are right.
    """
    outputs = positions(rows.artifact)
    right = outputs.argmax(axis=-1) == rows.truth.reshape(len(outputs), -1)
    right &= ~np.isnan(outputs).any(axis=-1)
    return np.asarray(right.mean(axis=1, keepdims=True, dtype=np.float64))


def unfit(rows: Rows) -> str | None:
    """Why outputs and labels are not a vector of classes and a whole number for each position, or None."""
    if (reason := no_class_axis(rows.artifact) or not_whole(rows.truth)) is not None:
        return reason
    if rows.truth.reshape(len(rows.truth), -1).shape[1] != positions(rows.artifact).shape[1]:
        return (
            f"the labels have the shape {list(rows.truth.shape)}, but outputs of the shape "
            f"{list(rows.artifact.shape)} want {list(rows.artifact.shape[:-1])}"
        )
    return outside(rows.truth, rows.artifact.shape[-1])


METRIC = RowMetric("top1", _score, mean, ideal=None, range=(0.0, 1.0), unfit=unfit, interval="bounded")
