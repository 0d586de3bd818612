"""`top1`: the share of rows whose highest output on the last axis is the label, or one of several."""

import numpy as np

from workers.evaluation.accepted import accepted_labels, unfit
from workers.evaluation.metrics.definition import Floats, RowMetric, Rows, mean, positions


def _score(rows: Rows) -> Floats:
    """1 where a label is the highest (the first of equals, as NumPy has it); an undefined output is wrong.

    A row of several positions, such as a sequence of tokens, scores the share of them that are right.
    """
    outputs = positions(rows.artifact)
    right = (outputs.argmax(axis=-1)[..., np.newaxis] == accepted_labels(rows)).any(axis=-1)
    right &= ~np.isnan(outputs).any(axis=-1)
    return np.asarray(right.mean(axis=1, keepdims=True, dtype=np.float64))


METRIC = RowMetric("top1", _score, mean, ideal=None, range=(0.0, 1.0), unfit=unfit, interval="bounded")
