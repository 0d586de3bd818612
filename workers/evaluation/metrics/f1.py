"""`f1`: the harmonic mean of precision and recall, over the classes that the labels have."""

import numpy as np

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.balanced_accuracy import one_class, score
from workers.evaluation.metrics.definition import Floats, OwnBounds, SetMetric
from workers.evaluation.metrics.definition import one_class_a_row as unfit
from workers.evaluation.statistics.clustered_shares import paired_drop, share
from workers.evaluation.statistics.clusters import Codes
from workers.evaluation.statistics.linear import Ends, Linearised


def metric(options: MetricOptions) -> SetMetric:
    average = options.model_dump()["average"]

    def linearise(records: Floats, groups: Codes | None) -> Linearised:
        return _micro(records) if average == "micro" else _by_class(records, weighted=average == "weighted")

    own = OwnBounds(_micro_bounds, _micro_drop) if average == "micro" else None
    return SetMetric("f1", score, linearise, range=(0.0, 1.0), unfit=unfit, unfit_set=one_class, own=own)


def _micro(records: Floats) -> Linearised:
    """Of one label and one choice a row, the share that is right."""
    right = _right(records)
    return Linearised(float(right.mean()), right - right.mean())


def _micro_bounds(records: Floats, groups: Codes | None, confidence: float) -> Ends:
    return share(_right(records), groups, confidence)


def _micro_drop(original: Floats, artifact: Floats, groups: Codes | None, confidence: float) -> Ends:
    return paired_drop(_right(original), _right(artifact), groups, confidence)


def _right(records: Floats) -> Floats:
    return np.asarray(records[:, 0] == records[:, 1], np.float64)


def _by_class(records: Floats, *, weighted: bool) -> Linearised:
    """F1 of a class is 2·TP over labels plus choices of it: a row touches its label's class and its choice's."""
    labels, choices = records[:, 0].astype(np.int64), records[:, 1].astype(np.int64)
    rows, width = len(records), int(max(labels.max(), choices.max())) + 1
    support = np.bincount(labels, minlength=width)
    taken = np.bincount(choices[choices >= 0], minlength=width)
    right = np.bincount(labels[labels == choices], minlength=width)
    present = support > 0
    scores = np.divide(2.0 * right, support + taken, out=np.zeros(width), where=present)
    weights = np.where(present, support / rows if weighted else 1 / present.sum(), 0.0)
    value = float(weights @ scores)

    slope = np.divide(rows * weights, support + taken, out=np.zeros(width), where=present)
    influence = 2 * slope[labels] * (labels == choices) - slope[labels] * scores[labels]
    influence -= np.where(choices >= 0, slope[choices] * scores[choices], 0.0)
    if weighted:
        influence += scores[labels] - value
    return Linearised(value, influence, float(slope[present].max()) * 2)
