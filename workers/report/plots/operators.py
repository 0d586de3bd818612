"""Where the time goes, by type of operator, in the original and in the artifact."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from workers.evaluation.words import plain
from workers.report.legible import shortened
from workers.report.operators import side_by_side, time_by_type
from workers.report.plots.drawing import Plot, colour_of, draw
from workers.report.variants import Variant

_MOST_TYPES = 12


def operator_plots(report: Mapping[str, Any], subject: Variant | None) -> list[Plot]:
    """Bars of both models by type; none where operators were not timed."""
    operators = report.get("operators") or {}
    before, after = operators.get("original") or (), operators.get(subject.id) or () if subject else ()
    times = time_by_type(side_by_side(before, after))
    if not times:
        return []
    rows = [(kind, *both) for kind, both in times.items()]
    if len(rows) > _MOST_TYPES:
        others = rows[_MOST_TYPES:]
        rows[_MOST_TYPES:] = [(f"{len(others)} others", sum(row[1] for row in others), sum(row[2] for row in others))]
    sides = [(0, "original", [row[1] for row in rows])]
    if subject and after:
        sides.append((subject.number, subject.name, [row[2] for row in rows]))

    def paint(axes: Axes) -> None:
        places = np.arange(len(rows))
        thick = 0.8 / len(sides)
        for turn, (number, _, values) in enumerate(sides):
            at = places + (turn - (len(sides) - 1) / 2) * thick
            axes.barh(at, values, height=thick * 0.88, color=colour_of(number))
        axes.set_yticks(places, [shortened(row[0], 22) for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("ms an inference")
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(5))

    title = "Operator times by type"
    said = f"ms an inference, {', '.join(name for _, name, _ in sides)}: " + "; ".join(
        f"{kind} " + ", ".join(map(plain, each[: len(sides)])) for kind, *each in rows
    )
    return [
        Plot(
            draw("operators", title, f"{said}.", paint, height=90 + 28 * len(rows)),
            title,
            "Timed by the runtime's own profiler, which takes time itself: read shares here, and latencies above.",
            tuple((number, name) for number, name, _ in sides),
        )
    ]
