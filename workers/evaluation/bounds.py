"""How sure a number is: bounds of a metric, of its drop, and of what several children measured.

Each kind of number has its own interval (`statistics`); here they get one shape, which the gate reads.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from app.domain.metric import METRICS
from workers.evaluation.metrics import arithmetic
from workers.evaluation.metrics.definition import AnyMetric, Floats, RowMetric, SetMetric
from workers.evaluation.scores import Scores
from workers.evaluation.statistics import clustered_shares, proportions, tails
from workers.evaluation.statistics.clusters import Codes
from workers.evaluation.statistics.linear import (
    Ends,
    Linearised,
    Scatter,
    bounded_bounds,
    difference_bounds,
    draw_influence,
    fisher_bounds,
    p_value,
    scatter_of,
)
from workers.evaluation.statistics.means import growing_bounds, influence_bounds, jackknife, linearise, ratio_bounds
from workers.evaluation.statistics.replicates import LEAST, median, replicate_bounds

_FORMS = {"bounded": bounded_bounds, "fisher": fisher_bounds, "studentised": difference_bounds}

HEAVY_TAIL = "heavy_tail"
"""The flag of a number whose bounds may not hold, for so few rows carry it (`Bounded.heavy_tail`)."""

TWO_SIDED_95 = 0.975
"""One-sided bounds at this confidence are the ends of a two-sided 95 % interval."""


@dataclass(frozen=True, slots=True)
class Bounded:
    """An estimate with one-sided bounds.

    `rows` is the number of rows behind it, None where more rows are not what narrows it; `error` its standard error.
    `at_scale` gives the bounds that so many times the rows would have at the same rates, where that can
    be computed; it matters where events are few. `p_value` of a drop is two-sided, of there being none. `heavy_tail`:
    so few rows carry it that what is not among them could be more than they are, so that bounds may not hold.
    """

    value: float
    lower: float
    upper: float
    rows: int | None = None
    error: float = 0.0
    at_scale: Callable[[float], Ends] | None = None
    p_value: float | None = None
    heavy_tail: bool = False


def metric_bounds(name: str, scores: Scores, confidence: float) -> Bounded:
    """A metric's value and its one-sided bounds."""
    metric, values, groups = arithmetic(name, scores.options), scores.values, scores.groups
    if METRICS[name].share and _all_or_nothing(values):
        return _share(values[:, 0], groups, confidence)
    found = _linearised(metric, values, groups)
    scatter = scatter_of(found, groups)
    heavy = _is_heavy(metric, found, groups)
    if isinstance(metric, SetMetric) and metric.own is not None:
        return _bounded(found.value, metric.own.value(values, groups, confidence), metric.range, scatter)
    if isinstance(metric, RowMetric) and metric.interval == "studentised":
        ends = _studentised(metric, values, found, groups, confidence)
        return _bounded(found.value, _seen(ends, found, scatter, confidence), metric.range, scatter, heavy=heavy)
    form = _FORMS[metric.interval]

    def at_scale(factor: float) -> Ends:
        scaled = scatter.scaled(factor)
        lower, upper = form(found.value, scaled, confidence)
        if found.bias > 0:
            lower = min(lower, form(found.value - found.bias / factor ** (2 / 3), scaled, confidence)[0])
        return lower, upper

    ends = _fisher(found, groups, confidence) if metric.interval == "fisher" else at_scale(1)
    return _bounded(found.value, ends, metric.range, scatter, at_scale, heavy=heavy)


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
    if isinstance(metric, RowMetric) and metric.interval != "bounded":
        ends = _seen(influence_bounds(found, groups, confidence), found, scatter, confidence)
        if metric.form is not None and metric.form.grows and not relative:
            ends = growing_bounds(found.value, ends)
        heavy = _is_heavy(metric, found, groups)
        return _bounded(found.value, ends, everything, scatter, p=p, heavy=heavy)

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
        heavy_tail=found.heavy_tail,
    )


def _linearised(metric: AnyMetric, values: Floats, groups: Codes | None) -> Linearised:
    if isinstance(metric, SetMetric):
        return metric.linearise(values, groups)
    if metric.interval == "bounded":
        return jackknife(values, metric.value, groups)
    return linearise(values, metric.value)


def _bounded(
    value: float,
    ends: Ends,
    limits: Ends,
    scatter: Scatter,
    at_scale: Callable[[float], Ends] | None = None,
    p: float | None = None,
    *,
    heavy: bool = False,
) -> Bounded:
    """Bounds that hold the value and stay in the range."""
    lower, upper = min(max(ends[0], limits[0]), value), max(min(ends[1], limits[1]), value)
    return Bounded(value, lower, upper, scatter.rows, scatter.error, at_scale, p, heavy)


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


def _studentised(metric: RowMetric, values: Floats, found: Linearised, groups: Codes | None, confidence: float) -> Ends:
    parts = None if metric.form is None else metric.form.parts(values)
    if metric.form is None or parts is None:
        return influence_bounds(found, groups, confidence)
    first, second = (metric.form.value(end) for end in ratio_bounds(*parts, groups, confidence))
    return min(first, second), max(first, second)


def _fisher(found: Linearised, groups: Codes | None, confidence: float) -> Ends:
    """On Fisher's scale, where a correlation scatters evenly."""
    if abs(found.value) >= 1:
        return -1.0, 1.0
    stretched = replace(found, value=math.atanh(found.value), influence=found.influence / (1 - found.value**2))
    lower, upper = influence_bounds(stretched, groups, confidence)
    return math.tanh(lower), math.tanh(upper)


def _seen(ends: Ends, found: Linearised, scatter: Scatter, confidence: float) -> Ends:
    """Bounds of what rows that do not differ at all leave open."""
    return ends if scatter.error > 0 else difference_bounds(found.value, scatter, confidence)


def _is_heavy(metric: AnyMetric, found: Linearised, groups: Codes | None) -> bool:
    """Of a metric whose rows have bounds, none is heavy."""
    return (
        metric.interval != "bounded" and isinstance(metric, RowMetric) and tails.is_heavy(draw_influence(found, groups))
    )


def _all_or_nothing(scores: Floats) -> bool:
    return bool(((scores == 0.0) | (scores == 1.0)).all())
