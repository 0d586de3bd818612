"""`ece`: the expected calibration error, by how much confidence and accuracy differ, mean over bins of confidence.

C. Guo and others, "On calibration of modern neural networks", ICML 2017. The sum of absolute values is never below
what it is of: by chance alone a bin of few rows differs, so the estimate is too high, by at most √(2/π) of each bin's
standard error. The intervals have that much room on the side it is wanted.
"""

import math

import numpy as np
from numpy.typing import NDArray

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.definition import (
    Floats,
    OwnBounds,
    Rows,
    SetMetric,
    class_labels,
    class_scores,
    not_whole,
    outside,
    positions,
    row_text,
)
from workers.evaluation.statistics.clusters import Codes, group_sums
from workers.evaluation.statistics.linear import Ends, Linearised, scatter_of

_FOLDED = math.sqrt(2 / math.pi)
"""The mean of the absolute value of a standard normal number."""

_SUM_OF_ONE = 0.01


def metric(options: MetricOptions) -> SetMetric:
    chosen = options.model_dump()
    bins: int = chosen["bins"]

    def score(rows: Rows) -> Floats:
        """Confidence in the class that was chosen, and whether it is the label, [rows, 2]."""
        shares = probabilities(class_scores(rows), chosen["scores"])
        if shares.shape[1] == 1:
            shares = np.concatenate([1 - shares, shares], axis=1)
        right = (shares.argmax(axis=1) == class_labels(rows)).astype(np.float64)
        return np.stack([shares.max(axis=1), right], axis=1)

    def linearise(records: Floats, groups: Codes | None) -> Linearised:
        value, signed, _ = _by_bin(records, bins)
        return Linearised(value, signed - value)

    def value_bounds(records: Floats, groups: Codes | None, confidence: float) -> Ends:
        value, signed, parts = _by_bin(records, bins)
        reach = scatter_of(Linearised(value, signed - value), groups).reach(confidence)
        bias = _FOLDED * float(_errors(parts, groups).sum())
        return max(value - bias - reach, 0.0), min(value + reach, 1.0)

    def drop_bounds(original: Floats, artifact: Floats, groups: Codes | None, confidence: float) -> Ends:
        before, after = _by_bin(original, bins), _by_bin(artifact, bins)
        value = before[0] - after[0]
        reach = scatter_of(Linearised(value, before[1] - after[1] - value), groups).reach(confidence)
        first, second = _errors(before[2], groups), _errors(after[2], groups)
        moved = np.abs((before[2] - after[2]).mean(axis=0)) + _errors(before[2] - after[2], groups)
        bias = np.minimum(moved, _FOLDED * np.maximum(first, second)) + _FOLDED * np.abs(first - second)
        return value - float(bias.sum()) - reach, value + float(bias.sum()) + reach

    return SetMetric(
        "ece",
        score,
        linearise,
        range=(0.0, 1.0),
        unfit=lambda rows: not_scores(rows, chosen["scores"]),
        own=OwnBounds(value_bounds, drop_bounds),
        whole=True,
    )


def probabilities(scores: NDArray[np.floating], kind: str) -> Floats:
    """Scores as probabilities, [rows, classes], or [rows, 1] of class 1 of two."""
    values: Floats = scores.astype(np.float64)
    if kind == "probabilities" or (kind == "auto" and are_probabilities(values)):
        return values
    if values.shape[1] == 1:
        return np.asarray(1 / (1 + np.exp(-np.clip(values, -700, 700))))
    values = np.exp(values - values.max(axis=1, keepdims=True))
    return np.asarray(values / values.sum(axis=1, keepdims=True))


def are_probabilities(values: Floats) -> bool:
    """Whether values are between 0 and 1 and, of several classes, those of a row sum to 1."""
    inside = bool((values >= 0).all() and (values <= 1).all())
    return inside and (values.shape[1] == 1 or bool((np.abs(values.sum(axis=1) - 1) <= _SUM_OF_ONE).all()))


def not_scores(rows: Rows, kind: str) -> str | None:
    """Why an output is not one vector of scores of classes, or one score of two, for each row with a label, or None."""
    if (reason := not_whole(rows.truth)) is not None:
        return reason
    if (rows.artifact.ndim > 2 and positions(rows.artifact).shape[1] != 1) or rows.truth.size != len(rows.truth):
        return (
            f"it wants one vector of classes and one label a row; a row of the output is {row_text(rows.artifact)}, "
            f"of the labels {row_text(rows.truth)}"
        )
    values = class_scores(rows)
    if kind == "probabilities" and not are_probabilities(values.astype(np.float64)):
        return "the output is said to hold probabilities, and they are not all between 0 and 1 with the sum 1"
    return outside(rows.truth, max(values.shape[1], 2))


def _by_bin(records: Floats, bins: int) -> tuple[float, Floats, Floats]:
    """The error, what each row adds to it, [rows], and each row's difference in its bin, [rows, bins]."""
    confidence, right = records[:, 0], records[:, 1]
    place = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    parts = np.zeros((len(records), bins))
    parts[np.arange(len(records)), place] = right - confidence
    signs = np.sign(parts.sum(axis=0))
    signed = np.asarray(parts @ signs)
    return float(signed.mean()), signed, parts


def _errors(parts: Floats, groups: Codes | None) -> Floats:
    """The standard error of each bin's difference, [bins]."""
    rows = len(parts)
    centred = parts - parts.mean(axis=0)
    sums = centred if groups is None else group_sums(centred, groups)
    draws = len(sums)
    return np.asarray(np.sqrt((sums**2).sum(axis=0) * draws / max(draws - 1, 1)) / rows)
