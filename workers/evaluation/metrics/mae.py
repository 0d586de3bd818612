"""`mae`: the mean absolute error of numbers."""

import math

import numpy as np

from workers.evaluation.metrics.definition import MEAN, Floats, RowMetric, Rows, by_row, mean, row_text


def errors(rows: Rows) -> Floats:
    """Output minus label, [rows, numbers a row]."""
    return by_row(rows.artifact) - rows.truth.reshape(len(rows.truth), -1).astype(np.float64)


def unfit(rows: Rows) -> str | None:
    """Why outputs and labels are not as many numbers a row, or None."""
    if math.prod(rows.artifact.shape[1:]) != math.prod(rows.truth.shape[1:]):
        return f"a row of the output is {row_text(rows.artifact)}, and of the labels {row_text(rows.truth)}"
    return None


def _score(rows: Rows) -> Floats:
    scores = np.abs(errors(rows)).mean(axis=1, keepdims=True)
    scores[~np.isfinite(scores)] = np.nan
    return np.asarray(scores)


METRIC = RowMetric("mae", _score, mean, ideal=None, range=(0.0, math.inf), unfit=unfit, form=MEAN)
