"""`rmse`: the root of the mean squared error of numbers."""

import math

import numpy as np

from workers.evaluation.metrics.definition import Floats, RatioForm, RowMetric, Rows
from workers.evaluation.metrics.mae import errors, unfit


def _score(rows: Rows) -> Floats:
    with np.errstate(over="ignore", invalid="ignore"):
        scores = (errors(rows) ** 2).mean(axis=1, keepdims=True)
    scores[~np.isfinite(scores)] = np.nan
    return np.asarray(scores)


def _value(means: Floats) -> Floats:
    return np.asarray(np.sqrt(np.maximum(means[..., 0], 0.0)))


_OF_SQUARES = RatioForm(
    lambda scores: (scores[:, 0], np.ones(len(scores))), lambda mean_square: math.sqrt(max(mean_square, 0.0))
)

METRIC = RowMetric("rmse", _score, _value, ideal=None, range=(0.0, math.inf), unfit=unfit, form=_OF_SQUARES)
