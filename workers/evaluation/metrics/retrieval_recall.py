"""`retrieval_recall`: the share of rows that find another of their label among the k nearest by their embeddings.

A row counts twice: it looks for others, and others find it, or find it in their way. So its influence is what it finds
itself, and by how much others would find more or less without it (a jackknife, by the k + 1 nearest of each row).
"""

import numpy as np
from numpy.typing import NDArray

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.definition import Floats, Rows, SetMetric, by_row, not_whole, row_text
from workers.evaluation.statistics.clusters import Codes
from workers.evaluation.statistics.linear import Linearised

_CELLS = 8_000_000  # of similarities held at once

_PART = 0.5
"""How much of what others owe to a row counts: neighbours make the jackknife's variance several times too large, and
without it there are 88 in 100 intervals of 95 % that hold (simulated, `benchmarks/coverage.py`)."""


def metric(options: MetricOptions) -> SetMetric:
    chosen = options.model_dump()
    k: int = chosen["k"]

    def score(rows: Rows) -> Floats:
        """Whether a row finds its like, whether there is any to be found, and what others owe to it, [rows, 3]."""
        vectors, labels = by_row(rows.artifact), rows.truth.reshape(-1)
        undefined = ~np.isfinite(vectors).all(axis=1)
        near = _nearest(np.where(np.isfinite(vectors), vectors, 0.0), k + 1, chosen["distance"])
        same = labels[near] == labels[:, np.newaxis]
        _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
        has_like = counts[places.reshape(-1)] > 1
        found = same[:, :k].sum(axis=1)
        next_one = same[:, k] if same.shape[1] > k else np.zeros(len(labels), bool)
        hit = found > 0
        without = found[:, np.newaxis] - same[:, :k] + next_one[:, np.newaxis] > 0
        owed = np.zeros(len(labels))
        np.add.at(owed, near[:, :k], (hit[:, np.newaxis].astype(float) - without) * has_like[:, np.newaxis])
        records = np.stack([hit.astype(float), has_like.astype(float), owed], axis=1)
        records[undefined] = np.nan
        return records

    return SetMetric(
        "retrieval_recall",
        score,
        _linearise,
        range=(0.0, 1.0),
        unfit=_unfit,
        unfit_set=_nothing_to_find,
        whole=True,
    )


def _linearise(records: Floats, groups: Codes | None) -> Linearised:
    hit, counted, owed = records.T
    value = float(hit.sum() / counted.sum())
    influence = (hit - value * counted + _PART * (owed - owed.mean())) / counted.mean()
    return Linearised(value, influence)


def _nearest(vectors: Floats, count: int, distance: str) -> NDArray[np.int64]:
    """The places of so many rows nearest to each, itself left out, nearest first; [rows, count or all others]."""
    if distance == "cosine":
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.where(lengths > 0, lengths, 1.0)
    halves = (vectors**2).sum(axis=1) / 2 if distance == "euclidean" else 0.0
    count = min(count, len(vectors) - 1)
    found = np.empty((len(vectors), count), np.int64)
    step = max(_CELLS // len(vectors), 1)
    for start in range(0, len(vectors), step):
        far = halves - vectors[start : start + step] @ vectors.T
        here = np.arange(len(far))
        far[here, start + here] = np.inf
        best = np.argpartition(far, count - 1, axis=1)[:, :count]
        order = np.argsort(np.take_along_axis(far, best, axis=1), axis=1)
        found[start : start + step] = np.take_along_axis(best, order, axis=1)
    return found


def _unfit(rows: Rows) -> str | None:
    if (reason := not_whole(rows.truth)) is not None:
        return reason
    if rows.truth.size != len(rows.truth):
        return f"it wants one label a row, and a row of the labels is {row_text(rows.truth)}"
    return "one row has no other to be found by" if len(rows.truth) < 2 else None


def _nothing_to_find(scores: Floats) -> str | None:
    return None if scores[:, 1].any() else "no two rows have the same label, so there is nothing to find"
