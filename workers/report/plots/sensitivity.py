"""Which layers cost the outputs most when they are quantized."""

from matplotlib.axes import Axes

from workers.evaluation.words import plain
from workers.report.legible import shortened
from workers.report.plots.drawing import GRID, Plot, colour_of, draw
from workers.report.sections import sensitive_layers
from workers.report.variants import Variant

_MOST_LAYERS = 16


def sensitivity_plots(subject: Variant | None) -> list[Plot]:
    """The layers that alone bring the outputs' SQNR lowest; none where no analysis was asked for."""
    layers = sensitive_layers(subject)[:_MOST_LAYERS]
    if not layers or subject is None:
        return []
    number = subject.number

    def paint(axes: Axes) -> None:
        values = [found["alone"]["sqnr_db"] for found in layers]
        low = min(*values, 0)
        places = range(len(layers))
        axes.hlines(places, low, values, color=GRID, linewidth=2)
        axes.plot(values, places, "o", color=colour_of(number), markersize=6)
        axes.set_yticks(list(places), [shortened(str(found["node"]), 26) for found in layers])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlim(left=low)
        axes.set_xlabel("dB at the outputs, this layer alone quantized")

    title = "Layer sensitivity"
    said = "; ".join(f"{shortened(str(found['node']), 60)}: {plain(found['alone']['sqnr_db'])} dB" for found in layers)
    return [
        Plot(
            draw("sensitivity", title, f"{said}.", paint, height=80 + 20 * len(layers)),
            title,
            "The further left, the more that layer alone costs: the first are those to keep in float.",
        )
    ]
