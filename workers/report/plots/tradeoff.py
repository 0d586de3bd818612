"""Accuracy against what it costs, every variant a point, and which of them no other beats."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from app.domain.measurement import UNITS
from app.domain.metric import METRICS
from workers.evaluation.words import amount
from workers.report.cells import flags_of
from workers.report.plots.drawing import INK, MUTED, SURFACE, Plot, colour_of, draw, padded
from workers.report.variants import Variant, ends_of
from workers.report.wording import label, scaled

_MOST_NAMED = 2
"""More names would lie on each other: then the legend has them."""

_MOST_IN_LEGEND = 12


@dataclass(frozen=True, slots=True)
class _Point:
    variant: Variant
    x: float
    y: float
    x_ends: tuple[float, float] | None
    y_ends: tuple[float, float] | None
    flags: tuple[str, ...]


def tradeoff_plots(variants: Sequence[Variant], metric: str | None) -> list[Plot]:
    """Accuracy against median latency and against size; none where fewer than two variants can be placed."""
    if metric is None:
        return []
    plots = []
    for cost in ("latency_p50", "artifact_bytes"):
        points = [point for variant in variants if (point := _point(variant, cost, metric))]
        if len(points) > 1:
            plots.append(_plot(points, cost, metric))
    return plots


def front(points: Sequence[tuple[float, float]], *, higher: bool) -> list[int]:
    """Which points no other beats: less in the first number and better in the second, worse in neither."""

    def beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
        better = one[1] >= other[1] if higher else one[1] <= other[1]
        return one != other and one[0] <= other[0] and better

    return [place for place, point in enumerate(points) if not any(beats(other, point) for other in points)]


def _point(variant: Variant, cost: str, metric: str) -> _Point | None:
    x, y = variant.measured(cost), variant.measured(metric)
    if x is None:
        return None
    if y is None:
        # What a metric compares with is itself at its ideal.
        ideal = METRICS[metric].ideal if metric in METRICS else None
        if variant.number or ideal is None:
            return None
        return _Point(variant, float(x["value"]), ideal, ends_of(x), None, flags_of(x))
    return _Point(variant, float(x["value"]), float(y["value"]), ends_of(x), ends_of(y), flags_of(x, y))


def _plot(points: Sequence[_Point], cost: str, metric: str) -> Plot:
    described = METRICS.get(metric)
    higher = described is None or described.better == "higher"
    unit = described.unit if described else "1"
    x_scale, x_unit = scaled(cost, [point.x for point in points])
    y_scale, y_unit = (100.0, "%") if unit == "fraction" else (1.0, unit)
    best = front([(point.x, point.y) for point in points], higher=higher)

    def paint(axes: Axes) -> None:
        edge = sorted((points[place].x / x_scale, points[place].y * y_scale) for place in best)
        if len(edge) > 1:
            axes.plot(*zip(*edge, strict=True), color=MUTED, linestyle=(0, (2, 3)), linewidth=1.2, zorder=1)
        for place, point in enumerate(points):
            _mark(axes, point, x_scale, y_scale, on_front=place in best)
        axes.set_xlim(*padded(_span(points, "x", 1 / x_scale)))
        axes.set_ylim(*padded(_span(points, "y", y_scale), least=1.0 if unit == "fraction" else 0.0))
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.set_xlabel(f"{label(cost)}, {x_unit} (less is better)")
        axes.set_ylabel(f"{label(metric)}{'' if y_unit == '1' else ', ' + y_unit}")
        if len(points) <= _MOST_NAMED:
            for point in points:
                _name(axes, point, x_scale, y_scale)

    title = f"{label(metric)} against {label(cost).lower()}"
    cost_unit = UNITS[cost][0]
    said = "; ".join(
        f"{point.variant.name}: {amount(point.y, unit)} at {amount(point.x, cost_unit)}" for point in points[:20]
    )
    caption = "Bars are 95 % intervals; filled points are those that no other beats, joined by the Pareto front."
    named = [(point.variant.number, point.variant.name) for point in points] if len(points) > _MOST_NAMED else []
    flags = tuple(dict.fromkeys(flag for point in points for flag in point.flags))
    svg = draw(f"tradeoff-{cost}", title, f"{said}.", paint)
    return Plot(svg, title, caption, tuple(named[:_MOST_IN_LEGEND]), flags)


def _span(points: Sequence[_Point], axis: str, scale: float) -> list[float]:
    values = []
    for point in points:
        value, ends = (point.x, point.x_ends) if axis == "x" else (point.y, point.y_ends)
        values += [scale * each for each in (value, *(ends or ()))]
    return values


def _mark(axes: Axes, point: _Point, x_scale: float, y_scale: float, *, on_front: bool) -> None:
    colour = colour_of(point.variant.number)
    x, y = point.x / x_scale, point.y * y_scale
    for ends, scale, paint in ((point.x_ends, 1 / x_scale, axes.hlines), (point.y_ends, y_scale, axes.vlines)):
        if ends is not None:
            at: Any = y if paint == axes.hlines else x
            paint(at, ends[0] * scale, ends[1] * scale, color=colour, linewidth=1.6, zorder=2)
    axes.plot(
        [x],
        [y],
        marker="o",
        markersize=9 if point.variant.chosen else 7.5,
        color=colour,
        markerfacecolor=colour if on_front else SURFACE,
        markeredgewidth=1.6,
        zorder=3,
    )


def _name(axes: Axes, point: _Point, x_scale: float, y_scale: float) -> None:
    x, y = point.x / x_scale, point.y * y_scale
    low, high = axes.get_xlim()
    left = x > (low + high) / 2
    axes.annotate(
        point.variant.name,
        (x, y),
        xytext=(-9 if left else 9, 9),
        textcoords="offset points",
        ha="right" if left else "left",
        color=INK,
        fontsize=12,
        fontweight="bold" if point.variant.chosen else "normal",
    )
