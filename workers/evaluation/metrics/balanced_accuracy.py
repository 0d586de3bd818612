"""`balanced_accuracy`: recall, mean over the classes that the labels have."""

import numpy as np

from workers.evaluation.metrics.definition import Floats, Rows, SetMetric, chosen, class_labels, class_scores
from workers.evaluation.metrics.definition import one_class_a_row as unfit
from workers.evaluation.statistics.clusters import Codes, codes_of
from workers.evaluation.statistics.linear import Linearised


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
    """A row adds what its class's recall errs by; recalls of few rows are drawn to that of all by one row's weight.

    Without that a class whose few rows are all right would seem to be known for certain.
    """
    classes = codes_of(records[:, 0])
    right = (records[:, 0] == records[:, 1]).astype(np.float64)
    sizes = np.bincount(classes)
    recalls = np.bincount(classes, right) / sizes
    weights = len(records) / (len(sizes) * sizes)
    influence = weights[classes] * (right - recalls[classes])
    return Linearised(float(recalls.mean()), influence, float(weights.max()))


METRIC = SetMetric("balanced_accuracy", score, _linearise, range=(0.0, 1.0), unfit=unfit, unfit_set=one_class)
