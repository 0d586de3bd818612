"""What stands beside what: by all that tells measurements apart, paired where it was, and never noise as news."""

import random
from typing import Any

import pytest

from tests.unit.report.loaded import document, measured, under_every_condition
from workers.report.cells import Cell
from workers.report.places import by_place, described, place_of, varying
from workers.report.sections import MeasuredRow, flags, key_figures, measurement_rows
from workers.report.variants import shown, variants_of


def rows_of(report: dict[str, Any]) -> list[MeasuredRow]:
    variants = variants_of(report)
    return measurement_rows(variants[0], shown(variants))


def row(found: list[MeasuredRow], name: str, conditions: str) -> MeasuredRow:
    (one,) = [each for each in found if each.name == name and each.conditions == conditions]
    return one


def differences(found: list[MeasuredRow]) -> dict[str, str]:
    return {each.conditions: spaced(each.difference) for each in found if each.name == "latency_p50"}


def spaced(cell: Cell | None) -> str:
    assert cell is not None
    return cell.text.replace("\u00a0", " ")


def test_no_two_rows_of_a_name_read_alike() -> None:
    found = rows_of(document(under_every_condition(2.0)))

    told = [(each.name, each.conditions) for each in found]
    assert len(told) == len(set(told)) == 12 * 3
    said = [conditions for name, conditions in told if name == "latency_p50"]
    assert said == [
        "onnxruntime, 1 thread, 1 row a call",
        "onnxruntime, 1 thread, 8 rows a call",
        "onnxruntime, 2 threads, 1 row a call",
        "onnxruntime, 2 threads, 8 rows a call",
        "OpenVINO, 1 thread, 1 row a call",
        "onnxruntime, prefill (x 1×128×16), 1 thread, 1 row a call",
        "onnxruntime, step (x 1×1×16), 1 thread, 1 row a call",
        "onnxruntime, 1 thread, 1 row a call, 1 caller",
        "onnxruntime, 1 thread, 1 row a call, 2 callers",
        "onnxruntime, 1 thread, 1 row a call, 4 callers",
        "onnxruntime, 1 thread, 1 row a call, 4 callers, 200 calls a second arrive",
        "onnxruntime, 1 thread, 1 row a call, 4 callers, 20,000 calls a second arrive",
    ]


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_measurements_pairs_nothing(seed: int) -> None:
    """An artifact that is twice as slow everywhere is so in each row, in whatever order it was measured."""
    artifact = under_every_condition(2.0)
    random.Random(seed).shuffle(artifact)

    found = [each for each in rows_of(document(artifact)) if each.name == "latency_p50"]

    assert [spaced(each.difference) for each in found] == ["2.00 × slower"] * 12


def test_what_one_of_them_lacks_is_compared_with_nothing() -> None:
    artifact = [each for each in under_every_condition(2.0) if each["conditions"]["runtime"] != "openvino"]

    found = row(rows_of(document(artifact)), "latency_p50", "OpenVINO, 1 thread, 1 row a call")

    assert (found.artifact, found.difference) == (Cell("–", "not measured"), Cell(""))


def test_each_paired_comparison_stands_in_the_row_that_it_is_of() -> None:
    at = {"threads": 1, "batch": 1, "runtime": "onnxruntime"}
    conditions = [at, {**at, "batch": 8}, {**at, "runtime": "openvino"}, {**at, "case": "step"}]
    compared = [
        {"name": "latency_p50", "ratio": ratio, "ci95": [ratio * 0.99, ratio * 1.01], "conditions": each}
        for ratio, each in zip((3.0, 4.0, 5.0, 6.0), conditions, strict=True)
    ]

    found = differences(rows_of(document(under_every_condition(2.0), comparisons=compared)))

    paired = {where: text for where, text in found.items() if text != "2.00 × slower"}
    assert paired == {
        "onnxruntime, 1 thread, 1 row a call": "3.00 × slower",
        "onnxruntime, 1 thread, 8 rows a call": "4.00 × slower",
        "OpenVINO, 1 thread, 1 row a call": "5.00 × slower",
        "onnxruntime, step (x 1×1×16), 1 thread, 1 row a call": "6.00 × slower",
    }


def test_a_comparison_without_conditions_is_of_the_first_row_alone() -> None:
    before = [measured("load_time", 10.0, threads=threads, batch=1) for threads in (1, 2)]
    after = [measured("load_time", 20.0, threads=threads, batch=1) for threads in (1, 2)]
    report = document(after, comparisons=[{"name": "load_time", "ratio": 1.5, "ci95": [1.4, 1.6]}])
    report["baseline"]["measurements"] = before

    assert [spaced(each.difference) for each in rows_of(report)] == ["1.50 × slower", "2.00 × slower"]


@pytest.mark.parametrize(
    ("half", "text", "small"),
    [
        (0.2, "the same, within noise", "0.79 to 1.40 ×, not paired"),
        (0.01, "1.05 × slower", "1.04 to 1.06 ×, not paired"),
        (0.0, "–", "no interval: it may be noise"),
    ],
)
def test_what_may_be_noise_is_not_called_a_difference(half: float, text: str, small: str) -> None:
    report = document([measured("latency_p99", 1.05, half, threads=1)])
    report["baseline"]["measurements"] = [measured("latency_p99", 1.0, half, threads=1)]

    (found,) = rows_of(report)

    assert spaced(found.difference) == text
    assert found.difference is not None
    assert (found.difference.small or "").replace("\u00a0", " ") == small


@pytest.mark.parametrize(
    ("name", "ratio", "text"),
    [
        ("steady_memory", 2.0, "2.00 × larger"),
        ("peak_memory", 0.5, "2.00 × smaller"),
        ("cpu_per_inference", 2.0, "2.00 × more"),
        ("throughput", 2.0, "2.00 × higher"),
        ("throughput", 0.5, "2.00 × lower"),
        ("latency_p90", 0.5, "2.00 × faster"),
        ("first_run", 2.0, "2.00 × slower"),
    ],
)
def test_a_ratio_is_called_what_it_is_a_ratio_of(name: str, ratio: float, text: str) -> None:
    report = document([measured(name, 3.0 * ratio)])
    report["baseline"]["measurements"] = [measured(name, 3.0)]

    (found,) = rows_of(report)

    assert spaced(found.difference) == text


def test_doubts_follow_the_numbers() -> None:
    """A flag of either value marks their difference and the tile, and its meaning is told."""
    artifact = under_every_condition(2.0)
    artifact[0]["flags"] = ["unstable"]
    compared = {"name": "latency_p50", "ratio": 2.0, "ci95": [1.9, 2.1], "flags": ["noisy"]}
    report = document(artifact, comparisons=[compared])
    variants = variants_of(report)

    first = row(rows_of(report), "latency_p50", "onnxruntime, 1 thread, 1 row a call")
    last = rows_of(report)[-1]
    (tile,) = key_figures(variants, shown(variants), None)

    assert first.difference is not None
    assert last.difference is not None
    assert set(first.difference.flags) == set(tile.flags) == {"noisy", "unstable"}
    assert last.difference.flags == ("saturated",)
    assert {flag for flag, _, _ in flags(variants)} == {"noisy", "unstable", "saturated"}


def test_a_comparison_of_one_process_is_no_difference() -> None:
    compared: list[dict[str, Any]] = [
        {"name": "peak_memory", "ratio": 1.2, "ci95": None},
        {"name": "artifact_bytes", "ratio": 0.5, "ci95": None},
    ]
    report = document([measured("peak_memory", 6e6, 0.0), measured("artifact_bytes", 1e6, 0.0)], comparisons=compared)
    report["baseline"]["measurements"] = [measured("peak_memory", 5e6, 0.0), measured("artifact_bytes", 2e6, 0.0)]
    report["candidates"][0]["measurements"][0]["flags"] = ["contended"]
    variants = variants_of(report)

    memory, size = rows_of(report)
    tiles = {tile.name: tile for tile in key_figures(variants, shown(variants), None)}

    assert memory.difference == Cell("–", "no interval: it may be noise", ("contended",))
    assert spaced(size.difference) == "2.00 × smaller"
    assert tiles["Memory"].value.replace("\u00a0", " ") == "6.00 MB"
    assert "it may be noise" in tiles["Memory"].besides
    assert tiles["Size"].value.replace("\u00a0", " ") == "2.00 × smaller"


@pytest.mark.parametrize(("same", "flags"), [(1.0, ()), (None, ("contended",))])
def test_only_what_was_timed_in_turn_has_flags_of_its_own(same: float | None, flags: tuple[str, ...]) -> None:
    compared = {"name": "load_time", "ratio": 1.5, "ci95": [1.4, 1.6], "same_ratio": same, "conditions": {"threads": 1}}
    report = document([measured("load_time", 15.0, threads=1)], comparisons=[compared])
    report["baseline"]["measurements"] = [measured("load_time", 10.0, threads=1) | {"flags": ["contended"]}]

    (found,) = rows_of(report)

    assert found.difference is not None
    assert found.difference.flags == flags


def test_what_no_condition_has_is_said_once() -> None:
    without = [
        measured("energy_per_inference", None, threads=threads) | {"reason": "no counter here"} for threads in (1, 2, 4)
    ]
    report = document(without)
    report["baseline"]["measurements"] = without

    (found,) = rows_of(report)

    assert found.original == found.artifact == Cell("–", "no counter here")


def test_only_what_varies_is_said() -> None:
    found = list(by_place(under_every_condition()))

    assert described(found[0]) == "1 thread, 1 row a call"
    assert described(place_of("top1", {"output": "logits"}), varying([place_of("top1", {"output": "logits"})])) == ""
    several = [place_of("top1", {"output": name, "rows": 8}) for name in ("logits", "boxes")]
    assert [described(each, varying(several)) for each in several] == ["output logits", "output boxes"]
    # Shapes that follow the rows a call say nothing more.
    batches = [place_of("latency_p50", {"batch": rows, "shapes": {"x": [rows, 4]}}) for rows in (1, 8)]
    assert [described(each, varying(batches)) for each in batches] == ["1 row a call", "8 rows a call"]
    alike = [place_of("latency_p50", {"batch": 1, "shapes": {"x": [1, size]}}) for size in (4, 512)]
    assert [described(each, varying(alike)) for each in alike] == ["x 1×4, 1 row a call", "x 1×512, 1 row a call"]


def test_nothing_of_equal_places_is_lost_or_compared_by_its_turn() -> None:
    twice = [measured("latency_p50", value, threads=1) for value in (1.0, 5.0)]
    report = document(twice)
    report["baseline"]["measurements"] = [measured("latency_p50", value, threads=1) for value in (2.0, 3.0)]

    assert [spaced(each.difference) for each in rows_of(report)] == ["2.00 × faster", ""]
