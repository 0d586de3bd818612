"""How long calls took, process by process: two modes show as two curves, where a median would hide them."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from workers.evaluation.words import amount
from workers.report.cells import flags_of
from workers.report.places import Place, by_place, described, sampled_place, varying
from workers.report.plots.drawing import Plot, colour_of, draw
from workers.report.variants import Variant, is_number

_TIED = "\u00a0"
_MOST_PLOTS = 6
_MOST_CHILDREN = 12
_POINTS = 120
_SHOWN_SHARES = (0.99, 0.95)
"""Beyond these shares of the slowest process's calls a few long ones would squeeze the rest to a line: the first
where it is no further than `_MOST_MEDIANS`, else the second."""

_MOST_MEDIANS = 4.0
"""Of the slowest process: an axis that ends further out shows little but its tail. Where even the second of the
shares lies beyond, it ends here."""

Samples = NDArray[np.float64]


def latency_plots(report: Mapping[str, Any], variants: Sequence[Variant]) -> list[Plot]:
    """One figure for each candidate, runtime, number of threads, rows a call and case; the chosen candidate's first."""
    groups: dict[tuple[int, Place], list[Mapping[str, Any]]] = {}
    numbers = {variant.id: variant.number for variant in variants}
    for found in (report.get("samples") or {}).values():
        if found.get("kind") == "latency":
            number = numbers.get(str(found.get("candidate")), 0)
            groups.setdefault((number, sampled_place(found)), []).append(found)
    chosen = {variant.number for variant in variants if variant.chosen}
    ordered = sorted(groups, key=lambda key: key[0] not in chosen)
    varied = varying(place for _, place in groups)
    made = (
        _plot(f"latency-{turn}", variants[key[0]], described(key[1], varied), groups[key], _doubts(variants, *key))
        for turn, key in enumerate(ordered)
    )
    plots = [plot for plot in made if plot is not None]
    if left := len(plots[_MOST_PLOTS:]):
        last = plots[_MOST_PLOTS - 1]
        said = f"{last.caption} The samples of {left} more conditions or variants are in the JSON report."
        plots[_MOST_PLOTS - 1 :] = [replace(last, caption=said)]
    return plots


def children_of(replicates: Sequence[Mapping[str, Any]], subject: str) -> list[Samples]:
    """All samples of a model in ms, sorted, one array a child. `subject` is `first` or `second` of those compared."""
    children = []
    for replicate in replicates:
        blocks = (replicate.get("against") or replicate.get("same") or {}).get(subject) or ()
        samples = [float(sample) for block in blocks for sample in block if is_number(sample)]
        if samples:
            children.append(np.sort(np.asarray(samples)))
    return children


def edge_of(children: Sequence[Samples]) -> float:
    """Where the axis ends, in ms: near p99 or p95 of the slowest process, and never far beyond its median."""
    most = _MOST_MEDIANS * max(float(np.median(child)) for child in children)
    ends = [max(float(np.quantile(child, share)) for child in children) for share in _SHOWN_SHARES]
    return next((end for end in ends if end <= most), most)


def _doubts(variants: Sequence[Variant], number: int, place: Place) -> tuple[str, ...]:
    """What speaks against the medians that were made of the same samples."""
    # A case has its shapes, whether or not the samples tell them.
    timed = replace(place, name="latency_p50", shapes=None)
    return flags_of(
        *(
            found
            for each in sorted({0, number})
            for where, found in by_place(variants[each].measurements).items()
            if replace(where, shapes=None) == timed
        )
    )


def _plot(
    name: str, variant: Variant, conditions: str, replicates: Sequence[Mapping[str, Any]], flags: tuple[str, ...]
) -> Plot | None:
    original = children_of(replicates, "first")
    artifact = children_of(replicates, "second") if variant.number else []
    everything = [*original, *artifact]
    if not everything:
        return None
    low, high = min(float(child[0]) for child in everything), edge_of(everything)

    def paint(axes: Axes) -> None:
        for number, children in ((0, original), (variant.number, artifact)):
            for child in children[:_MOST_CHILDREN]:
                shares = np.linspace(0, 1, min(_POINTS, len(child)))
                axes.plot(np.quantile(child, shares), 100 * shares, color=colour_of(number), linewidth=1.3, alpha=0.75)
        reach = max(high - low, high * 0.02)
        axes.set_xlim(low - 0.04 * reach, high + 0.04 * reach)
        axes.set_ylim(0, 100)
        axes.set_yticks([0, 25, 50, 75, 100])
        axes.set_xlabel("ms a call")
        axes.set_ylabel("% of calls that took at most this")

    title = f"Latency, {conditions}"
    medians = [
        f"{whose}: medians of {_range([float(np.median(child)) for child in children])} in {len(children)} processes"
        for whose, children in (("original", original), (variant.name, artifact))
        if children
    ]
    return Plot(
        draw(name, title, "; ".join(medians) + ".", paint),
        title,
        "One line is one fresh process. Steep is steady; lines apart are processes that disagree. "
        + _beyond(everything, high),
        ((0, "original"), *([(variant.number, variant.name)] if artifact else [])),
        flags,
    )


def _beyond(children: Sequence[Samples], edge: float) -> str:
    """What is not seen: how many calls took longer than the edge, and the longest of them."""
    calls = np.concatenate(children)
    left = int((calls > edge).sum())
    if not left:
        return "No call is beyond the edge."
    share, longest = amount(left / len(calls), "fraction").replace(" ", _TIED), amount(float(calls.max()), "ms")
    return f"Beyond the edge, at {amount(edge, 'ms')}, are {share} of all calls, the longest of {longest}."


def _range(values: Sequence[float]) -> str:
    low, high = (amount(value, "ms") for value in (min(values), max(values)))
    return high if low == high else f"{low.removesuffix(' ms')} to {high}"
