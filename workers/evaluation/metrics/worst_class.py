"""`worst_class`: the recall of the class with the least, of those that the labels have.

The least of many recalls is no mean: it is the lower for being the least of many. Its intervals take no notice of
which class that was. The least of the lower bounds of all classes is a lower bound, for it holds of the worst one;
the upper one is the least of upper bounds that hold together. A drop is at most that of the class which is the
artifact's worst, and at least that of the original's, so its bounds are those of all classes that could be either.
"""

import numpy as np

from workers.evaluation.metrics.balanced_accuracy import one_class, score
from workers.evaluation.metrics.definition import Floats, OwnBounds, SetMetric
from workers.evaluation.metrics.definition import one_class_a_row as unfit
from workers.evaluation.statistics.clustered_shares import certain_share, paired_drop
from workers.evaluation.statistics.clusters import Codes, codes_of
from workers.evaluation.statistics.linear import Ends, Linearised

_OF_THE_SET = 0.2
"""The part of the error that is spent on finding which classes could be the worst."""


def _linearise(records: Floats, groups: Codes | None) -> Linearised:
    """The value, and the influence of the rows of the class that is the worst here; the intervals do not use it."""
    classes, right = _recalls(records)
    sizes = np.bincount(classes)
    recalls = np.bincount(classes, right) / sizes
    worst = int(recalls.argmin())
    influence = np.where(classes == worst, len(records) / sizes[worst] * (right - recalls[worst]), 0.0)
    return Linearised(float(recalls[worst]), influence, len(records) / float(sizes[worst]))


def _value_bounds(records: Floats, groups: Codes | None, confidence: float) -> Ends:
    classes, right = _recalls(records)
    lower = min(certain_share(right[rows], _of(groups, rows), confidence)[0] for rows in _rows_of(classes))
    together = 1 - (1 - confidence) / (int(classes.max()) + 1)
    upper = min(certain_share(right[rows], _of(groups, rows), together)[1] for rows in _rows_of(classes))
    return lower, upper


def _drop_bounds(original: Floats, artifact: Floats, groups: Codes | None, confidence: float) -> Ends:
    classes, before = _recalls(original)
    _, after = _recalls(artifact)
    error = 1 - confidence
    rows_of = _rows_of(classes)
    together = 1 - _OF_THE_SET * error / len(rows_of)
    rest = 1 - (1 - _OF_THE_SET) * error
    lowest: list[float] = []
    highest: list[float] = []
    for right, ends, side in ((before, lowest, 0), (after, highest, 1)):
        bounds = [certain_share(right[rows], _of(groups, rows), together) for rows in rows_of]
        least = min(upper for _, upper in bounds)
        for rows, (lower, _) in zip(rows_of, bounds, strict=True):
            if lower <= least:
                ends.append(paired_drop(before[rows], after[rows], _of(groups, rows), rest)[side])
    return min(lowest), max(highest)


def _recalls(records: Floats) -> tuple[Codes, Floats]:
    return codes_of(records[:, 0]), (records[:, 0] == records[:, 1]).astype(np.float64)


def _rows_of(classes: Codes) -> list[Codes]:
    return [np.flatnonzero(classes == number) for number in range(int(classes.max()) + 1)]


def _of(groups: Codes | None, rows: Codes) -> Codes | None:
    return None if groups is None else codes_of(groups[rows])


METRIC = SetMetric(
    "worst_class",
    score,
    _linearise,
    range=(0.0, 1.0),
    unfit=unfit,
    unfit_set=one_class,
    own=OwnBounds(_value_bounds, _drop_bounds),
)
