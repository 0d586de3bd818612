"""How sure a number is: bounds of a metric, of its drop, and of what several children measured.

Each kind of number has its own interval (`statistics`); here they get one shape, which the gate reads.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app.domain.metric import METRICS
from workers.evaluation.metrics import row_metric
from workers.evaluation.metrics.definition import Floats, RowMetric
from workers.evaluation.statistics import proportions
from workers.evaluation.statistics.means import bootstrap_bounds, estimate, standard_error
from workers.evaluation.statistics.proportions import Pairs
from workers.evaluation.statistics.replicates import LEAST, median, replicate_bounds

Ends = tuple[float, float]

TWO_SIDED_95 = 0.975
"""One-sided bounds at this confidence are the ends of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """An estimate with one-sided bounds.

    `rows` is the number of rows behind it, None where more rows are not what narrows it; `error` its standard error.
    `at_scale` gives the bounds that so many times the rows would have at the same rates, where that can
    be computed; it matters where events are few.
    """

    value: float
    lower: float
    upper: float
    rows: int | None = None
    error: float = 0.0
    at_scale: Callable[[float], Ends] | None = None


def metric_bounds(name: str, scores: Floats, confidence: float) -> Bounded:
    """A metric's value and its one-sided bounds; `scores` has the shape [rows, columns]."""
    metric, rows = row_metric(name), len(scores)
    value = estimate(scores, metric.value)
    error = standard_error(scores, metric.value) if rows > 1 else 0.0
    if METRICS[name].share and (_all_or_nothing(scores) or error == 0):
        right = round(float(scores.sum()))

        def ends(factor: float) -> Ends:
            return proportions.share_bounds(round(right * factor), round(rows * factor), confidence)

        lower, upper = ends(1)
        return Bounded(value, lower, upper, rows, math.sqrt(value * (1 - value) / rows), ends)
    lower, upper = bootstrap_bounds(scores, metric.value, confidence)
    least, most = metric.range
    return Bounded(value, min(max(lower, least), value), max(min(upper, most), value), rows, error)


def drop_bounds(
    name: str, original: Floats | None, artifact: Floats, confidence: float, *, relative: bool = False
) -> Bounded:
    """By how much the artifact is worse than the original: positive is worse, whatever the direction.

    Metrics that compare with the original drop from their ideal value; the others are paired, the
    scores of both models row by row. `relative` is to the original's value. Raises ValueError where
    that is zero.
    """
    metric = row_metric(name)
    sign = 1.0 if METRICS[name].better == "higher" else -1.0
    if metric.ideal is not None:
        return _drop_from_ideal(metric.ideal, metric_bounds(name, artifact, confidence), sign, relative=relative)
    if original is None:
        raise ValueError("the original was not measured")
    same = bool(np.array_equal(original, artifact))
    if METRICS[name].share and (same or (_all_or_nothing(original) and _all_or_nothing(artifact))):
        return _share_drop(_pairs(original, artifact), confidence, relative=relative)
    return _mean_drop(metric, original, artifact, confidence, sign, relative=relative)


def replicate_interval(values: Sequence[float], confidence: float) -> Bounded | None:
    """The median over children with one-sided bounds; None for fewer than two children."""
    if len(values) < LEAST:
        return None
    lower, upper = replicate_bounds(values, confidence)
    return Bounded(median(values), lower, upper)


def _drop_from_ideal(ideal: float, found: Bounded, sign: float, *, relative: bool) -> Bounded:
    if relative and ideal == 0:
        raise ValueError("the original's value is 0, of which there are no shares")
    unit = abs(ideal) if relative else 1.0

    def drops(ends: Ends) -> Ends:
        first, second = (sign * (ideal - end) / unit for end in ends)
        return min(first, second), max(first, second)

    lower, upper = drops((found.lower, found.upper))
    scaled = found.at_scale
    return Bounded(
        value=sign * (ideal - found.value) / unit,
        lower=lower,
        upper=upper,
        rows=found.rows,
        error=found.error / unit,
        at_scale=None if scaled is None else lambda factor: drops(scaled(factor)),
    )


def _share_drop(pairs: Pairs, confidence: float, *, relative: bool) -> Bounded:
    bounds = proportions.relative_drop_bounds if relative else proportions.drop_bounds
    lower, upper = bounds(pairs, confidence)
    discordant = (pairs.lost + pairs.gained) / pairs.rows
    if relative:
        ratio = (pairs.both + pairs.gained) / (pairs.both + pairs.lost)
        value, error = 1 - ratio, math.sqrt(ratio * discordant / pairs.rows) / pairs.original
    else:
        value, error = pairs.drop, math.sqrt(max(discordant - pairs.drop**2, 0.0) / pairs.rows)

    def ends(factor: float) -> Ends:
        return bounds(pairs.scaled(factor), confidence)

    return Bounded(value, lower, upper, pairs.rows, error, ends)


def _mean_drop(
    metric: RowMetric, original: Floats, artifact: Floats, confidence: float, sign: float, *, relative: bool
) -> Bounded:
    width = original.shape[1]
    if relative and estimate(original, metric.value) == 0:
        raise ValueError("the original's value is 0, of which there are no shares")

    def drop(means: Floats) -> Floats:
        before, after = metric.value(means[..., :width]), metric.value(means[..., width:])
        worse: Floats = sign * (before - after)
        return worse / np.abs(before) if relative else worse

    both = np.concatenate([original, artifact], axis=1)
    rows = len(both)
    lower, upper = bootstrap_bounds(both, drop, confidence)
    error = standard_error(both, drop) if rows > 1 else 0.0
    value = estimate(both, drop)
    return Bounded(value, min(lower, value), max(upper, value), rows, error)


def _pairs(original: Floats, artifact: Floats) -> Pairs:
    if not _all_or_nothing(original):  # every row scores the same with both, so none is lost or gained
        right = round(float(original.sum()))
        return Pairs(right, 0, 0, len(original) - right)
    return proportions.count_pairs(_right(original), _right(artifact))


def _right(scores: Floats) -> NDArray[np.bool_]:
    return np.asarray(scores[:, 0] == 1.0)


def _all_or_nothing(scores: Floats) -> bool:
    return bool(((scores == 0.0) | (scores == 1.0)).all())
