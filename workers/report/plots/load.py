"""What more callers bring and what they cost: throughput against p99, one figure a runtime and rows a call."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from workers.evaluation.words import amount, plain
from workers.report.cells import flags_of
from workers.report.places import Place, by_place, counted, described, varying
from workers.report.plots.drawing import INK, SURFACE, Plot, colour_of, draw
from workers.report.variants import Found, Variant, is_number

_MOST_PLOTS = 6
_MOST_VARIANTS = 6
_SATURATED = "saturated"


@dataclass(frozen=True, slots=True)
class _Point:
    """One load: rows a second, p99 in ms, and whether anything speaks against either."""

    place: Place
    throughput: float
    p99: float
    flags: frozenset[str]

    @property
    def name(self) -> str:
        rate = self.place.rate
        text = f"{rate:,.10g}/s" if is_number(rate) else str(self.place.callers)
        return text + ("*" if self.flags else "")


def load_plots(variants: Sequence[Variant]) -> list[Plot]:
    """A figure for each runtime, case, number of threads and rows a call that was put under load; else none."""
    groups: dict[Place, list[tuple[Variant, list[_Point]]]] = {}
    for variant in variants:
        mine: dict[Place, list[_Point]] = {}
        for point in _points(variant):
            mine.setdefault(replace(point.place, callers=None, rate=None), []).append(point)
        for place, points in mine.items():
            groups.setdefault(place, []).append((variant, points))
    everything = (place for variant in variants for place in by_place(variant.measurements))
    varied = varying(groups) | (varying(everything) & {"runtime"})
    return [
        _plot(f"load-{turn}", described(place, varied), sides[:_MOST_VARIANTS])
        for turn, (place, sides) in enumerate(list(groups.items())[:_MOST_PLOTS])
    ]


def _points(variant: Variant) -> list[_Point]:
    """The loads of a variant that have both numbers, those of callers first, each in rising order."""
    found = by_place(variant.measurements)
    points = []
    for place, throughput in found.items():
        p99 = found.get(replace(place, name="latency_p99"))
        if place.name != "throughput" or not place.is_load or p99 is None:
            continue
        rows, ms = _positive(throughput), _positive(p99)
        if rows is not None and ms is not None:
            points.append(_Point(place, rows, ms, frozenset(flags_of(throughput, p99))))
    return sorted(points, key=lambda point: (point.place.rate is not None, _rising(point.place)))


def _positive(found: Found) -> float | None:
    value = found.get("value")
    return float(value) if value is not None and is_number(value) and value > 0 else None


def _rising(place: Place) -> float:
    number = place.callers if place.rate is None else place.rate
    return float(number) if is_number(number) else 0.0


def _plot(name: str, conditions: str, sides: Sequence[tuple[Variant, list[_Point]]]) -> Plot:
    points = [point for _, found in sides for point in found]

    def paint(axes: Axes) -> None:
        axes.set_yscale("log")
        most = max(point.throughput for point in points)
        for variant, found in sides:
            _mark(axes, variant, found, most)
        axes.set_xlim(-0.06 * most, 1.14 * most)
        low, high = min(point.p99 for point in points), max(point.p99 for point in points)
        axes.set_ylim(low / 1.8, high * 1.8)
        axes.yaxis.set_major_locator(LogLocator(10, (1, 2, 5) if high / low < 30 else (1,)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:,.10g}"))
        axes.locator_params(axis="x", nbins=5)
        axes.set_xlabel("rows a second (more is better)")
        axes.set_ylabel("p99, ms (less is better)")

    title = f"Throughput against p99, {conditions}"
    said = "; ".join(
        f"{variant.name}, {_load(point)}: {plain(point.throughput)} rows a second, p99 {amount(point.p99, 'ms')}"
        for variant, found in sides
        for point in found
    )
    kinds = ["Circles, with a line, are callers side by side, each of which calls again at once; so many are written."]
    if any(point.place.rate is not None for point in points):
        kinds.append("Squares are calls that arrive at random, at the rate that is written.")
    if any(_SATURATED in point.flags for point in points):
        kinds.append("Hollow: calls arrived faster than they were done.")
    if any(point.flags for point in points):
        kinds.append("* is measured under doubt.")
    return Plot(
        draw(name, title, f"{said}.", paint),
        title,
        " ".join(kinds),
        tuple((variant.number, variant.name) for variant, _ in sides),
        tuple(sorted(frozenset().union(*(point.flags for point in points)))),
    )


def _load(point: _Point) -> str:
    if is_number(point.place.rate):
        return f"{point.place.rate:,.10g} calls a second"
    return counted(point.place.callers, "caller")


def _mark(axes: Axes, variant: Variant, points: Sequence[_Point], most: float) -> None:
    colour, is_original = colour_of(variant.number), variant.number == 0
    closed = [point for point in points if point.place.rate is None]
    axes.plot([p.throughput for p in closed], [p.p99 for p in closed], color=colour, linewidth=1.3, alpha=0.75)
    for point in points:
        axes.plot(
            [point.throughput],
            [point.p99],
            marker="o" if point.place.rate is None else "s",
            markersize=7,
            color=colour,
            markerfacecolor=SURFACE if _SATURATED in point.flags else colour,
            markeredgewidth=1.6,
            zorder=3,
        )
        # The names of one model stand on the other side than the original's, but where the axis is.
        to_the_right = is_original or point.throughput < most / 4
        axes.annotate(
            point.name,
            (point.throughput, point.p99),
            xytext=(8 if to_the_right else -8, 4 if is_original else -12),
            textcoords="offset points",
            ha="left" if to_the_right else "right",
            color=INK,
            fontsize=11,
        )
