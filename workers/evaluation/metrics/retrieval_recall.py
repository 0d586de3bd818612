"""`retrieval_recall`: the share of rows that find another of their label among the k nearest by their embeddings."""

import numpy as np

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.definition import Floats, RowMetric, Rows, by_row, not_whole, ratio, row_text

_CELLS = 8_000_000  # of similarities held at once


def metric(options: MetricOptions) -> RowMetric:
    chosen = options.model_dump()
    k: int = chosen["k"]

    def score(rows: Rows) -> Floats:
        """Whether a row finds its like, and whether there is any to be found, [rows, 2]."""
        vectors = by_row(rows.artifact)
        labels = rows.truth.reshape(-1)
        undefined = ~np.isfinite(vectors).all(axis=1)
        vectors = np.where(np.isfinite(vectors), vectors, 0.0)
        if chosen["distance"] == "cosine":
            lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
            vectors = vectors / np.where(lengths > 0, lengths, 1.0)
        squares = (vectors**2).sum(axis=1)
        _, places, counts = np.unique(labels, return_inverse=True, return_counts=True)
        has_like = counts[places.reshape(-1)] > 1
        found = np.zeros((len(labels), 2))
        found[:, 1] = has_like
        nearest = min(k, len(labels) - 1)
        step = max(_CELLS // len(labels), 1)
        for start in range(0, len(labels), step):
            near = vectors[start : start + step] @ vectors.T
            if chosen["distance"] == "euclidean":
                near = near - squares / 2
            rows_here = np.arange(len(near))
            near[rows_here, start + rows_here] = -np.inf
            best = np.argpartition(-near, nearest - 1, axis=1)[:, :nearest]
            same = labels[best] == labels[start : start + step, np.newaxis]
            found[start : start + step, 0] = same.any(axis=1)
        found[undefined] = np.nan
        return found

    return RowMetric(
        "retrieval_recall",
        score,
        ratio,
        ideal=None,
        range=(0.0, 1.0),
        unfit=_unfit,
        unfit_set=_nothing_to_find,
        interval="bounded",
        whole=True,
    )


def _unfit(rows: Rows) -> str | None:
    if (reason := not_whole(rows.truth)) is not None:
        return reason
    if rows.truth.size != len(rows.truth):
        return f"it wants one label a row, and a row of the labels is {row_text(rows.truth)}"
    return "one row has no other to be found by" if len(rows.truth) < 2 else None


def _nothing_to_find(scores: Floats) -> str | None:
    return None if scores[:, 1].any() else "no two rows have the same label, so there is nothing to find"
