"""`cosine`: the cosine of the angle between the original's output and the artifact's, mean over rows."""

import numpy as np

from workers.evaluation.metrics.definition import MEAN, Floats, RowMetric, Rows, by_row, mean


def _score(rows: Rows) -> Floats:
    """The cosine of each row as one vector: [rows, 1]; 1 where both are zero, 0 where one is.

    Elements that the original itself leaves infinite or undefined (a mask, say) are left out.
    """
    first, second = by_row(rows.reference), by_row(rows.artifact)
    defined = np.isfinite(first)
    first, second = np.where(defined, first, 0.0), np.where(defined, second, 0.0)
    first, second = _unit(first), _unit(second)
    cosine = (first * second).sum(axis=1)
    both_zero = ~first.any(axis=1) & ~second.any(axis=1)
    return np.where(both_zero, 1.0, np.clip(cosine, -1.0, 1.0))[:, np.newaxis]


def _unit(vectors: Floats) -> Floats:
    """Vectors of length 1, scaled by their largest element first so that no square over- or underflows."""
    largest = np.abs(vectors).max(axis=1, keepdims=True, initial=0.0)
    with np.errstate(invalid="ignore"):
        vectors = vectors / np.where(largest > 0, largest, 1.0)
    lengths = np.sqrt((vectors**2).sum(axis=1, keepdims=True))
    return vectors / np.where(lengths > 0, lengths, 1.0)


METRIC = RowMetric("cosine", _score, mean, ideal=1.0, range=(-1.0, 1.0), form=MEAN)
