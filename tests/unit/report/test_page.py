"""The page: it says what the report says, to everybody, and nothing in it can do anything."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.unit.report.conftest import operator, work
from tests.unit.report.loaded import document, under_every_condition
from tests.unit.report.markup import Page
from workers.report.page import POLICY, render

SECTIONS = (
    "What is traded for what",
    "What was measured",
    "Latency, process by process",
    "Under load",
    "Operator by operator",
    "Layer by layer",
    "What this machine could do",
    "Data",
    "How it came about",
    "Conditions and origin",
)
HOSTILE = (
    "<script>alert(1)</script>",
    "{{7777*7777}}",
    "{% raw %}",
    '"><img src=x onerror=alert(1)>',
    "</style></svg><b>",
    "a\u202etxt.exe\u202c",
    "$\\frac{1}{$",
    "nul\0 and \x1b[31m",
    "half \ud800 a pair",
    "&amp;&lt;",
    "javascript:alert(1)",
    "url(https://example.com/x)",
)


def everywhere(part: Any, name: str) -> Any:
    """The same document with this text in the place of every one that people or models choose."""
    if isinstance(part, dict):
        # What our own code tells things apart by stays: no stranger chooses that.
        own = ("name", "kind", "unit", "better", "method", "metric") if "value" in part else ()
        return {key: value if key in own else everywhere(value, name) for key, value in part.items()}
    if isinstance(part, list):
        return [everywhere(value, name) for value in part]
    return name if isinstance(part, str) and not part.startswith(("cnd_", "latency", "memory", "original")) else part


def test_the_page_reads_well_to_a_strict_reader(profiled: dict[str, Any], cache: Path) -> None:
    page = Page(render(profiled, cache=cache))

    assert page.headings[0] == 1
    assert page.headings.count(1) == 1
    assert all(after - before <= 1 for before, after in zip(page.headings, page.headings[1:], strict=False))
    for section in SECTIONS:
        assert section in page.text
    assert all(table["caption"] == 1 and table["thead"] == 1 and table["th"] >= 2 for table in page.tables)
    # Each figure can be told to somebody who does not see it.
    assert len(page.figures) == 6
    assert all({"title", "desc"} <= figure for figure in page.figures)
    assert "image" not in set().union(*page.figures), "nothing is drawn as pixels"


def test_nothing_is_loaded_and_nothing_can_run(profiled: dict[str, Any], cache: Path) -> None:
    text = render(profiled, cache=cache)
    page = Page(text)

    assert f'content="{POLICY}"'.replace("'", "&#39;") in text
    assert "default-src 'none'" in POLICY
    assert "script-src" not in POLICY
    for style in page.styles:
        assert "@import" not in style
        assert "@font-face" not in style
        assert re.findall(r"url\((?!#)", style) == []


def test_the_conclusion_comes_first_and_whole(profiled: dict[str, Any], cache: Path) -> None:
    text = Page(render(profiled, cache=cache)).text

    assert profiled["conclusion"] in text
    assert text.index(profiled["conclusion"]) < text.index(SECTIONS[0])
    assert profiled["model"]["name"] in text


def test_every_measurement_is_there_with_its_interval_or_its_reason(report: dict[str, Any], cache: Path) -> None:
    report["candidates"][0]["measurements"] = [
        {"name": "latency_p50", "value": 4.25, "unit": "ms", "better": "lower", "ci95": [4.0, 4.5], "flags": ["noisy"]},
        {"name": "artifact_bytes", "value": 2_500_000, "unit": "bytes", "better": "lower", "ci95": None},
        {"name": "top1", "value": 0.875, "unit": "fraction", "better": "higher", "ci95": [0.8, 0.9125]},
        {
            "name": "energy_per_inference",
            "value": None,
            "unit": "J",
            "better": "lower",
            "method": "absent",
            "reason": "no counter here",
        },
        {"name": "peak_memory", "value": 3e6, "unit": "bytes", "better": "lower", "method": "estimated"},
    ]
    text = Page(render(report, cache=cache)).text.replace("\u00a0", " ")

    for said in ("4.25 ms", "4.00 to 4.50 ms", "2.50 MB", "87.5 %", "80.0 to 91.2 %", "no counter here", "~3.00 MB"):
        assert said in text, said
    assert "the machine was not fit to tell two models apart" in text


def test_differences_are_the_paired_ones(report: dict[str, Any], cache: Path) -> None:
    candidate = report["candidates"][0]
    candidate["comparisons"] = [
        {
            "name": "latency_p50",
            "ratio": 0.5,
            "ci95": [0.4, 0.625],
            "within_noise": False,
            "conditions": {"threads": 1, "batch": 1},
        },
        {"name": "artifact_bytes", "ratio": 0.25, "ci95": None, "within_noise": False},
        {"name": "load_time", "ratio": 1.05, "ci95": [0.9, 1.25], "within_noise": True},
    ]
    report["drops"] = {candidate["id"]: [{"metric": "top1", "value": 0.02, "ci95": [-0.01, 0.05]}]}
    for found in (*report["baseline"]["measurements"], *candidate["measurements"]):
        found["flags"] = []
    text = Page(render(report, cache=cache)).text.replace("\u00a0", " ")

    assert "2.00 × faster" in text
    assert "1.60 to 2.50 ×" in text
    assert "4.00 × smaller" in text
    assert "the same, within noise 0.90 to 1.25 ×" in text
    assert "2.0 points worse, within noise" in text
    assert "-1.0 to 5.0 points" in text


def test_what_was_not_held_out_is_said(report: dict[str, Any], cache: Path) -> None:
    report["baseline"]["source"] = "calibration"

    assert "Nothing was held out" in Page(render(report, cache=cache)).text


@pytest.mark.parametrize(
    ("gone", "said"),
    [
        (("operators",), "Operators were not timed one by one"),
        (("roofline",), "were not held against the peaks of this machine"),
        (("samples",), "no distribution can be drawn"),
        (("steps",), "The seconds of each step were not kept"),
        (("data",), "The job was given no data"),
        (("conclusion",), "came to no conclusion in words"),
        (("baseline", "candidates"), "Nothing was measured"),
    ],
)
def test_a_missing_section_is_named_where_it_would_be(
    profiled: dict[str, Any], cache: Path, gone: tuple[str, ...], said: str
) -> None:
    for name in gone:
        del profiled[name]

    assert said in Page(render(profiled, cache=cache)).text


def test_a_report_of_nothing_is_a_page(cache: Path) -> None:
    page = Page(render({"job": "job_1"}, cache=cache))

    assert "A model" in page.text
    assert page.figures == []


def test_one_model_alone_reads_as_one(evaluated: dict[str, Any], cache: Path) -> None:
    page = Page(render(evaluated, cache=cache))

    assert evaluated["conclusion"] in page.text
    assert "nothing was made of it" in page.text
    assert "The model as it is" in page.text
    assert "Difference" not in page.text
    assert page.counts["svg"] == 3  # latency, operators, roofline


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_strangers_stay_names(profiled: dict[str, Any], cache: Path, name: str) -> None:
    document = everywhere(copy.deepcopy(profiled), name)
    document["notes"] = [name, "a plain note"]
    document["conclusion"] = name
    page = Page(render(document, cache=cache))

    assert "a plain note" in page.text
    assert "60481729" not in page.text, "a name is no template"
    visible = page.text
    for hidden in ("\u202e", "\u202c", "\0", "\x1b", "\ud800"):
        assert hidden not in visible
    shown = re.sub(r"⟨U\+[0-9A-F]{4}⟩", "", visible)
    assert " ".join(re.sub("[\u202e\u202c\0\x1b\ud800]", "", name).split()) in " ".join(shown.split())


@pytest.mark.parametrize("number", [None, float("nan"), float("inf"), -float("inf")])
def test_holes_and_what_is_no_number_are_shown_as_missing(
    profiled: dict[str, Any], cache: Path, number: float | None
) -> None:
    def holed(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: holed(value) for key, value in part.items()}
        if isinstance(part, list):
            return [holed(value) for value in part]
        return number if isinstance(part, float) else part

    words = re.split(r"\W+", Page(render(holed(profiled), cache=cache)).text)

    assert not {"nan", "NaN", "inf", "Infinity", "None"} & set(words)


@pytest.mark.parametrize("number", [0.0, -1.0, 1e-300, 1e300])
def test_extreme_numbers_do_not_break_it(profiled: dict[str, Any], cache: Path, number: float) -> None:
    for found in (*profiled["baseline"]["measurements"], *profiled["candidates"][0]["measurements"]):
        found["value"], found["ci95"] = number, [number, number]
    for found in profiled["candidates"][0]["comparisons"]:
        found["ratio"], found["ci95"] = number, [number, number]
    for found in (*profiled["operators"]["original"], *profiled["roofline"]["original"]):
        found["ms"] = number

    Page(render(profiled, cache=cache))


def test_ten_thousand_operators_stay_a_small_page(profiled: dict[str, Any], cache: Path) -> None:
    candidate = profiled["candidates"][0]["id"]
    names = [f"/encoder/layer.{number}/attention/self/MatMul_{'x' * 200}" for number in range(10_000)]
    for side in ("original", candidate):
        profiled["operators"][side] = [
            operator(name, f"Type{place % 300}", 0.001 * (place % 97), name) for place, name in enumerate(names)
        ]
        profiled["roofline"][side] = [work(name, 1e6 + place, 1e5, 0.1) for place, name in enumerate(names)]
    layer = profiled["candidates"][0]["sensitivity"]["layers"][0]
    profiled["candidates"][0]["sensitivity"]["layers"] = [{**layer, "node": name} for name in names]
    profiled["notes"] = ["n" * 10_000] * 1000

    text = render(profiled, cache=cache)

    assert len(text.encode()) < 3_000_000
    page = Page(text)
    assert "10,000 operators" in page.text
    assert "The other 9,960 take" in page.text


def test_forty_variants_have_a_row_each_and_the_chosen_one_its_mark(report: dict[str, Any], cache: Path) -> None:
    first = report["candidates"][0]
    report["candidates"] += [{**copy.deepcopy(first), "id": f"cnd_{number}", "verdict": None} for number in range(39)]

    page = Page(render(report, cache=cache))

    assert max(table["tr"] for table in page.tables) == 42  # with the head and the original
    assert page.text.count("chosen") == 1
    assert "static_int8 40" in page.text


def test_the_same_report_is_the_same_page(profiled: dict[str, Any], cache: Path) -> None:
    assert render(profiled, cache=cache) == render(json.loads(json.dumps(profiled)), cache=cache)


@pytest.mark.parametrize("number", [0.0, -1.0, 1e-300, 1e300, None])
def test_extreme_loads_do_not_break_it(cache: Path, number: float | None) -> None:
    report = document(under_every_condition(0.5))
    for found in (*report["baseline"]["measurements"], *report["candidates"][0]["measurements"]):
        found["value"], found["ci95"] = number, [number, number]

    Page(render(report, cache=cache))


@pytest.mark.parametrize("name", HOSTILE)
def test_conditions_that_are_no_numbers_stay_text(cache: Path, name: str) -> None:
    report = document(under_every_condition(0.5))
    keys = ("runtime", "case", "threads", "batch", "callers", "rate", "shapes")
    for found in (*report["baseline"]["measurements"], *report["candidates"][0]["measurements"]):
        found["conditions"] = {key: [name] if key == "shapes" else name for key in keys}

    Page(render(report, cache=cache))
