"""`exact_match`: the share of rows whose decoded sequence is the labels' to the last."""

import numpy as np

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.cer import decoded, not_decodable
from workers.evaluation.metrics.definition import Floats, RowMetric, Rows, mean


def metric(options: MetricOptions) -> RowMetric:
    def score(rows: Rows) -> Floats:
        pairs = zip(*decoded(rows, options), strict=True)
        return np.array([[float(found == wanted)] for found, wanted in pairs])

    return RowMetric(
        "exact_match",
        score,
        mean,
        ideal=None,
        range=(0.0, 1.0),
        unfit=lambda rows: not_decodable(rows, options),
        interval="bounded",
    )
