"""`auc`: the area under the ROC curve; of two classes that of class 1, of more the mean of each against the rest.

Influence: the structural components of E. DeLong, D. DeLong and D. Clarke-Pearson, "Comparing the areas under two or
more correlated receiver operating characteristic curves", Biometrics 44 (1988).
"""

import numpy as np
from numpy.typing import NDArray

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.balanced_accuracy import one_class
from workers.evaluation.metrics.definition import Floats, Rows, SetMetric, class_labels, class_scores
from workers.evaluation.metrics.ece import not_scores, probabilities
from workers.evaluation.statistics.clusters import Codes, draws_of, unbiased
from workers.evaluation.statistics.linear import Linearised


def metric(options: MetricOptions) -> SetMetric:
    kind = options.model_dump()["scores"]

    def score(rows: Rows) -> Floats:
        """The label, then the score of class 1, or the probabilities of all of more than two: [rows, 2 or more]."""
        scores = class_scores(rows).astype(np.float64)
        if scores.shape[1] == 2:
            scores = scores[:, 1:] - scores[:, :1]
        elif scores.shape[1] > 2:
            scores = probabilities(scores, kind)
        return np.concatenate([class_labels(rows)[:, np.newaxis].astype(np.float64), scores], axis=1)

    return SetMetric(
        "auc",
        score,
        _linearise,
        range=(0.0, 1.0),
        unfit=lambda rows: not_scores(rows, kind),
        unfit_set=one_class,
        whole=True,
    )


def _linearise(records: Floats, groups: Codes | None) -> Linearised:
    labels = records[:, 0].astype(np.int64)
    if records.shape[1] == 2:
        return _area(records[:, 1], labels == 1, groups)
    areas = [_area(records[:, 1 + label], labels == label, groups) for label in np.unique(labels)]
    return Linearised(
        float(np.mean([area.value for area in areas])),
        np.mean([area.influence for area in areas], axis=0),
        float(np.mean([area.step for area in areas])),
    )


def _area(scores: Floats, positive: NDArray[np.bool_], groups: Codes | None) -> Linearised:
    """Each row's share of the other class that it stands on the right side of; equals count half."""
    rows, above = len(scores), int(positive.sum())
    below = rows - above
    influence = np.empty(rows)
    ranks = mid_ranks(scores)
    placed = (ranks[positive] - mid_ranks(scores[positive])) / below
    of_above, of_below = (unbiased(draws_of(np.flatnonzero(side), groups)) for side in (positive, ~positive))
    influence[positive] = rows / above * of_above * (placed - placed.mean())
    passed = 1 - (ranks[~positive] - mid_ranks(scores[~positive])) / above
    influence[~positive] = rows / below * of_below * (passed - passed.mean())
    return Linearised(float(placed.mean()), influence, rows / min(above, below))


def mid_ranks(values: Floats) -> Floats:
    """Ranks from 1 on; equals share the mean of theirs."""
    _, places, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[places.reshape(-1)], np.float64)
