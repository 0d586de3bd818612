"""What a page says of operator times: by which clock they are, of how many calls, and what speaks against them."""

from pathlib import Path
from typing import Any

import pytest

from tests.unit.report.markup import Page
from workers.report.page import render

PROFILE = {
    "runs": 200,
    "batch": 1,
    "operators_ms": 2.75,
    "profiled_ms": 2.9,
    "unprofiled_ms": 1.05,
    "unaccounted": 0.0,
    "resolution_ms": 0.001,
    "left_out": 0,
}


def text_of(report: dict[str, Any], cache: Path) -> str:
    return Page(render(report, cache=cache)).text.replace("\u00a0", " ")


def timed(report: dict[str, Any], ms: float, *flags: str) -> None:
    """Let the original have this latency, and no other number a flag."""
    for part in (report["baseline"], *report["candidates"]):
        part["comparisons"] = []
        for found in part["measurements"]:
            found["flags"] = []
            if part is report["baseline"] and found["name"] == "latency_p50":
                found["value"], found["flags"] = ms, list(flags)


def test_the_clock_and_the_runs_of_a_profile_are_told(profiled: dict[str, Any], cache: Path) -> None:
    timed(profiled, 1.0)
    profiled["profiles"] = {"original": PROFILE}
    profiled["operators"]["original"][1]["ms"] = 0.004

    text = text_of(profiled, cache)

    assert (
        "original: medians over 200 runs in one process; operators add up to 2.75 ms, and a whole inference without "
        "the profiler took 1.05 ms there, and 1.00 ms where it was timed." in text
    )
    assert "The profiler's clock steps by 1.00 µs: what is after ~ is less than 10 steps" in text
    assert "~0.500" not in text


def test_a_time_of_few_steps_is_marked(profiled: dict[str, Any], cache: Path) -> None:
    timed(profiled, 1.0)
    profiled["profiles"] = {"original": PROFILE}
    candidate = profiled["candidates"][0]["id"]
    profiled["operators"]["original"][2]["ms"] = 0.009
    profiled["operators"][candidate][1]["ms"] = 0.010

    text = text_of(profiled, cache)

    assert "~0.009" in text
    assert "~0.010" not in text
    assert " 0.010" in text


def test_calls_shares_sizes_and_whole_kernels_are_on_the_page(profiled: dict[str, Any], cache: Path) -> None:
    kernel = "com.microsoft.nchwc:QLinearConvWithEverythingFused(uint8, int8)"
    candidate = profiled["candidates"][0]["id"]
    profiled["operators"][candidate][0] |= {"kernel": kernel, "share": 0.615, "calls": 3.0, "output_bytes": 25088}

    text = text_of(profiled, cache)

    assert f"→ {kernel}" in text
    assert "61.5 % 3 calls" in text
    assert "output of 25.1 kB" in text


@pytest.mark.parametrize(
    ("unprofiled", "flags", "doubts"),
    [
        (1.05, (), ()),
        (1.15, (), ("profile_apart",)),
        (0.85, (), ("profile_apart",)),
        (1.05, ("contended",), ("contended",)),
    ],
)
def test_a_doubtful_profile_is_marked_where_it_is_used(
    profiled: dict[str, Any], cache: Path, unprofiled: float, flags: tuple[str, ...], doubts: tuple[str, ...]
) -> None:
    timed(profiled, 1.0, *flags)
    profiled["profiles"] = {"original": PROFILE | {"unprofiled_ms": unprofiled}}

    page = Page(render(profiled, cache=cache))

    assert ("Original, ms *" in page.text) == bool(doubts)
    assert ("What this machine could do *" in page.text) == bool(doubts)
    assert ("In the profiled process a whole inference" in page.text) == ("profile_apart" in doubts)


def test_a_report_from_before_says_nothing_of_its_profile(profiled: dict[str, Any], cache: Path) -> None:
    profiled.pop("profiles", None)

    assert "The profiler's clock" not in text_of(profiled, cache)
