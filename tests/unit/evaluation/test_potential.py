"""What fewer bits could do, and which runtime wins, in words that follow from the numbers."""

from typing import Any

import pytest

from app.domain.measurement import Measurement
from workers.evaluation.potential import PROFILE_APART, potential, profile_doubts
from workers.evaluation.roofline import MachinePeaks, Potential, Roofline
from workers.evaluation.runtime_choice import compare_runtimes


def bound(share: float, upper: float | None, hoped: float | None = None) -> Potential:
    return Potential(share=share, upper_bound=upper, same_efficiency=hoped)


def roofline(int8: Potential, int4: Potential) -> Roofline:
    return Roofline(
        peaks=MachinePeaks(fp32_gflops=100, bandwidth_gbs=10),
        operators=(),
        flops=0,
        best_ms=0,
        int8=int8,
        int4_weights=int4,
        not_counted=(),
        weight_bytes=0,
    )


def test_a_bound_is_said_with_what_to_hope_for() -> None:
    first, second = potential(roofline(bound(0.71, 2.4, 1.6), bound(0.3, 1.3, None)))
    assert first == (
        "8 bits could make it 2.40 × as fast here at most, and 1.60 × at its present efficiency: 71% of its time is in "
        "operators that could gain."
    )
    assert second.startswith("Weights of 4 bits could make it 1.30 × as fast here at most: 30%")


def test_no_more_is_hoped_for_than_is_possible() -> None:
    (said, _) = potential(roofline(bound(0.91, 3.0, 3.15), bound(0.01, 1.0)))
    assert said == "8 bits could make it 3.00 × as fast here at most: 91% of its time is in operators that could gain."


def test_what_cannot_help_is_said_so_and_what_is_unknown_not_at_all() -> None:
    (said,) = potential(roofline(bound(0.01, 1.01), bound(0.5, None)))
    assert said.startswith("8 bits cannot make it faster here")


def test_a_bound_of_a_doubtful_profile_says_so() -> None:
    said = potential(roofline(bound(0.71, 2.4), bound(0.01, 1.0)), ("contended", PROFILE_APART))
    assert [sentence.partition(" Doubtful, ")[2] for sentence in said] == [
        "as it follows from one profile: other work ran on the machine and its inferences took another time than those "
        "that were timed."
    ] * 2
    assert "Doubtful" not in "".join(potential(roofline(bound(0.71, 2.4), bound(0.01, 1.0))))


@pytest.mark.parametrize(
    ("unprofiled", "p50", "flags", "doubts"),
    [
        (1.09, 1.0, (), ()),
        (1.11, 1.0, (), (PROFILE_APART,)),
        (0.89, 1.0, ("unstable",), (PROFILE_APART,)),
        (1.0, 1.0, ("contended", "unsettled"), ("contended",)),
        (None, 1.0, (), ()),
        (1.0, None, (), ()),
        (1.0, 0.0, (), ()),
    ],
)
def test_a_profile_is_held_against_what_was_timed(
    unprofiled: float | None, p50: float | None, flags: tuple[str, ...], doubts: tuple[str, ...]
) -> None:
    assert profile_doubts(unprofiled, p50, flags) == doubts


def timed(runtime: str, value: float, reach: float = 0.01, **conditions: Any) -> Measurement:
    return Measurement(
        name="latency_p50",
        value=value,
        unit="ms",
        better="lower",
        ci95=(value * (1 - reach), value * (1 + reach)),
        conditions={"runtime": runtime, "threads": 1, "batch": 1, **conditions},
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (5.0, "openvino is 2.00 × faster than onnxruntime here (1.9"),
        (20.0, "openvino is 2.00 × slower"),
        (10.05, "noise"),
    ],
)
def test_the_runtime_that_wins_is_told_with_its_interval(value: float, said: str) -> None:
    (sentence,) = compare_runtimes([timed("onnxruntime", 10.0), timed("openvino", value)])
    assert said in sentence


def test_a_winner_of_doubtful_times_is_told_with_the_doubt() -> None:
    flagged = timed("openvino", 5.0).model_copy(update={"flags": ("unstable", "contended")})
    (sentence,) = compare_runtimes([timed("onnxruntime", 10.0), flagged])
    assert sentence.endswith("These times are doubtful: contended, unstable.")
    (sentence,) = compare_runtimes([timed("onnxruntime", 10.0), timed("openvino", 5.0)])
    assert "doubtful" not in sentence


def test_other_conditions_are_no_other_runtime() -> None:
    usual = timed("onnxruntime", 10.0)
    assert compare_runtimes([usual, timed("onnxruntime", 5.0, threads=2), timed("openvino", 5.0, threads=2)]) == ()
    assert compare_runtimes([usual, timed("onnxruntime", 5.0, callers=2)]) == ()
    assert compare_runtimes([]) == ()


@pytest.mark.parametrize("ci95", [None, (-1.0, 21.0)])
def test_runtimes_of_which_too_little_is_known(ci95: tuple[float, float] | None) -> None:
    """Silence would be taken for a draw."""
    usual = timed("onnxruntime", 10.0).model_copy(update={"ci95": ci95})
    [said] = compare_runtimes([usual, timed("openvino", 5.0)])
    assert said == (
        "openvino took 5.00 ms here and onnxruntime 10.0 ms: too few processes timed them to tell which is faster."
    )
