"""`top5`: the share of rows with the label among the five highest outputs on the last axis."""

import numpy as np

from workers.evaluation.metrics.definition import Floats, RowMetric, Rows, mean, positions
from workers.evaluation.metrics.top1 import unfit

HIGHEST = 5


def _score(rows: Rows) -> Floats:
    """1 where fewer than five outputs come before the label's (of equals the first, as in `top1`)."""
    outputs = positions(rows.artifact)
    labels = rows.truth.reshape(len(outputs), -1, 1).astype(np.int64)
    of_label = np.take_along_axis(outputs, labels, axis=-1)
    before = np.arange(outputs.shape[-1]) < labels
    ahead = (outputs > of_label) | ((outputs == of_label) & before)
    right = ahead.sum(axis=-1) < HIGHEST
    right &= ~np.isnan(outputs).any(axis=-1)
    return np.asarray(right.mean(axis=1, keepdims=True, dtype=np.float64))


METRIC = RowMetric("top5", _score, mean, ideal=None, range=(0.0, 1.0), unfit=unfit, interval="bounded")
