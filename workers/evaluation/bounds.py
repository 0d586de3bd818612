"""How sure a number is: bounds of a metric, of its drop, and of what several children measured.

Each kind of number has its own interval (`statistics`); here they get one shape, which the gate reads.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from app.domain.metric import METRICS
from workers.evaluation.metrics import arithmetic
from workers.evaluation.metrics.definition import AnyMetric, Floats, RowMetric, SetMetric
from workers.evaluation.scores import Scores
from workers.evaluation.statistics import clustered_shares, proportions
from workers.evaluation.statistics.clusters import Codes
from workers.evaluation.statistics.linear import (
    Ends,
    Linearised,
    Scatter,
    bounded_bounds,
    difference_bounds,
    fisher_bounds,
    p_value,
    scatter_of,
)
from workers.evaluation.statistics.means import Statistic, bootstrap_bounds, by_group, linearise
from workers.evaluation.statistics.replicates import LEAST, median, replicate_bounds

_FORMS = {"bounded": bounded_bounds, "fisher": fisher_bounds, "linear": difference_bounds}

TWO_SIDED_95 = 0.975
"""One-sided bounds at this confidence are the ends of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """An estimate with one-sided bounds.

    `rows` is the number of rows behind it, None where more rows are not what narrows it; `error` its standard error.
    `at_scale` gives the bounds that so many times the rows would have at the same rates, where that can
    be computed; it matters where events are few. `p_value` of a drop is two-sided, of there being none.
    """

    value: float
    lower: float
    upper: float
    rows: int | None = None
    error: float = 0.0
    at_scale: Callable[[float], Ends] | None = None
    p_value: float | None = None


def metric_bounds(name: str, scores: Scores, confidence: float) -> Bounded:
    """A metric's value and its one-sided bounds."""
    metric, values, groups = arithmetic(name, scores.options), scores.values, scores.groups
    if METRICS[name].share and _all_or_nothing(values):
        return _share(values[:, 0], groups, confidence)
    found = _linearised(metric, values, groups)
    scatter = scatter_of(found, groups)
    at_scale: Callable[[float], Ends] | None = None
    if isinstance(metric, SetMetric) and metric.own is not None:
        ends = metric.own.value(values, groups, confidence)
    elif isinstance(metric, RowMetric) and metric.interval == "studentised":
        ends = _wider(
            _studentised(values, metric.value, groups, confidence), difference_bounds(found.value, scatter, confidence)
        )
    else:
        form = _FORMS[metric.interval]

        def at_scale(factor: float) -> Ends:
            return form(found.value, scatter.scaled(factor), confidence)

        ends = at_scale(1)
    return _bounded(found.value, ends, metric.range, scatter, at_scale)


def drop_bounds(
    name: str, original: Scores | None, artifact: Scores, confidence: float, *, relative: bool = False
) -> Bounded:
    """By how much the artifact is worse than the original: positive is worse, whatever the direction.

    Metrics that compare with the original drop from their ideal value; the others are paired, the
    scores of both models row by row. `relative` is to the original's value. Raises ValueError where
    that is zero.
    """
    metric, groups = arithmetic(name, artifact.options), artifact.groups
    sign = 1.0 if METRICS[name].better == "higher" else -1.0
    if metric.ideal is not None:
        return _drop_from_ideal(metric.ideal, metric_bounds(name, artifact, confidence), sign, relative=relative)
    if original is None:
        raise ValueError("the original was not measured")
    before, after = original.values, artifact.values
    if METRICS[name].share and _all_or_nothing(before) and _all_or_nothing(after):
        return _share_drop(before[:, 0], after[:, 0], groups, confidence, relative=relative)
    first, second = _linearised(metric, before, groups), _linearised(metric, after, groups)
    if relative and first.value == 0:
        raise ValueError("the original's value is 0, of which there are no shares")
    found = first.less(second, sign)
    if relative:
        found = found.relative_to(first)
    scatter = scatter_of(found, groups)
    everything = (-math.inf, math.inf)
    if isinstance(metric, SetMetric) and metric.own is not None and metric.own.drop is not None:
        if relative:
            raise ValueError("it has no interval as a share of the original's")
        ends = metric.own.drop(before, after, groups, confidence)
        ends = ends if sign > 0 else (-ends[1], -ends[0])
        return _bounded(found.value, ends, everything, scatter)
    p = p_value(found.value, scatter)
    if isinstance(metric, RowMetric) and metric.interval == "studentised":
        ends = _wider(
            _studentised_drop(metric.value, before, after, groups, confidence, sign, relative=relative),
            difference_bounds(found.value, scatter, confidence),
        )
        return _bounded(found.value, ends, everything, scatter, p=p)

    def at_scale(factor: float) -> Ends:
        return difference_bounds(found.value, scatter.scaled(factor), confidence)

    return _bounded(found.value, at_scale(1), everything, scatter, at_scale, p)


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


def _linearised(metric: AnyMetric, values: Floats, groups: Codes | None) -> Linearised:
    if isinstance(metric, SetMetric):
        return metric.linearise(values, groups)
    return linearise(values, metric.value)


def _bounded(
    value: float,
    ends: Ends,
    limits: Ends,
    scatter: Scatter,
    at_scale: Callable[[float], Ends] | None = None,
    p: float | None = None,
) -> Bounded:
    """Bounds that hold the value and stay in the range."""
    lower, upper = min(max(ends[0], limits[0]), value), max(min(ends[1], limits[1]), value)
    return Bounded(value, lower, upper, scatter.rows, scatter.error, at_scale, p)


def _share(right: Floats, groups: Codes | None, confidence: float) -> Bounded:
    value, rows = float(right.mean()), len(right)
    events = min(value, 1 - value) * rows
    effect = clustered_shares.design_effect(right - value, groups, events, confidence)
    quantile = clustered_shares.quantile(groups, confidence)

    def ends(factor: float) -> Ends:
        if groups is None:
            return proportions.share_bounds(round(value * rows * factor), round(rows * factor), confidence)
        return proportions.wilson(value, rows * factor / effect, quantile)

    return Bounded(value, *ends(1), rows, math.sqrt(value * (1 - value) * effect / rows), ends)


def _share_drop(
    original: Floats, artifact: Floats, groups: Codes | None, confidence: float, *, relative: bool
) -> Bounded:
    bounds = proportions.relative_drop_ends if relative else proportions.drop_ends
    pairs = clustered_shares.grouped_pairs(original, artifact, groups, confidence)
    quantile = clustered_shares.quantile(groups, confidence)
    rows, effect = len(original), len(original) / pairs.rows
    discordant = pairs.differing / pairs.rows
    if relative:
        if pairs.original == 0:
            raise ValueError("the original was never right")
        ratio = (pairs.both + pairs.gained) / (pairs.both + pairs.lost)
        value, error = 1 - ratio, math.sqrt(ratio * discordant / pairs.rows) / pairs.original
    else:
        value, error = pairs.drop, math.sqrt(max(discordant - pairs.drop**2, 0.0) / pairs.rows)

    def ends(factor: float) -> Ends:
        return bounds(pairs.scaled(factor) if effect == 1 else pairs.thinned(1 / factor), quantile)

    return Bounded(value, *ends(1), rows, error, ends, proportions.mcnemar(pairs))


def _wider(one: Ends, other: Ends) -> Ends:
    """The outer bounds of two: the bootstrap knows which way rows are skewed, the other how little few of them tell."""
    return min(one[0], other[0]), max(one[1], other[1])


def _studentised(values: Floats, statistic: Statistic, groups: Codes | None, confidence: float) -> Ends:
    if groups is not None:
        values, statistic = by_group(values, groups, statistic)
    return bootstrap_bounds(values, statistic, confidence)


def _studentised_drop(
    value: Statistic,
    original: Floats,
    artifact: Floats,
    groups: Codes | None,
    confidence: float,
    sign: float,
    *,
    relative: bool,
) -> Ends:
    width = original.shape[1]

    def drop(means: Floats) -> Floats:
        before, after = value(means[..., :width]), value(means[..., width:])
        worse: Floats = sign * (before - after)
        return worse / np.abs(before) if relative else worse

    return _studentised(np.concatenate([original, artifact], axis=1), drop, groups, confidence)


def _all_or_nothing(scores: Floats) -> bool:
    return bool(((scores == 0.0) | (scores == 1.0)).all())
