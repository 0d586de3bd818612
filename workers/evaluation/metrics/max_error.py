"""`max_error`: the greatest difference between the original's and the artifact's output, over all rows.

The greatest of a sample is a lower bound of the greatest there is, and no sample has an upper one.
"""

import math

import numpy as np

from workers.evaluation.metrics.definition import Floats, OwnBounds, Rows, SetMetric, by_row
from workers.evaluation.statistics.clusters import Codes
from workers.evaluation.statistics.linear import Ends, Linearised


def _score(rows: Rows) -> Floats:
    """The greatest of each row, [rows, 1]; what the original itself leaves infinite or undefined is left out."""
    original, result = by_row(rows.reference), by_row(rows.artifact)
    with np.errstate(invalid="ignore"):
        found = np.abs(np.where(np.isfinite(original), original - result, 0.0)).max(axis=1, keepdims=True, initial=0.0)
    found[~np.isfinite(found)] = np.nan
    return np.asarray(found)


def _linearise(records: Floats, groups: Codes | None) -> Linearised:
    return Linearised(float(records.max()), np.zeros(len(records)))


def _value_bounds(records: Floats, groups: Codes | None, confidence: float) -> Ends:
    return float(records.max()), math.inf


METRIC = SetMetric(
    "max_error",
    _score,
    _linearise,
    range=(0.0, math.inf),
    own=OwnBounds(_value_bounds),
    ideal=0.0,
)
