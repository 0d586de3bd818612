"""`miou`: intersection over union of predicted and labelled points, mean over the classes that occur."""

import numpy as np
from numpy.typing import NDArray

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.definition import Floats, RowMetric, Rows, not_whole, outside, row_text

Whole = NDArray[np.int64]


def metric(options: MetricOptions) -> RowMetric:
    chosen = options.model_dump()
    ignore, axis = chosen["ignore"], chosen["classes_axis"]

    def score(rows: Rows) -> Floats:
        """Of each class the points of intersection, then those of union, [rows, 2·classes]."""
        labels = rows.truth.reshape(len(rows.truth), -1).astype(np.int64)
        predicted, classes, undefined = _predicted(rows, axis)
        if classes is None:
            classes = int(max(labels[labels != ignore].max(initial=0), predicted.max(initial=0))) + 1
        found = np.zeros((len(labels), 2, classes))
        for row, (truth, guess) in enumerate(zip(labels, predicted, strict=True)):
            counted = truth != ignore
            truth, guess = truth[counted], guess[counted]
            found[row, 0] = np.bincount(truth[truth == guess], minlength=classes)
            found[row, 1] = (
                np.bincount(truth, minlength=classes) + np.bincount(guess, minlength=classes) - found[row, 0]
            )
        found[undefined] = np.nan
        return found.reshape(len(labels), -1)

    def unfit(rows: Rows) -> str | None:
        if (reason := not_whole(rows.truth)) is not None:
            return reason
        if (place := _class_axis(rows, axis)) is None and rows.artifact.shape != rows.truth.shape:
            return f"a row of the output is {row_text(rows.artifact)}, which fits no labels of {row_text(rows.truth)}"
        if place is None and (
            np.mod(values := rows.artifact[np.isfinite(rows.artifact)], 1).any() or (values < 0).any()
        ):
            return "the output has the labels' shape but no whole numbers, so it holds no classes"
        labels = rows.truth if ignore is None else rows.truth[rows.truth != ignore]
        return outside(labels, rows.artifact.shape[place] if place is not None else 2**31)

    return RowMetric("miou", score, _value, ideal=None, range=(0.0, 1.0), unfit=unfit, interval="bounded", whole=True)


def _value(means: Floats) -> Floats:
    intersection, union = np.split(means, 2, axis=-1)
    occurs = union > 0
    shares = np.divide(intersection, union, out=np.zeros_like(union), where=occurs)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(shares.sum(axis=-1) / occurs.sum(axis=-1))


def _class_axis(rows: Rows, asked: str) -> int | None:
    """Where the output's classes stand; None where it holds classes themselves, or fits in no way."""
    shape, points = rows.artifact.shape, rows.truth.shape
    places = {"first": (1,), "last": (len(shape) - 1,), "auto": (1, len(shape) - 1)}[asked]
    if len(shape) != len(points) + 1:
        return None
    return next((place for place in places if (*shape[:place], *shape[place + 1 :]) == points), None)


def _predicted(rows: Rows, asked: str) -> tuple[Whole, int | None, NDArray[np.bool_]]:
    """The class of each point, [rows, points], how many classes there are, and the rows that are not finite."""
    place = _class_axis(rows, asked)
    if place is None:
        flat = rows.artifact.reshape(len(rows.artifact), -1)
        undefined = ~np.isfinite(flat).all(axis=1)
        return np.where(np.isfinite(flat), flat, 0).astype(np.int64), None, undefined
    undefined = np.isnan(rows.artifact).reshape(len(rows.artifact), -1).any(axis=1)
    best = rows.artifact.argmax(axis=place).reshape(len(rows.artifact), -1)
    return best.astype(np.int64), rows.artifact.shape[place], undefined
