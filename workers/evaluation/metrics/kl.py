"""`kl`: nats lost when the artifact's softmax stands for the original's, mean over rows."""

import math

import numpy as np
from numpy.typing import NDArray

from workers.evaluation.metrics.definition import MEAN, Floats, RowMetric, Rows, mean, no_class_axis, positions


def _score(rows: Rows) -> Floats:
    """The divergence original‖artifact of each row: [rows, 1], the mean of a row's positions."""
    with np.errstate(invalid="ignore"):
        original = log_softmax(positions(rows.reference))
        artifact = log_softmax(positions(rows.artifact))
        share = np.exp(original)
        # A class that the original rules out (a mask of minus infinity) costs nothing.
        nats = np.where(share > 0, share * (original - artifact), 0.0).sum(axis=-1)
    # Rounding leaves divergences of equal distributions a few 1e-17 below zero.
    divergence: Floats = np.maximum(nats, 0.0).mean(axis=1, keepdims=True)
    divergence[~np.isfinite(divergence)] = np.nan
    return divergence


def log_softmax(values: NDArray[np.floating]) -> Floats:
    """Logarithms of the softmax along the last axis, in float64."""
    shifted: Floats = values.astype(np.float64)
    shifted -= shifted.max(axis=-1, keepdims=True)
    shifted -= np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    return shifted


def _unfit(rows: Rows) -> str | None:
    return no_class_axis(rows.artifact)


METRIC = RowMetric("kl", _score, mean, ideal=0.0, range=(0.0, math.inf), unfit=_unfit, form=MEAN)
