"""Ratios within children, their interval across them, and the flags, on invented samples."""

import numpy as np
import pytest

from tests.unit.evaluation.conftest import BUSY, QUIET, five_children, latency_replicate, timings
from workers.evaluation.comparison import (
    block_ratio,
    compare_exact,
    compare_latency,
    compare_paired,
    flags_of,
    same_ratio,
)
from workers.evaluation.replicate import Pair, Warmth


def test_the_ratio_is_that_of_the_medians() -> None:
    pair = Pair(first=timings(10, [1], rounds=30), second=timings(8, [2], rounds=30))
    assert block_ratio(pair) == pytest.approx(0.8, rel=0.01)


def test_a_drift_of_the_machine_cancels() -> None:
    """Both slow down by half over the series: ratios of rounds do not see it, medians of all samples would."""
    drift = np.linspace(1, 1.5, 10)
    first = [[float(10 * factor)] * 20 for factor in drift]
    second = [[float(8 * factor)] * 20 for factor in drift]
    assert block_ratio(Pair(first=first, second=second)) == pytest.approx(0.8)


def test_one_disturbed_round_does_not_move_it() -> None:
    first, second = timings(10, [1]), timings(10, [2])
    second[3] = [100.0] * 20
    assert block_ratio(Pair(first=first, second=second)) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize(("again", "noisy"), [(1.0, False), (1.015, False), (1.03, True), (0.985, False), (0.97, True)])
def test_the_original_against_itself_flags_a_machine_that_cannot_tell(again: float, noisy: bool) -> None:
    replicates = five_children(10, 8, scatter=0.01)
    replicates = [
        replicate.model_copy(
            update={
                "same": Pair(
                    first=timings(10, [replicate.replicate, 1], scatter=0.01),
                    second=timings(10 * again, [replicate.replicate, 2], scatter=0.01),
                )
            }
        )
        for replicate in replicates
    ]
    assert same_ratio(replicates) == pytest.approx(again, abs=0.004)
    comparison = compare_latency(replicates)
    assert ("noisy" in comparison.flags) == noisy
    assert comparison.same_ratio == same_ratio(replicates)


def test_one_odd_child_of_five_does_not_flag() -> None:
    replicates = [*five_children()[:4], latency_replicate(10, 8, again=12, replicate=5)]
    assert "noisy" not in flags_of(replicates)


@pytest.mark.parametrize(("busy", "flagged"), [(0, False), (1, False), (2, True), (5, True)])
def test_contention_in_more_than_a_quarter_of_the_children_flags(busy: int, flagged: bool) -> None:
    replicates = [
        replicate.model_copy(update={"context": BUSY if index < busy else QUIET})
        for index, replicate in enumerate(five_children())
    ]
    assert ("contended" in flags_of(replicates)) == flagged


def test_warm_ups_that_mostly_did_not_settle_flag() -> None:
    cold = {name: Warmth(calls=9, seconds=2, settled=False) for name in ("original", "artifact")}
    replicates = five_children()
    assert flags_of(replicates) == ()
    assert flags_of([replicate.model_copy(update={"warm_up": cold}) for replicate in replicates]) == ("unsettled",)


def test_short_blocks_flag() -> None:
    assert flags_of(five_children(calls=5)) == ("short_blocks",)


def test_a_difference_is_shown_with_its_interval() -> None:
    comparison = compare_latency(five_children(10, 8))
    assert comparison.ci95 is not None
    assert comparison.ci95[0] < comparison.ratio < comparison.ci95[1] < 1
    assert not comparison.within_noise
    assert comparison.children == 5


def test_equal_models_are_within_noise() -> None:
    assert compare_latency(five_children(10, 10)).within_noise


def test_one_child_has_a_ratio_and_no_interval() -> None:
    comparison = compare_latency([latency_replicate(10, 5)])
    assert comparison.ratio == pytest.approx(0.5, rel=0.05)
    assert comparison.ci95 is None
    assert not comparison.within_noise


def test_pairs_of_children_are_compared_within_each() -> None:
    """Two modes across children are no noise in the ratio when both models share them."""
    comparison = compare_paired("latency_p50", [1, 2, 1, 2, 1], [0.5, 1.0, 0.5, 1.0, 0.501])
    assert comparison.ratio == 0.5
    assert comparison.ci95 is not None
    assert comparison.ci95[1] < 0.502


def test_bytes_are_exact() -> None:
    comparison = compare_exact("artifact_bytes", 400, 100)
    assert comparison.ratio == 0.25
    assert comparison.ci95 is None


def test_what_was_timed_again_is_forgiven_and_a_lot_of_it_is_not() -> None:
    few, many = (latency_replicate(rounds=10, repeated=count) for count in (3, 20))
    assert few.disturbances() == []
    assert "20 of 40 rounds" in many.disturbances()[-1]
    assert latency_replicate(rounds=10, doubtful=10).disturbances() != []
    waited = latency_replicate(context=QUIET.model_copy(update={"run_queue_share": 0.1, "involuntary_switches": 90}))
    assert waited.disturbances() == []
    assert latency_replicate(context=BUSY).disturbances() != []
