"""`balanced_accuracy`: recall, mean over the classes that the labels have."""

import numpy as np

from workers.evaluation.metrics.definition import Floats, Rows, SetMetric, chosen, class_labels, class_scores
from workers.evaluation.metrics.definition import one_class_a_row as unfit
from workers.evaluation.statistics.clusters import Codes, codes_of, draws_of, unbiased
from workers.evaluation.statistics.linear import Linearised

_MORE = 4
"""Rows that are counted in; about z² of a 95 % interval, as in Wilson's."""


def score(rows: Rows) -> Floats:
    """The label and the class that was chosen, [rows, 2]."""
    return np.stack([class_labels(rows).astype(np.float64), chosen(class_scores(rows))], axis=1)


def one_class(records: Floats) -> str | None:
    """Why a set of labels tells no classes apart, or None."""
    labels = records[:, 0]
    if (labels == labels[0]).all():
        return f"the labels have one class alone, {int(labels[0])}"
    return None


def _linearise(records: Floats, groups: Codes | None) -> Linearised:
    """A row adds what its class's recall errs by.

    A class whose few rows are all right, or all wrong, shows no scatter: what it would have if a few more rows were as
    all rows are is added as unseen.
    """
    classes = codes_of(records[:, 0])
    right = (records[:, 0] == records[:, 1]).astype(np.float64)
    sizes = np.bincount(classes)
    draws = np.array([draws_of(np.flatnonzero(classes == kind), groups) for kind in range(len(sizes))])
    recalls = np.bincount(classes, right) / sizes
    weights = len(records) / (len(sizes) * sizes)
    influence = (weights * np.array([unbiased(int(count)) for count in draws]))[classes] * (right - recalls[classes])
    drawn = (draws * recalls + _MORE * right.mean()) / (draws + _MORE)
    unseen = np.maximum(drawn * (1 - drawn) - recalls * (1 - recalls), 0) / draws / len(sizes) ** 2
    return Linearised(float(recalls.mean()), influence, float(weights.max()), unseen=float(unseen.sum()))


METRIC = SetMetric("balanced_accuracy", score, _linearise, range=(0.0, 1.0), unfit=unfit, unfit_set=one_class)
