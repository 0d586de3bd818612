"""`top5`: the share of rows with the label, or one of several, among the five highest outputs on the last axis."""

import numpy as np

from workers.evaluation.accepted import NONE, accepted_labels, unfit
from workers.evaluation.metrics.definition import Floats, RowMetric, Rows, mean, positions

HIGHEST = 5


def _score(rows: Rows) -> Floats:
    """1 where fewer than five outputs come before a label's (of equals the first, as in `top1`)."""
    outputs, accepted = positions(rows.artifact), accepted_labels(rows)
    right = np.zeros(outputs.shape[:2], bool)
    for labels in np.moveaxis(accepted, -1, 0):
        places = np.where(labels == NONE, 0, labels)[..., np.newaxis]
        of_label = np.take_along_axis(outputs, places, axis=-1)
        before = np.arange(outputs.shape[-1]) < places
        ahead = (outputs > of_label) | ((outputs == of_label) & before)
        right |= (ahead.sum(axis=-1) < HIGHEST) & (labels != NONE)
    right &= ~np.isnan(outputs).any(axis=-1)
    return np.asarray(right.mean(axis=1, keepdims=True, dtype=np.float64))


METRIC = RowMetric("top5", _score, mean, ideal=None, range=(0.0, 1.0), unfit=unfit, interval="bounded")
