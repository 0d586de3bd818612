"""What is drawn is what was measured."""

import copy
import json
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.font_manager import FontManager, json_dump

from app.domain.measurement import UNITS
from app.domain.metric import METRICS
from tests.unit.report.loaded import document, under_every_condition
from workers.report.page import FONTS
from workers.report.plots import all_plots
from workers.report.plots.latency import children_of, edge_of
from workers.report.plots.tradeoff import front
from workers.report.variants import accuracy_metric, shown, variants_of

SVG = "{http://www.w3.org/2000/svg}"
SMALL = st.integers(0, 4).map(float)


def plots_of(report: dict[str, Any]) -> dict[str, list[Any]]:
    variants = variants_of(report)
    return all_plots(report, variants, shown(variants), accuracy_metric(variants))


def paths(svg: str, colour: str) -> list[list[tuple[float, float]]]:
    """The open lines of a colour, as points."""
    found = []
    for path in ElementTree.fromstring(svg).iter(f"{SVG}path"):
        if f"stroke: var({colour})" in path.get("style", "") and "fill: none" in path.get("style", ""):
            numbers = [float(each) for each in re.findall(r"-?\d+(?:\.\d+)?", path.get("d", ""))]
            found.append(list(zip(numbers[::2], numbers[1::2], strict=True)))
    return found


@given(st.lists(st.tuples(SMALL, SMALL), max_size=9), st.booleans())
def test_the_front_is_what_nobody_beats(points: list[tuple[float, float]], higher: bool) -> None:
    sign = 1 if higher else -1
    expected = []
    for place, (cost, good) in enumerate(points):
        beaten = False
        for other_cost, other_good in points:
            no_worse = other_cost <= cost and sign * other_good >= sign * good
            better = other_cost < cost or sign * other_good > sign * good
            beaten = beaten or (no_worse and better)
        if not beaten:
            expected.append(place)

    assert front(points, higher=higher) == expected


def test_each_process_has_a_line_of_its_own(report: dict[str, Any]) -> None:
    (name,) = [name for name in report["samples"] if name.startswith("latency")]
    one = report["samples"][name]
    for number in range(2, 6):
        report["samples"][f"{name}-{number}"] = copy.deepcopy(one) | {"replicate": number}

    (plot,) = plots_of(report)["latency"]

    assert len(paths(plot.svg, "--series-0")) == 5
    assert len(paths(plot.svg, "--series-1")) == 5


def test_a_line_is_the_distribution_of_its_process(report: dict[str, Any]) -> None:
    (name,) = [name for name in report["samples"] if name.startswith("latency")]
    # Two modes, three of four calls in the fast one.
    report["samples"][name]["against"] = {"first": [[1.0] * 300 + [3.0] * 100], "second": [[2.0] * 400]}

    (plot,) = plots_of(report)["latency"]

    ((line,), (other,)) = paths(plot.svg, "--series-0"), paths(plot.svg, "--series-1")
    fast, slow = line[0], line[-1]
    top, bottom = slow[1], fast[1]
    knee = min(y for x, y in line if x < (fast[0] + slow[0]) / 2)
    assert (bottom - knee) / (bottom - top) == pytest.approx(0.75, abs=0.02)
    # The other model's only mode lies half-way between.
    assert other[0][0] == pytest.approx((fast[0] + slow[0]) / 2, rel=0.01)


def test_samples_of_a_child_are_all_read() -> None:
    replicate = {"against": {"first": [[3.0, 1.0], [2.0]], "second": [[5.0, None]]}}

    assert [child.tolist() for child in children_of([replicate, replicate], "first")] == [[1.0, 2.0, 3.0]] * 2
    assert [child.tolist() for child in children_of([replicate], "second")] == [[5.0]]
    assert children_of([{"against": {"first": []}}], "first") == []


def test_conditions_have_a_figure_each(report: dict[str, Any]) -> None:
    (name,) = [name for name in report["samples"] if name.startswith("latency")]
    for threads in (2, 4):
        report["samples"][f"{name}-{threads}"] = copy.deepcopy(report["samples"][name]) | {"threads": threads}

    titles = [plot.title for plot in plots_of(report)["latency"]]

    assert titles == [f"Latency, {count} thread{'s' * (count > 1)}, 1 row a call" for count in (1, 2, 4)]


def test_of_many_conditions_the_first_are_drawn_and_the_others_named(report: dict[str, Any]) -> None:
    (name,) = [name for name in report["samples"] if name.startswith("latency")]
    for batch in range(2, 10):
        report["samples"][f"{name}-{batch}"] = copy.deepcopy(report["samples"][name]) | {"batch": batch}

    plots = plots_of(report)["latency"]

    assert len(plots) == 6
    assert "3 more conditions" in plots[-1].caption
    assert "more conditions" not in plots[-2].caption


def test_bars_are_as_long_as_the_times(profiled: dict[str, Any]) -> None:
    (plot,) = plots_of(profiled)["operators"]

    widths: dict[str, list[float]] = {}
    for path in ElementTree.fromstring(plot.svg).iter(f"{SVG}path"):
        for series in ("--series-0", "--series-1"):
            if f"fill: var({series})" in path.get("style", ""):
                numbers = [float(each) for each in re.findall(r"-?\d+(?:\.\d+)?", path.get("d", ""))]
                widths.setdefault(series, []).append(max(numbers[::2]) - min(numbers[::2]))
    # Conv and Relu, which the artifact fused; Gemm; and what only the artifact has.
    unit = widths["--series-0"][0] / 2.25
    assert np.allclose(np.array(widths["--series-0"]) / unit, [2.25, 0.5, 0.0], atol=0.01)
    assert np.allclose(np.array(widths["--series-1"]) / unit, [1.0, 0.5, 0.125], atol=0.01)


def test_points_of_the_roofline_lie_below_it(profiled: dict[str, Any]) -> None:
    (plot,) = plots_of(profiled)["roofline"]

    roofs = paths(plot.svg, "--muted")
    assert len(roofs) == 2
    marks = [
        (float(use.get("x", 0)), float(use.get("y", 0))) for use in ElementTree.fromstring(plot.svg).iter(f"{SVG}use")
    ]
    assert len(marks) == 2, "what was not timed has no place"
    highest = min(y for roof in roofs for _, y in roof)
    assert all(y > highest for _, y in marks)


def test_how_much_waits_for_memory_is_said(profiled: dict[str, Any]) -> None:
    original = profiled["roofline"]["original"]
    original[0] |= {"ms": 3.0, "bound": "compute"}
    original[1] |= {"ms": 1.0, "bound": "memory"}

    (plot,) = plots_of(profiled)["roofline"]

    assert "wait for memory: original 25.0 %, static_int8 100.0 %." in plot.caption


def test_pareto_points_are_filled_and_others_are_not(report: dict[str, Any]) -> None:
    candidate = report["candidates"][0]
    for part, latency, top1 in ((report["baseline"], 1.0, 0.9), (candidate, 2.0, 0.8)):
        for found in part["measurements"]:
            found["value"] = {"latency_p50": latency, "top1": top1}.get(found["name"], found["value"])

    latency, _size = plots_of(report)["tradeoff"]

    uses = [use.get("style", "") for use in ElementTree.fromstring(latency.svg).iter(f"{SVG}use")]
    assert any("fill: var(--series-0)" in style for style in uses), "the original beats it"
    assert any("fill: var(--surface)" in style and "stroke: var(--series-1)" in style for style in uses)


@pytest.mark.parametrize(("metric", "said"), [("agreement", "original: 100.0 % at"), ("max_error", "original: 0 at")])
def test_the_original_has_the_best_that_there_is_of_what_compares_with_it(
    report: dict[str, Any], metric: str, said: str
) -> None:
    for part in (report["baseline"], report["candidates"][0]):
        part["measurements"] = [found for found in part["measurements"] if found["name"] in UNITS]
    report["candidates"][0]["measurements"].append({"name": metric, "value": 0.5, "unit": METRICS[metric].unit})

    latency, size = plots_of(report)["tradeoff"]
    assert said in latency.svg
    assert said in size.svg


def test_no_colour_is_drawn_that_is_not_the_page_s(profiled: dict[str, Any]) -> None:
    for found in plots_of(profiled).values():
        for plot in found:
            assert re.findall(r"#[0-9a-f]{6}\b", plot.svg) == []
            assert "DejaVu" not in plot.svg


def test_the_list_of_fonts_is_the_one_that_matplotlib_would_make(tmp_path: Path) -> None:
    """Of another version it would be passed over in silence, and every report would take half a second longer."""
    listed = json.loads(FONTS.read_bytes())
    json_dump(FontManager(), tmp_path / "made.json")
    made = json.loads((tmp_path / "made.json").read_bytes())
    assert listed["_version"] == FontManager.__version__
    assert listed["ttflist"]
    assert all(font in made["ttflist"] for font in listed["ttflist"])
    assert {key: value for key, value in made.items() if "list" not in key} == {
        key: value for key, value in listed.items() if "list" not in key
    }


def test_each_runtime_has_a_latency_figure_of_its_own(report: dict[str, Any]) -> None:
    (name,) = [name for name in report["samples"] if name.startswith("latency")]
    other = copy.deepcopy(report["samples"][name])
    for session in other["conditions"].values():
        session["runtime"] = "openvino"
    report["samples"][f"{name}-openvino"] = other

    plots = plots_of(report)["latency"]

    assert [plot.title for plot in plots] == [
        "Latency, onnxruntime, 1 thread, 1 row a call",
        "Latency, OpenVINO, 1 thread, 1 row a call",
    ]
    assert [len(paths(plot.svg, "--series-0")) for plot in plots] == [1, 1]


def test_a_long_tail_does_not_squeeze_the_rest(report: dict[str, Any]) -> None:
    """Nine of a hundred calls take 8 ms where the median is 0.06: the axis ends before them, and they are counted."""
    (name,) = [name for name in report["samples"] if name.startswith("latency")]
    block = [0.06 + 0.0001 * turn for turn in range(91)] + [8.0] * 9
    report["samples"][name]["against"] = {"first": [block], "second": [block]}

    (plot,) = plots_of(report)["latency"]

    assert edge_of([np.array(block)]) < 0.5
    assert "are 9.0\u00a0% of all calls, the longest of 8.00 ms" in plot.caption


@given(st.lists(st.floats(0.01, 1000), min_size=1, max_size=200), st.lists(st.floats(0.01, 1000), min_size=1))
def test_the_edge_lies_at_the_slowest_process_s_p99_or_before(one: list[float], other: list[float]) -> None:
    children = [np.sort(np.array(samples)) for samples in (one, other)]

    edge = edge_of(children)

    slowest = max(float(np.median(child)) for child in children)
    assert slowest <= edge <= max(float(np.quantile(child, 0.99)) for child in children) * (1 + 1e-9)
    assert edge <= 4 * slowest or edge == pytest.approx(4 * slowest)


def test_throughput_stands_against_p99() -> None:
    report = document(under_every_condition(0.5))

    (plot,) = plots_of(report)["load"]

    assert plot.title == "Throughput against p99, onnxruntime, 1 thread, 1 row a call"
    assert "original, 1 caller: 100 rows a second, p99 30.0 ms" in plot.svg
    assert "static_int8, 20,000 calls a second: 1000 rows a second, p99 17.0 ms" in plot.svg
    # A line through the callers, and a mark a load: those of saturated rates are hollow.
    assert [len(line) for line in paths(plot.svg, "--series-0") if len(line) == 3] == [3]
    uses = [use.get("style", "") for use in ElementTree.fromstring(plot.svg).iter(f"{SVG}use")]
    assert sum("stroke: var(--series-1)" in style for style in uses) == 5
    assert sum("fill: var(--surface)" in style for style in uses) == 2
    assert "20,000/s*" in plot.svg
    assert "Hollow: calls arrived faster than they were done." in plot.caption


def test_without_load_or_p99_nothing_is_drawn_of_it() -> None:
    report = document([])
    report["baseline"]["measurements"] = [
        found
        for found in report["baseline"]["measurements"]
        if found["name"] != "latency_p99" or "callers" not in found["conditions"]
    ]

    assert plots_of(report)["load"] == []


def test_a_figure_of_doubtful_numbers_is_marked(report: dict[str, Any]) -> None:
    for part in (report["baseline"], report["candidates"][0]):
        for found in part["measurements"]:
            found["flags"] = []
    assert {plot.flags for found in plots_of(report).values() for plot in found} == {()}

    for found in report["candidates"][0]["measurements"]:
        found["flags"] = ["unstable"] if found["name"] == "latency_p50" else []
    plots = plots_of(report)

    assert [plot.flags for plot in plots["tradeoff"]] == [("unstable",), ()]
    assert [plot.flags for plot in plots["latency"]] == [("unstable",)]
