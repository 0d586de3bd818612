"""`r2`: the share of the labels' variance that the output explains; of several numbers a row the mean over them."""

import math

import numpy as np

from workers.evaluation.metrics.definition import Floats, RatioForm, RowMetric, Rows
from workers.evaluation.metrics.mae import errors, unfit


def _score(rows: Rows) -> Floats:
    """Of each number the label, its square and the squared error, the label from the mean of all: [rows, 3·numbers]."""
    labels = rows.truth.reshape(len(rows.truth), -1).astype(np.float64)
    labels = labels - labels.mean(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        squares = errors(rows) ** 2
    squares[~np.isfinite(squares)] = np.nan
    return np.concatenate([labels, labels**2, squares], axis=1)


def _value(means: Floats) -> Floats:
    label, square, error = np.split(means, 3, axis=-1)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray((1 - error / (square - label**2)).mean(axis=-1))


def _unexplained(records: Floats) -> tuple[Floats, Floats] | None:
    """Squared errors and, of one number a row, what they are a part of; of several the mean is of many ratios."""
    if records.shape[1] > 3:
        return None
    return records[:, 2], (records[:, 0] - records[:, 0].mean()) ** 2


def _constant(records: Floats) -> str | None:
    if len(records) < 2:
        return "there is one row alone, and no variance to explain"
    spread = records[:, records.shape[1] // 3 : 2 * records.shape[1] // 3].max(axis=0)
    return "the labels do not vary" if (spread == 0).any() else None


METRIC = RowMetric(
    "r2",
    _score,
    _value,
    ideal=None,
    range=(-math.inf, 1.0),
    unfit=unfit,
    unfit_set=_constant,
    form=RatioForm(_unexplained, lambda unexplained: 1 - unexplained),
    whole=True,
)
