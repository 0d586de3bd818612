"""The figures of a page. Importing this loads matplotlib."""

from collections.abc import Mapping, Sequence
from typing import Any

from workers.report.plots.drawing import Plot
from workers.report.plots.latency import latency_plots
from workers.report.plots.load import load_plots
from workers.report.plots.operators import operator_plots
from workers.report.plots.roofline import roofline_plots
from workers.report.plots.sensitivity import sensitivity_plots
from workers.report.plots.tradeoff import tradeoff_plots
from workers.report.variants import Variant


def all_plots(
    report: Mapping[str, Any], variants: Sequence[Variant], subject: Variant | None, metric: str | None
) -> dict[str, list[Plot]]:
    """Every figure that a report has numbers for, by section; `subject` is the candidate that the page is about."""
    return {
        "tradeoff": tradeoff_plots(variants, metric),
        "latency": latency_plots(report, variants),
        "load": load_plots([variants[0], *([subject] if subject else [])]),
        "operators": operator_plots(report, subject),
        "sensitivity": sensitivity_plots(subject),
        "roofline": roofline_plots(report, subject),
    }
