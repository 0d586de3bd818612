"""`perplexity`: the exponential of the mean nats that the next tokens cost, the ignored ones left out."""

import math

import numpy as np

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.definition import Floats, RatioForm, RowMetric, Rows, positions, ratio
from workers.evaluation.metrics.kl import log_softmax
from workers.evaluation.metrics.token_accuracy import counted_labels, not_sequences


def metric(options: MetricOptions) -> RowMetric:
    ignore: int = options.model_dump()["ignore"]

    def score(rows: Rows) -> Floats:
        """Nats of a row's tokens, and how many there are, [rows, 2]."""
        labels, counted = counted_labels(rows, ignore)
        with np.errstate(invalid="ignore"):
            logs = log_softmax(positions(rows.artifact))
        of_labels = np.take_along_axis(logs, np.where(counted, labels, 0)[..., np.newaxis], axis=-1)[..., 0]
        nats = np.where(counted, -of_labels, 0.0).sum(axis=1)
        nats[~np.isfinite(nats)] = np.nan
        return np.stack([nats, counted.sum(axis=1)], axis=1)

    return RowMetric(
        "perplexity",
        score,
        _value,
        ideal=None,
        range=(1.0, math.inf),
        unfit=lambda rows: not_sequences(rows, ignore),
        form=RatioForm(
            lambda nats: (nats[:, 0], nats[:, 1]), lambda nats: _value(np.array([nats, 1.0])).item(), grows=True
        ),
    )


def _value(means: Floats) -> Floats:
    with np.errstate(over="ignore"):
        return np.asarray(np.exp(ratio(means)))
