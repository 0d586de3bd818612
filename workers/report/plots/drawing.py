"""Figures as SVG that belongs into a page: its colours, its font, names of its own, words for who cannot see it.

Figures are made without pyplot, which would keep them, and 440 units wide: that is read without zooming on a
telephone, and two stand side by side elsewhere.
"""

import io
import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

INK, MUTED, GRID, SURFACE = "#010101", "#020202", "#030303", "#040404"
SERIES = tuple(f"#05050{number}" for number in range(6))
"""The original's colour, then those of candidates."""

_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--grid", SURFACE: "--surface"} | {
    colour: f"--series-{number}" for number, colour in enumerate(SERIES)
}
"""No colour of ours is drawn: each stands for a variable of the page, which knows light from dark."""

_WIDTH = 440
_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
ElementTree.register_namespace("", _SVG)
_COLOUR = re.compile("|".join(_VARIABLES))
_FONT = re.compile(r"font-family:[^;]*")
_DIGITS = re.compile(r"(\.\d\d)\d+")
_REFERENCE = re.compile(r"^#(.+)$|url\(#([^)]+)\)")
_STYLE: Any = {
    "svg.fonttype": "none",  # text stays text: it is found, read aloud, and small
    "text.parse_math": False,  # a name with dollars is a name
    "font.size": 12,
    "axes.titlesize": 12,
    "axes.labelsize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "text.color": INK,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": GRID,
    "axes.facecolor": "none",
    "axes.linewidth": 1,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": GRID,
    "ytick.color": GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
    "lines.solid_capstyle": "round",
    "path.simplify": True,
    "path.simplify_threshold": 0.3,
}


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawn figure: `svg` is markup, `caption` how to read it, `legend` names and the numbers of their colours.

    `flags` speak against the numbers that are drawn.
    """

    svg: str
    title: str
    caption: str
    legend: tuple[tuple[int, str], ...] = ()
    flags: tuple[str, ...] = ()


def draw(name: str, title: str, described: str, paint: Callable[[Axes], None], *, height: int = 300) -> str:
    """Draw one figure; `name` is its own in the page, `described` says in words what it shows.

    `height` is in units of which the figure is 440 wide.
    """
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # The reader's browser has its own fonts, and only widths are taken from ours.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure = Figure(figsize=(_WIDTH / 72, height / 72), layout="constrained")
        figure.patch.set_visible(False)
        canvas = FigureCanvasSVG(figure)
        axes = figure.subplots()
        paint(axes)
        written = io.BytesIO()
        canvas.print_svg(  # type: ignore[no-untyped-call]
            written, metadata={"Date": None, "Creator": None, "Format": None, "Type": None}
        )
    return _adopted(written.getvalue(), name, title, described)


def colour_of(number: int) -> str:
    """The colour of a series; 0 is the original's. Candidates beyond the fifth share the last."""
    return SERIES[min(number, len(SERIES) - 1)]


def padded(values: Sequence[float], *, share: float = 0.12, least: float = 0.0) -> tuple[float, float]:
    """Limits of an axis that leave room around the values; `least` is the smallest span."""
    low, high = min(values), max(values)
    span = max(high - low, least, abs(high) * 1e-3, 1e-12)
    middle = (low + high) / 2
    reach = span / 2 + span * share
    return middle - reach, middle + reach


def _adopted(svg: bytes, name: str, title: str, described: str) -> str:
    """The figure as a part of the page: no colour, font or name that is not the page's."""
    root = ElementTree.fromstring(svg)
    for parent in list(root.iter()):
        for part in list(parent):
            if part.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style") or part.tag.startswith(
                "{http://www.w3.org/1999"
            ):
                parent.remove(part)
    for part in root.iter():
        part.attrib.update({key: _in_page_s_terms(value, name) for key, value in part.attrib.items()})
        if part.get("id"):
            part.set("id", f"{name}-{part.attrib['id']}")
        if (target := part.attrib.pop(f"{{{_XLINK}}}href", None)) is not None:
            part.set("href", f"#{name}-{target.removeprefix('#')}")
        if part.get("transform", "").startswith("rotate(-0 "):
            del part.attrib["transform"]
        part.tail = None
        part.text = part.text if part.text and part.text.strip() else None
    _drop_unused_names(root)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{name}-title {name}-desc",
    }
    for tag, text in (("desc", described), ("title", title)):
        said = ElementTree.Element(f"{{{_SVG}}}{tag}", {"id": f"{name}-{tag}"})
        said.text = text
        root.insert(0, said)
    return ElementTree.tostring(root, encoding="unicode")


def _in_page_s_terms(value: str, name: str) -> str:
    value = _COLOUR.sub(lambda found: f"var({_VARIABLES[found[0]]})", value)
    value = _FONT.sub("font-family: inherit", value).replace("url(#", f"url(#{name}-")
    return _DIGITS.sub(r"\1", value)


def _drop_unused_names(root: ElementTree.Element) -> None:
    """matplotlib names each stroke; nothing refers to most."""
    used: set[str] = set()
    for part in root.iter():
        for value in part.attrib.values():
            used.update(name for found in _REFERENCE.findall(value) for name in found)
    for part in root.iter():
        if part.get("id") not in used:
            part.attrib.pop("id", None)
