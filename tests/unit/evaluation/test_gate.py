"""Verdicts: truth tables over where an interval lies, for each kind of constraint."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.domain.goal import Constraint, Goal
from app.domain.job import Gate
from app.domain.measurement import Measurement, absent
from app.domain.metric import METRICS
from tests.unit.evaluation.conftest import five_children, latency_replicate, memory
from workers.evaluation.accuracy import NON_FINITE
from workers.evaluation.evidence import Evidence, Source, gather, timed
from workers.evaluation.gate import Verdict, judge_constraint, judge_goal, overall
from workers.evaluation.metrics import arithmetic
from workers.evaluation.metrics.definition import RowMetric
from workers.evaluation.scores import Scores

Floats = NDArray[np.float64]


def shares(right: int, rows: int) -> Floats:
    """Scores of which the first `right` are 1."""
    return (np.arange(rows) < right).astype(np.float64)[:, np.newaxis]


def paired(both: int, lost: int, gained: int, neither: int) -> tuple[Floats, Floats]:
    counts = (both, lost, gained, neither)
    original = np.repeat([1.0, 1.0, 0.0, 0.0], counts)[:, np.newaxis]
    artifact = np.repeat([1.0, 0.0, 1.0, 0.0], counts)[:, np.newaxis]
    return original, artifact


def measurement(name: str, value: float | None, **changes: Any) -> Measurement:
    metric = METRICS[name]
    return Measurement(name=name, value=value, unit=metric.unit, better=metric.better, **changes)


def of_scores(
    name: str, artifact: Floats, original: Floats | None = None, *, source: Source = "evaluation"
) -> Evidence:
    metric = arithmetic(name)
    assert isinstance(metric, RowMetric)
    value = float(metric.value(artifact.mean(axis=0)))
    return Evidence(
        source=source,
        original={},
        artifact={name: measurement(name, value)},
        original_scores={} if original is None else {name: Scores(original)},
        artifact_scores={name: Scores(artifact)},
    )


def of_children(original: float = 10.0, artifact: float = 8.0) -> Evidence:
    replicates = five_children(original, artifact)
    # One child alone had the artifact to itself.
    replicates[1] = replicates[1].model_copy(update={"memory": memory("artifact", 10_000_000)})
    bytes_of = {"unit": "bytes", "better": "lower"}
    evidence, _ = gather(
        "cnd_a",
        source="evaluation",
        original=[
            Measurement(name="artifact_bytes", value=4_000_000, **bytes_of),
            *timed(replicates, "original"),
        ],
        artifact=[Measurement(name="artifact_bytes", value=1_000_000, **bytes_of)],
        scores={"original": {}, "artifact": {}},
        latency=replicates,
    )
    return evidence


def judge_one(evidence: Evidence, confidence: float = 0.95, **constraint: Any) -> Verdict:
    [verdict] = judge_constraint(Constraint(**constraint), evidence, confidence)
    return verdict


@pytest.mark.parametrize(
    ("counts", "limit", "expected"),
    [
        ((2700, 10, 9, 281), 0.01, "met"),
        ((262, 6, 5, 27), 0.01, "undecided"),
        ((240, 30, 2, 28), 0.01, "missed"),
        ((300, 0, 0, 0), 0.01, "met"),  # 300 rows without a disagreement do show one point …
        ((100, 0, 0, 0), 0.01, "undecided"),  # … and 100 do not
        ((200, 0, 60, 40), 0.0, "met"),  # better than the original
        ((200, 60, 0, 40), 0.1, "missed"),
    ],
)
def test_the_drop_of_top1(counts: tuple[int, int, int, int], limit: float, expected: Gate) -> None:
    original, artifact = paired(*counts)
    verdict = judge_one(of_scores("top1", artifact, original), metric="top1", max_drop=limit)
    assert verdict.verdict == expected
    rows = sum(counts)
    assert verdict.value == pytest.approx((counts[1] - counts[2]) / rows)
    assert verdict.bound == limit
    assert verdict.ci is not None
    assert verdict.ci[0] < verdict.ci[1]
    assert (verdict.rows_needed is not None) == (expected == "undecided")
    assert verdict.reason.endswith(".")


@settings(max_examples=60, deadline=None)
@given(
    counts=st.tuples(*(st.integers(0, 80) for _ in range(4))).filter(lambda counts: sum(counts) > 0),
    limit=st.floats(0, 0.3),
    confidence=st.sampled_from([0.6, 0.9, 0.95, 0.99]),
)
def test_a_verdict_follows_from_the_bounds_and_the_limit(
    counts: tuple[int, int, int, int], limit: float, confidence: float
) -> None:
    original, artifact = paired(*counts)
    verdict = judge_one(of_scores("top1", artifact, original), confidence, metric="top1", max_drop=limit)
    lower, upper = verdict.ci or (verdict.value, verdict.value)
    assert lower is not None
    assert upper is not None
    assert (verdict.verdict == "met") == (upper <= limit)
    assert (verdict.verdict == "missed") == (lower > limit)
    if verdict.rows_needed is not None:
        assert verdict.rows_needed > sum(counts)


@settings(max_examples=30, deadline=None)
@given(counts=st.tuples(*(st.integers(1, 80) for _ in range(4))), limit=st.floats(0, 0.3))
def test_more_confidence_never_decides_more(counts: tuple[int, int, int, int], limit: float) -> None:
    original, artifact = paired(*counts)
    evidence = of_scores("top1", artifact, original)
    loose, strict = (
        judge_one(evidence, confidence, metric="top1", max_drop=limit).verdict for confidence in (0.8, 0.99)
    )
    assert strict in (loose, "undecided")


def test_rows_that_would_decide_are_told_and_none_at_the_limit() -> None:
    original, artifact = paired(262, 6, 5, 27)
    verdict = judge_one(of_scores("top1", artifact, original), metric="top1", max_drop=0.01)
    assert verdict.rows_needed is not None
    assert f"{verdict.rows_needed:,} rows would decide" in verdict.reason
    original, artifact = paired(90, 2, 1, 7)
    verdict = judge_one(of_scores("top1", artifact, original), metric="top1", max_drop=0.01)
    assert verdict.verdict == "undecided"
    assert verdict.rows_needed is None
    assert "no practical number of rows" in verdict.reason


@pytest.mark.parametrize(
    ("counts", "limit", "expected"),
    [((4400, 20, 15, 565), 0.01, "met"), ((440, 10, 6, 44), 0.01, "undecided"), ((400, 90, 0, 10), 0.05, "missed")],
)
def test_a_relative_drop_is_of_the_originals_value(
    counts: tuple[int, int, int, int], limit: float, expected: Gate
) -> None:
    original, artifact = paired(*counts)
    verdict = judge_one(of_scores("top1", artifact, original), metric="top1", max_drop=limit, relative=True)
    assert verdict.verdict == expected
    assert verdict.value == pytest.approx((counts[1] - counts[2]) / (counts[0] + counts[1]))


@pytest.mark.parametrize(
    ("right", "limit", "expected"), [(1000, 0.01, "met"), (995, 0.01, "undecided"), (900, 0.01, "missed")]
)
def test_agreement_drops_from_one(right: int, limit: float, expected: Gate) -> None:
    verdict = judge_one(of_scores("agreement", shares(right, 1000)), metric="agreement", max_drop=limit)
    assert verdict.verdict == expected
    assert verdict.value == pytest.approx(1 - right / 1000)


@pytest.mark.parametrize(
    ("right", "least", "expected"), [(950, 0.9, "met"), (905, 0.9, "undecided"), (850, 0.9, "missed")]
)
def test_a_floor_of_a_share(right: int, least: float, expected: Gate) -> None:
    verdict = judge_one(of_scores("top1", shares(right, 1000), shares(990, 1000)), metric="top1", min=least)
    assert verdict.verdict == expected
    assert verdict.value == right / 1000
    if expected == "undecided":
        assert verdict.rows_needed is not None


@pytest.mark.parametrize(("limit", "expected"), [(0.0020, "met"), (0.00102, "undecided"), (0.0005, "missed")])
def test_kl_is_better_when_lower(limit: float, expected: Gate) -> None:
    nats = 1e-3 * np.random.default_rng(4).lognormal(-0.125, 0.5, (400, 1))
    for bound in ("max", "max_drop"):  # the original's is 0, so that the drop is the value
        assert judge_one(of_scores("kl", nats), metric="kl", **{bound: limit}).verdict == expected


@pytest.mark.parametrize(("limit", "expected"), [(25.0, "met"), (29.65, "undecided"), (33.0, "missed")])
def test_a_floor_of_a_ratio_of_sums(limit: float, expected: Gate) -> None:
    rng = np.random.default_rng(5)
    energies = np.stack([rng.lognormal(0, 0.3, 300), 1e-3 * rng.lognormal(0, 0.5, 300)], axis=1)
    assert judge_one(of_scores("sqnr_db", energies), metric="sqnr_db", min=limit).verdict == expected


def test_cosine_drops_from_one() -> None:
    cosines = 1 - 1e-3 * np.random.default_rng(6).lognormal(0, 0.5, (200, 1))
    verdict = judge_one(of_scores("cosine", cosines), metric="cosine", max_drop=0.01)
    assert verdict.verdict == "met"
    assert verdict.value == pytest.approx(1 - cosines.mean())
    assert verdict.ci is not None
    assert 0 < verdict.ci[0] < verdict.ci[1] < 0.01


def test_floor_and_ceiling_are_two_verdicts() -> None:
    verdicts = judge_constraint(
        Constraint(metric="agreement", min=0.5, max=0.6), of_scores("agreement", shares(950, 1000)), 0.95
    )
    assert [(verdict.bound, verdict.verdict) for verdict in verdicts] == [(0.6, "missed"), (0.5, "met")]


@pytest.mark.parametrize(
    ("metric", "bound", "expected"),
    [
        ("latency_p50", {"max": 9.0}, "met"),
        ("latency", {"max": 9.0}, "met"),
        ("latency_p50", {"max": 8.0}, "undecided"),
        ("latency_p50", {"max": 7.0}, "missed"),
        ("throughput", {"min": 100}, "met"),
        ("throughput", {"min": 200}, "missed"),
        ("load_time", {"max": 30}, "met"),
        ("artifact_bytes", {"max": 1_000_000}, "met"),
        ("size", {"max": 999_999}, "missed"),
        ("peak_memory", {"max": 10_000_000}, "met"),
        ("memory", {"max": 9_999_999}, "missed"),
        ("latency_p50", {"max_drop": 0.0}, "met"),  # it is faster
        ("artifact_bytes", {"max_drop": 0}, "met"),
        ("throughput", {"max_drop": 0.1, "relative": True}, "met"),
    ],
)
def test_ceilings_on_what_children_measured(metric: str, bound: dict[str, Any], expected: Gate) -> None:
    verdict = judge_one(of_children(), metric=metric, **bound)
    assert verdict.verdict == expected
    assert verdict.rows_needed is None


@pytest.mark.parametrize(
    ("artifact", "limit", "expected"), [(12.0, 0.3, "met"), (12.0, 0.2, "undecided"), (12.0, 0.1, "missed")]
)
def test_how_much_slower_is_paired_within_children(artifact: float, limit: float, expected: Gate) -> None:
    verdict = judge_one(of_children(10, artifact), metric="latency_p50", max_drop=limit, relative=True)
    assert verdict.verdict == expected
    assert verdict.value == pytest.approx(0.2, abs=0.02)
    absolute = judge_one(of_children(10, artifact), metric="latency_p50", max_drop=limit * 10)
    assert absolute.verdict == expected
    assert absolute.value == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize("source", ["calibration", "synthetic"])
@pytest.mark.parametrize("bound", [{"max_drop": 0.5}, {"max_drop": 0.0}, {"min": 0.1}, {"min": 0.99999}])
def test_nothing_held_out_decides_nothing(source: Source, bound: dict[str, float]) -> None:
    evidence = of_scores("agreement", shares(4990, 5000), source=source)
    verdict = judge_one(evidence, metric="agreement", **bound)
    assert verdict.verdict == "undecided"
    assert verdict.rows_needed is None
    assert verdict.reason.startswith("Nothing was held out")
    assert ("random rows" in verdict.reason) == (source == "synthetic")


def test_a_ceiling_needs_no_held_out_rows() -> None:
    evidence = of_children()
    synthetic = Evidence("synthetic", evidence.original, evidence.artifact, evidence.children)
    assert judge_one(synthetic, metric="latency_p50", max=9).verdict == "met"


def test_an_artifact_that_overflows_misses() -> None:
    broken = absent("sqnr_db", "the output is not finite in 3 of 200 rows", unit="dB")
    evidence = Evidence("evaluation", {}, {"sqnr_db": broken.model_copy(update={"flags": (NON_FINITE,)})})
    verdict = judge_one(evidence, metric="sqnr_db", min=20)
    assert verdict.verdict == "missed"
    assert "not finite" in verdict.reason


@pytest.mark.parametrize(
    ("constraint", "said"),
    [
        ({"metric": "kl", "max": 0.1}, "kl was not measured."),
        ({"metric": "top1", "max_drop": 0.01}, "the rows have no labels"),
        ({"metric": "energy_per_inference", "max": 1}, "RAPL"),
        ({"metric": "peak_memory", "max_drop": 1}, "alone in none of the processes"),
    ],
)
def test_a_constraint_on_what_was_not_measured_is_undecided_and_says_why(constraint: dict[str, Any], said: str) -> None:
    evidence = of_children()
    evidence = Evidence(
        "evaluation",
        evidence.original,
        {**evidence.artifact, "top1": absent("top1", "the rows have no labels", unit="fraction")},
        evidence.children,
    )
    verdict = judge_one(evidence, **constraint)
    assert (verdict.verdict, verdict.value, verdict.ci, verdict.rows_needed) == ("undecided", None, None, None)
    assert constraint["metric"] in verdict.reason
    assert said in verdict.reason


def test_there_are_no_shares_of_zero() -> None:
    verdict = judge_one(of_scores("kl", np.full((9, 1), 0.1)), metric="kl", max_drop=0.1, relative=True)
    assert (verdict.verdict, verdict.value) == ("undecided", None)
    assert "kl" in verdict.reason
    assert "min or max" in verdict.reason


def test_a_percentile_with_too_few_samples_is_undecided() -> None:
    replicates = five_children(10, 8, rounds=1, calls=3)
    evidence, _ = gather(
        "cnd_a",
        source="evaluation",
        original=timed(replicates, "original"),
        artifact=[],
        scores={"original": {}, "artifact": {}},
        latency=replicates,
    )
    for bound in ({"max": 9.0}, {"max_drop": 1.0}):
        verdict = judge_one(evidence, metric="latency_p99", **bound)
        assert verdict.verdict == "undecided"
        assert "15 samples are too few" in verdict.reason


def with_peaks(artifact: Sequence[int], original: Sequence[int] = (10_000_000,)) -> Evidence:
    peaks = [memory("original", peak) for peak in original] + [memory("artifact", peak) for peak in artifact]
    replicates = [latency_replicate(replicate=number, memory=peak) for number, peak in enumerate(peaks, start=1)]
    evidence, _ = gather(
        "cnd_a",
        source="evaluation",
        original=timed(replicates, "original"),
        artifact=[],
        scores={"original": {}, "artifact": {}},
        latency=replicates,
    )
    return evidence


@pytest.mark.parametrize(("limit", "expected"), [(12_000_000, "met"), (10_050_000, "undecided"), (9_000_000, "missed")])
def test_memory_is_judged_by_its_scatter(limit: int, expected: Gate) -> None:
    evidence = with_peaks([9_800_000, 10_000_000, 10_200_000])
    verdict = judge_one(evidence, metric="peak_memory", max=limit)
    assert (verdict.verdict, verdict.value) == (expected, 10_000_000)
    assert verdict.ci is not None
    assert verdict.ci[0] < 10_000_000 < verdict.ci[1]


def test_memory_near_nothing_has_bounds_too() -> None:
    verdict = judge_one(with_peaks([0, 0, 400_000]), metric="memory", max=1e5)
    assert verdict.verdict == "undecided"
    assert verdict.ci is not None
    assert verdict.ci[0] == 0
    assert verdict.ci[1] > 400_000


def test_memory_is_compared_across_its_processes() -> None:
    evidence = with_peaks([4_900_000, 5_000_000, 5_200_000], [10_000_000, 9_900_000, 10_100_000])
    found = evidence.comparison("peak_memory")
    assert found is not None
    assert (found.ratio, found.children) == (pytest.approx(0.5, abs=0.02), 3)
    assert found.ci95 is not None
    assert found.ci95[0] < 0.5 < found.ci95[1] < 1


def test_only_what_one_process_measured_is_said_to_scatter() -> None:
    unknown = "its scatter is unknown"
    assert unknown in judge_one(with_peaks([10_000_000]), metric="memory", max=1e8).reason
    evidence = of_children()
    size = evidence.artifact["artifact_bytes"].model_copy(update={"count": 1})
    evidence = Evidence("evaluation", evidence.original, {**evidence.artifact, "artifact_bytes": size})
    assert unknown not in judge_one(evidence, metric="size", max=1e6).reason


def test_one_row_decides_nothing() -> None:
    verdict = judge_one(of_scores("cosine", np.array([[0.999]])), metric="cosine", min=0.9)
    assert verdict.verdict == "undecided"
    assert verdict.rows_needed is None
    assert "One row" in verdict.reason
    assert verdict.ci is None or all(math.isfinite(end) for end in verdict.ci)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        ([], "none"),
        (["met", "met"], "met"),
        (["met", "undecided"], "undecided"),
        (["undecided", "missed", "met"], "missed"),
        (["missed"], "missed"),
    ],
)
def test_the_overall_gate(verdicts: Sequence[Gate], expected: Gate) -> None:
    assert overall(verdicts) == expected


def test_without_a_goal_or_constraints_there_is_no_gate() -> None:
    assert judge_goal(None, of_children()) == ("none", ())
    assert judge_goal(Goal(), of_children()) == ("none", ())


def test_a_goal_is_judged_at_its_own_confidence() -> None:
    original, artifact = paired(560, 3, 2, 35)
    evidence = of_scores("top1", artifact, original)
    constraint = Constraint(metric="top1", max_drop=0.008)
    assert judge_goal(Goal(constraints=(constraint,), confidence=0.7), evidence)[0] == "met"
    assert judge_goal(Goal(constraints=(constraint,), confidence=0.99), evidence)[0] == "undecided"


def test_a_drop_has_its_p_value_and_where_rows_are_too_few_how_many_would_show_it() -> None:
    original, artifact = paired(262, 6, 5, 27)
    verdict = judge_one(of_scores("top1", artifact, original), metric="top1", max_drop=0.005)
    assert verdict.verdict == "undecided"
    assert verdict.p_value == pytest.approx(1.0)
    # 11 of 300 rows differ: (1.645 + 0.842)² · 0.0367 / 0.005² rows.
    assert "300 rows cannot show 0.5 points: about 9,0" in verdict.reason
    lost, kept = paired(200, 30, 2, 68)
    assert (judge_one(of_scores("top1", kept, lost), metric="top1", max_drop=0.01).p_value or 1) < 1e-5
    assert judge_one(of_scores("top1", artifact, original), metric="top1", min=0.5).p_value is None


def test_rows_in_groups_decide_later() -> None:
    """The same rows, of which four each are of one photograph that is lost or kept as a whole."""
    original, artifact = paired(1200, 8, 0, 92)
    alone = of_scores("top1", artifact, original)
    groups = np.arange(1300) // 4
    scores = {name: Scores(values, groups=groups) for name, values in (("o", original), ("a", artifact))}
    together = Evidence(
        "evaluation",
        {},
        alone.artifact,
        original_scores={"top1": scores["o"]},
        artifact_scores={"top1": scores["a"]},
    )
    for evidence, expected in ((alone, "met"), (together, "undecided")):
        assert judge_one(evidence, metric="top1", max_drop=0.013).verdict == expected


def test_the_greatest_error_is_never_bounded_from_above() -> None:
    evidence = of_set("max_error", np.linspace(0, 0.5, 100)[:, np.newaxis])
    assert judge_one(evidence, metric="max_error", max=0.4).verdict == "missed"
    verdict = judge_one(evidence, metric="max_error", max=0.6)
    assert verdict.verdict == "undecided"
    assert "No number of rows bounds it" in verdict.reason


def of_set(name: str, artifact: Floats) -> Evidence:
    value = float(artifact.max())
    return Evidence("evaluation", {}, {name: measurement(name, value)}, artifact_scores={name: Scores(artifact)})
