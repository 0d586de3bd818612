"""`agreement`: the share of rows whose highest output on the last axis is the original's."""

import numpy as np

from workers.evaluation.metrics.definition import Floats, RowMetric, Rows, mean, no_class_axis, positions


def _score(rows: Rows) -> Floats:
    """1 where both choose the same (the first of equals, as NumPy has it); an undefined output disagrees.

    A row of several positions, such as a sequence of tokens, scores the share of them that agree.
    """
    outputs = positions(rows.artifact)
    same = outputs.argmax(axis=-1) == positions(rows.reference).argmax(axis=-1)
    same &= ~np.isnan(outputs).any(axis=-1)
    return np.asarray(same.mean(axis=1, keepdims=True, dtype=np.float64))


def _unfit(rows: Rows) -> str | None:
    return no_class_axis(rows.artifact)


METRIC = RowMetric("agreement", _score, mean, ideal=1.0, range=(0.0, 1.0), unfit=_unfit, interval="bounded")
