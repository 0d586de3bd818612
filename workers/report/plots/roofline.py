"""How near each operator comes to what this machine can do, and which of its two limits it meets first."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, NullFormatter

from workers.evaluation.words import amount, plain
from workers.report.plots.drawing import INK, MUTED, Plot, colour_of, draw
from workers.report.variants import Variant, is_number

_MOST_POINTS = 200

_Side = tuple[int, str, list[tuple[float, float]]]
"""A model's number and name, and its operators as points."""


def roofline_plots(report: Mapping[str, Any], subject: Variant | None) -> list[Plot]:
    """Operations a second over operations a byte, both models; none without peaks or timed operators."""
    roofline = report.get("roofline") or {}
    peaks = roofline.get("peaks") or {}
    known = {name: float(peak) for name, peak in peaks.items() if is_number(peak) and peak > 0}
    if not {"bandwidth_gbs", "fp32_gflops"} <= known.keys():
        return []
    bandwidth = known["bandwidth_gbs"]
    roofs = [(name, known[key]) for name, key in (("fp32", "fp32_gflops"), ("int8", "int8_gops")) if key in known]
    keys = [(0, "original", "original")]
    if subject is not None:
        keys.append((subject.number, subject.id, subject.name))
    found = ((number, name, _points(roofline.get(key) or ())) for number, key, name in keys)
    sides = [side for side in found if side[2]]
    if not sides:
        return []

    def paint(axes: Axes) -> None:
        _paint(axes, sides, roofs, bandwidth)

    waiting = [
        f"{name} {amount(share, 'fraction')}"
        for _, key, name in keys
        if (share := _waiting(roofline.get(key) or ())) is not None
    ]
    said = "; ".join(f"{name}: {len(found)} operators" for _, name, found in sides)
    title = "Roofline"
    return [
        Plot(
            draw("roofline", title, f"{said}; memory gives {plain(bandwidth)} GB/s.", paint, height=320),
            title,
            "Under the slope an operator waits for memory, and fewer bytes make it faster; under the flat roof it "
            "computes, and only faster arithmetic does. The distance to the line is what is left to gain."
            + (f" Time in operators that wait for memory: {', '.join(waiting)}." if waiting else ""),
            tuple((number, name) for number, name, _ in sides),
        )
    ]


def _paint(axes: Axes, sides: Sequence[_Side], roofs: Sequence[tuple[str, float]], bandwidth: float) -> None:
    """The roof of each type of number, and the operators of each model under them."""
    points = [point for _, _, found in sides for point in found]
    low = min(min(point[0] for point in points), min(peak for _, peak in roofs) / bandwidth) / 3
    high = max(max(point[0] for point in points), max(peak for _, peak in roofs) / bandwidth) * 4
    least = min(min(point[1] for point in points), low * bandwidth)
    axes.set_xscale("log")
    axes.set_yscale("log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _place: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    for name, peak in roofs:
        ridge = peak / bandwidth
        axes.plot([low, ridge, high], [low * bandwidth, peak, peak], color=MUTED, linewidth=1.3, zorder=1)
        axes.annotate(
            f"{name}, {plain(peak)} Gop/s",
            (high, peak),
            xytext=(0, 4),
            textcoords="offset points",
            ha="right",
            color=INK,
            fontsize=11,
        )
    for number, _, found in sides:
        x, y = np.array(found).T
        axes.plot(x, y, "o", color=colour_of(number), markersize=5, alpha=0.75, markeredgewidth=0)
    axes.set_xlim(low, high)
    axes.set_ylim(least / 2, max(peak for _, peak in roofs) * 3)
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("Gop/s")


def _points(operators: Sequence[Mapping[str, Any]]) -> list[tuple[float, float]]:
    """Operations a byte and Gop/s of what was timed and has both; those that take longest."""
    timed = [
        found
        for found in operators
        if all(is_number(found.get(name)) and found[name] > 0 for name in ("flops", "bytes", "ms"))
    ]
    timed.sort(key=lambda found: -found["ms"])
    return [(found["flops"] / found["bytes"], found["flops"] / found["ms"] / 1e6) for found in timed[:_MOST_POINTS]]


def _waiting(operators: Sequence[Mapping[str, Any]]) -> float | None:
    """The share of the time that goes into operators which memory bounds."""
    timed = [(found.get("bound"), float(found["ms"])) for found in operators if is_number(found.get("ms"))]
    total = sum(ms for _, ms in timed)
    return sum(ms for bound, ms in timed if bound == "memory") / total if total > 0 else None
