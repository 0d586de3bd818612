"""Differences of what was measured: held against simulations whose truth is known, and against plain arithmetic."""

from functools import cache
from typing import Any

import numpy as np
import pytest
from scipy import stats

from app.domain.variants import Data, Measured, difference, difference_bounds, place_of, ratio_bounds, same_place

HERE = {"runtime": "onnxruntime", "version": "1", "threads": 1, "batch": 1, "target": "abc"}
ROWS = {"source": "evaluation", "output": "y", "rows": 100}


def found(name: str, value: float | None, ci95: tuple[float, float] | None = None, **conditions: Any) -> dict[str, Any]:
    unit, better = ("fraction", "higher") if name in ("top1", "agreement") else ("ms", "lower")
    base = ROWS if better == "higher" else {} if name == "artifact_bytes" else HERE
    return {
        "name": name,
        "value": value,
        "unit": unit,
        "better": better,
        "ci95": ci95,
        "conditions": base | conditions,
        "reason": None if value is not None else "no reason",
    }


def variant(*measurements: dict[str, Any], **more: Any) -> Measured:
    given: dict[str, Any] = {
        "id": "art_1",
        "model": "mdl_1",
        "job": "job_1",
        "is_original": False,
        "target": "local",
        "data": Data("evaluation", "dst_1", "digest"),
    }
    return Measured(**(given | {"measurements": measurements} | more))


def differ(before: Measured, after: Measured) -> Any:
    return difference(before, before.measurements[0], after, after.measurements[0])


@pytest.mark.parametrize(("first", "second"), [(5, 5), (5, 8), (20, 7)])
def test_differences_of_means_are_covered(first: int, second: int) -> None:
    """t intervals of two independent samples, of unequal spread."""
    rng = np.random.default_rng(1)
    truth = 10.0 - 7.0
    covered = 0
    runs = 10_000
    for _ in range(runs):
        one, other = rng.normal(10, 2, first), rng.normal(7, 0.5, second)
        low, high = difference_bounds(one.mean(), ends(one), other.mean(), ends(other))
        covered += low <= truth <= high
    assert covered / runs >= 0.945


@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_ratios_of_times_are_covered(spread: float) -> None:
    """Medians of five processes each, with intervals as latencies have them: Student's t on logarithms."""
    rng = np.random.default_rng(2)
    covered = 0
    runs = 10_000
    for _ in range(runs):
        one, other = rng.normal(np.log(3.0), spread, 5), rng.normal(np.log(2.0), spread, 5)
        bounds = ratio_bounds(
            float(np.exp(one.mean())), tuple(np.exp(ends(one))), float(np.exp(other.mean())), tuple(np.exp(ends(other)))
        )
        assert bounds is not None
        covered += bounds[0] <= 1.5 <= bounds[1]
    assert covered / runs >= 0.945


def test_the_width_is_that_of_welch_where_both_are_alike() -> None:
    """For large samples both are the normal interval of a difference."""
    rng = np.random.default_rng(3)
    one, other = rng.normal(5, 1, 4000), rng.normal(4, 3, 4000)
    expected = stats.ttest_ind(one, other, equal_var=False).confidence_interval(0.95)

    assert difference_bounds(one.mean(), ends(one), other.mean(), ends(other)) == pytest.approx(
        (expected.low, expected.high), abs=1e-3
    )


def test_nothing_below_zero_has_a_ratio() -> None:
    assert ratio_bounds(1.0, (0.0, 2.0), 1.0, (0.5, 1.5)) is None


def test_independent_intervals_that_overlap_much_are_noise() -> None:
    told = differ(
        variant(found("latency_p90", 10.0, (9.0, 11.0))), variant(found("latency_p90", 10.5, (9.5, 11.5)), id="art_2")
    )

    assert (told.side, told.basis) == ("within_noise", "independent")
    assert told.ci95 == pytest.approx((0.5 - 2**0.5, 0.5 + 2**0.5))


@pytest.mark.parametrize(("value", "side"), [(5.0, "better"), (20.0, "worse")])
def test_less_latency_is_better(value: float, side: str) -> None:
    told = differ(
        variant(found("latency_p90", 10.0, (9.9, 10.1))),
        variant(found("latency_p90", value, (value - 0.1, value + 0.1))),
    )

    assert told.side == side
    assert told.difference == value - 10
    assert told.ratio == value / 10
    assert told.ratio_ci95[0] < value / 10 < told.ratio_ci95[1]


def test_one_job_s_own_comparison_is_what_counts() -> None:
    """The artifact was timed in turn with the original; each alone scatters widely."""
    original = variant(found("latency_p50", 10.0, (5.0, 20.0)), id="mdl_1", is_original=True)
    artifact = variant(
        found("latency_p50", 9.0, (4.5, 18.0)),
        comparisons=[
            {"name": "latency_p50", "ratio": 0.9, "ci95": [0.89, 0.91], "conditions": {"threads": 1, "batch": 1}}
        ],
    )

    told = differ(original, artifact)
    assert (told.side, told.basis, told.ratio) == ("better", "paired", 0.9)
    assert told.ratio_ci95 == pytest.approx((0.89, 0.91))
    assert (told.difference, told.ci95) == (pytest.approx(-1.0), pytest.approx((-1.1, -0.9)))
    # And the other way round.
    back = differ(artifact, original)
    assert (back.side, back.basis) == ("worse", "paired")
    assert back.ratio == pytest.approx(1 / 0.9)
    assert back.ratio_ci95 == pytest.approx((1 / 0.91, 1 / 0.89))


def test_comparisons_under_other_conditions_do_not_count() -> None:
    original = variant(found("latency_p50", 10.0, (9.0, 11.0), threads=2), id="mdl_1", is_original=True)
    artifact = variant(
        found("latency_p50", 9.0, (8.0, 10.0), threads=2),
        comparisons=[
            {"name": "latency_p50", "ratio": 0.5, "ci95": [0.4, 0.6], "conditions": {"threads": 1, "batch": 1}}
        ],
    )

    assert differ(original, artifact).basis == "independent"


def test_two_artifacts_meet_through_their_original() -> None:
    """One was timed on a slow day, so that the bare times say the opposite."""

    def artifact(value: float, ratio: float) -> Measured:
        return variant(
            found("latency_p50", value, (0.9 * value, 1.1 * value)),
            comparisons=[{"name": "latency_p50", "ratio": ratio, "ci95": [ratio * 0.99, ratio * 1.01]}],
        )

    told = differ(artifact(10.0, 0.5), artifact(8.0, 0.8))
    assert (told.side, told.basis) == ("worse", "through_original")
    assert told.ratio == pytest.approx(1.6)
    assert told.difference == pytest.approx(6.0), "in the reference's terms, not those of another day"
    reach = np.exp(np.hypot(np.log(1.01), np.log(1 / 0.99)))
    assert told.ratio_ci95[1] == pytest.approx(1.6 * reach, rel=1e-6)


def test_of_other_models_nothing_is_paired() -> None:
    def artifact(model: str) -> Measured:
        return variant(
            found("latency_p50", 10.0, (9.0, 11.0)),
            model=model,
            comparisons=[{"name": "latency_p50", "ratio": 0.5, "ci95": [0.4, 0.6]}],
        )

    assert differ(artifact("mdl_1"), artifact("mdl_2")).basis == "independent"


def test_drops_are_paired_row_by_row() -> None:
    original = variant(found("top1", 0.9, (0.8, 0.95)), id="mdl_1", is_original=True)
    artifact = variant(
        found("top1", 0.88, (0.78, 0.93)), drops=[{"metric": "top1", "value": 0.02, "ci95": [0.01, 0.03]}]
    )

    told = differ(original, artifact)
    assert (told.side, told.basis) == ("worse", "paired")
    assert told.difference == pytest.approx(-0.02)
    assert told.ci95 == pytest.approx((-0.03, -0.01))


def test_sizes_have_no_noise() -> None:
    small, large = (variant(found("artifact_bytes", value)) for value in (100, 101))

    assert differ(large, small).side == "better"
    assert differ(small, large).side == "worse"
    assert differ(small, small).side == "within_noise"
    assert differ(small, large).basis == "exact"


@pytest.mark.parametrize("name", ["latency_p50", "latency_p99", "throughput", "peak_memory", "steady_memory"])
@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("target", "other"),
        ("threads", 2),
        ("batch", 8),
        ("runtime", "openvino"),
        ("version", "2"),
        ("providers", ["CUDAExecutionProvider"]),
        ("device", "GPU"),
        ("shapes", {"x": [1, 4, 256]}),
        ("case", "step"),
        ("callers", 4),
        ("rate", 200.0),
    ],
)
def test_what_was_run_under_other_conditions_is_no_difference(name: str, key: str, value: Any) -> None:
    told = differ(variant(found(name, 10.0, (9.0, 11.0))), variant(found(name, 1.0, (0.9, 1.1), **{key: value})))

    assert told.side == "not_comparable"
    assert (told.difference, told.ratio) == (None, None)
    assert told.differs_in == {key: (HERE.get(key), value)}
    assert key in told.reason


def test_shapes_are_equal_whatever_holds_them() -> None:
    """A worker has tuples, and what comes from a database lists."""
    fed = [{"x": (1, 4), "y": (1, 2)}, {"y": [1, 2], "x": [1, 4]}]
    before, after = (variant(found("latency_p50", 10.0, (9.0, 11.0), shapes=shapes)) for shapes in fed)

    assert differ(before, after).side == "within_noise"
    assert place_of(before.measurements[0]) == place_of(after.measurements[0])


def test_random_rows_of_other_shapes_are_other_rows() -> None:
    def followed(length: int) -> Measured:
        timed = found("latency_p50", 10.0, (9.0, 11.0), shapes={"x": [1, length]})
        return variant(found("agreement", 0.9, (0.8, 0.95), source="synthetic"), timed, data=Data("synthetic"))

    assert differ(followed(4), followed(4)).side == "within_noise"
    assert differ(followed(4), followed(512)).differs_in == {"shapes": ({"x": [1, 4]}, {"x": [1, 512]})}


@pytest.mark.parametrize("more", [{"callers": 4}, {"case": "step"}, {"shapes": {"x": [1, 4]}}, {"runtime": "openvino"}])
def test_a_pairing_is_that_of_its_own_conditions(more: dict[str, Any]) -> None:
    single, other = found("latency_p50", 9.0, (8.0, 10.0)), found("latency_p50", 9.0, (8.0, 10.0), **more)
    paired = {"name": "latency_p50", "ratio": 0.5, "ci95": [0.4, 0.6], "conditions": HERE}
    artifact = variant(single, other, comparisons=[paired])

    assert artifact.compared("latency_p50") is paired
    assert artifact.compared("latency_p50", single["conditions"]) is paired
    assert artifact.compared("latency_p50", other["conditions"]) is None
    turned = variant(single, other, comparisons=[paired | {"conditions": HERE | more}])
    assert turned.compared("latency_p50", single["conditions"]) is None
    assert turned.compared("latency_p50", other["conditions"]) is not None


def test_the_nearest_measurement_stands_for_another() -> None:
    step, single = found("latency_p50", 1.0, case="step"), found("latency_p50", 2.0)
    upgraded = found("latency_p50", 3.0, case="step", version="2")

    assert same_place(variant(single, step), upgraded) is step
    assert same_place(variant(single, step), found("latency_p50", 9.0, version="2")) is single
    assert same_place(variant(single), upgraded) is single
    assert same_place(variant(), upgraded) is None


def test_metrics_on_other_rows_are_no_difference() -> None:
    before = variant(found("top1", 0.9, (0.8, 0.95)))
    after = variant(found("top1", 0.5, (0.4, 0.6)), data=Data("evaluation", "dst_2", "other"))

    assert differ(before, after).differs_in == {"dataset": ("dst_1", "dst_2")}


def test_fidelity_to_another_original_is_no_difference() -> None:
    before, after = (variant(found("agreement", 0.9, (0.8, 0.95)), model=model) for model in ("mdl_1", "mdl_2"))

    assert differ(before, after).differs_in == {"original": ("mdl_1", "mdl_2")}
    # What the task asks for has no original.
    assert differ(
        variant(found("top1", 0.9, (0.8, 1.0))), variant(found("top1", 0.9, (0.8, 1.0)), model="mdl_2")
    ).side == ("within_noise")


def test_without_an_interval_nobody_knows() -> None:
    told = differ(variant(found("latency_p50", 10.0)), variant(found("latency_p50", 5.0, (4.0, 6.0))))

    assert told.side == "unknown"
    assert told.difference == -5.0
    assert "no interval" in told.reason


def test_what_was_not_measured_says_why() -> None:
    told = differ(variant(found("latency_p50", None)), variant(found("latency_p50", 5.0, (4.0, 6.0))))

    assert (told.side, told.reason) == ("unknown", "no reason")


def ends(sample: Any) -> tuple[float, float]:
    """The t interval of a mean, at 95 %."""
    reach = quantile(len(sample)) * sample.std(ddof=1) / np.sqrt(len(sample))
    return float(sample.mean() - reach), float(sample.mean() + reach)


@cache
def quantile(count: int) -> float:
    return float(stats.t.ppf(0.975, count - 1))
