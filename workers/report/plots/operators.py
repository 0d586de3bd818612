"""Where the time goes, by type of operator, in the original and in the artifact."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from workers.evaluation.words import plain
from workers.report.legible import shortened
from workers.report.operators import time_by_type
from workers.report.plots.drawing import Plot, colour_of, draw
from workers.report.variants import Variant

_MOST_TYPES = 12


def operator_plots(report: Mapping[str, Any], subject: Variant | None) -> list[Plot]:
    """Bars of both models by type; none where operators were not timed."""
    operators = report.get("operators") or {}
    before = time_by_type(operators.get("original") or ())
    after = time_by_type(operators.get(subject.id) or ()) if subject else {}
    if not before and not after:
        return []
    types = sorted({*before, *after}, key=lambda kind: -max(before.get(kind, 0), after.get(kind, 0)))
    named, others = types[:_MOST_TYPES], types[_MOST_TYPES:]
    rows = [(kind, before.get(kind, 0.0), after.get(kind, 0.0)) for kind in named]
    if others:
        rest = [sum(each.get(kind, 0.0) for kind in others) for each in (before, after)]
        rows.append((f"{len(others)} others", rest[0], rest[1]))
    sides, legend = [(0, [row[1] for row in rows])], [(0, "original")]
    if subject and after:
        sides.append((subject.number, [row[2] for row in rows]))
        legend.append((subject.number, subject.name))

    def paint(axes: Axes) -> None:
        places = np.arange(len(rows))
        thick = 0.8 / len(sides)
        for turn, (number, values) in enumerate(sides):
            at = places + (turn - (len(sides) - 1) / 2) * thick
            axes.barh(at, values, height=thick * 0.88, color=colour_of(number))
        axes.set_yticks(places, [shortened(row[0], 22) for row in rows])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("ms an inference")
        axes.set_xlim(left=0)

    title = "Operator times by type"
    said = f"ms an inference, {', '.join(name for _, name in legend)}: " + "; ".join(
        f"{kind} " + ", ".join(map(plain, times[: len(sides)])) for kind, *times in rows
    )
    return [
        Plot(
            draw("operators", title, f"{said}.", paint, height=90 + 28 * len(rows)),
            title,
            "Timed by the runtime's own profiler, which takes time itself: read shares here, and latencies above.",
            tuple(legend),
        )
    ]
