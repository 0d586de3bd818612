"""`next_token`: the share of positions whose highest output is the original's, those of ignored labels left out."""

import numpy as np

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.definition import Floats, RowMetric, Rows, chosen, positions, ratio
from workers.evaluation.metrics.token_accuracy import counted_labels, not_sequences


def metric(options: MetricOptions) -> RowMetric:
    ignore: int = options.model_dump()["ignore"]

    def score(rows: Rows) -> Floats:
        """Positions that agree, and positions that count, [rows, 2]; an undefined output disagrees."""
        _, counted = counted_labels(rows, ignore)
        artifact = chosen(positions(rows.artifact))
        same = (artifact == chosen(positions(rows.reference))) & (artifact >= 0) & counted
        return np.stack([same.sum(axis=1), counted.sum(axis=1)], axis=1).astype(np.float64)

    return RowMetric(
        "next_token",
        score,
        ratio,
        ideal=1.0,
        range=(0.0, 1.0),
        unfit=lambda rows: not_sequences(rows, ignore),
        interval="bounded",
    )
