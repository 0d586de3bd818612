"""`spearman`: the correlation of ranks with the labels, of numbers or of the cosines of two embeddings."""

import numpy as np

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.auc import mid_ranks
from workers.evaluation.metrics.definition import Floats, Rows, SetMetric
from workers.evaluation.metrics.pearson import compared, constant, not_comparable, rows_a_draw
from workers.evaluation.statistics.clusters import Codes
from workers.evaluation.statistics.linear import Linearised


def metric(options: MetricOptions) -> SetMetric:
    def score(rows: Rows) -> Floats:
        """Output and label, [rows or pairs, 2]."""
        return compared(rows, options)

    return SetMetric(
        "spearman",
        score,
        _linearise,
        range=(-1.0, 1.0),
        unfit=lambda rows: not_comparable(rows, options),
        unfit_set=constant,
        interval="fisher",
        rows_a_draw=rows_a_draw(options),
        whole=True,
    )


def _linearise(records: Floats, groups: Codes | None) -> Linearised:
    """Pearson's of mid-ranks. A row moves the products of ranks by its own, and by the ranks of all above it."""
    rows = len(records)
    first, second = ((mid_ranks(column) - (rows + 1) / 2) / rows for column in records.T)
    both, of_both = _product(records[:, 0], first, records[:, 1], second)
    one, of_one = _product(records[:, 0], first, records[:, 0], first)
    other, of_other = _product(records[:, 1], second, records[:, 1], second)
    value = both / float(np.sqrt(one * other))
    influence = of_both / np.sqrt(one * other) - value / 2 * (of_one / one + of_other / other)
    return Linearised(value, np.asarray(influence - influence.mean()), 2.0)


def _product(x: Floats, x_ranks: Floats, y: Floats, y_ranks: Floats) -> tuple[float, Floats]:
    """The mean product of centred ranks, and the influence of each row, of itself and through others' ranks."""
    products = x_ranks * y_ranks
    return float(products.mean()), products + _above(x, y_ranks) + _above(y, x_ranks) - 3 * products.mean()


def _above(values: Floats, weights: Floats) -> Floats:
    """For each row the mean over all rows of the weight, of those with a greater value; equals count half."""
    order = np.argsort(values, kind="stable")
    _, starts, counts = np.unique(values[order], return_index=True, return_counts=True)
    sums = np.concatenate([[0.0], np.cumsum(weights[order])])
    at_end = sums[starts + counts]
    of_level = sums[-1] - at_end + (at_end - sums[starts]) / 2
    found = np.empty(len(values))
    found[order] = np.repeat(of_level, counts) / len(values)
    return found
