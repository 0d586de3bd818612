"""Rows of one origin are one draw; the slice that loses most is told with all slices in mind."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from app.domain.metric import MetricChoice
from app.domain.sample_size import rows_to_show
from workers.evaluation.accuracy import judge_all
from workers.evaluation.bounds import drop_bounds, metric_bounds
from workers.evaluation.scores import Scores, read_scores, save_scores
from workers.evaluation.slices import LEAST_ROWS, named_slices, slices_of_labels, worst_slice
from workers.evaluation.statistics.clustered_shares import design_effect
from workers.evaluation.statistics.clusters import codes_of, group_sums
from workers.evaluation.statistics.proportions import Pairs, clopper_pearson, mcnemar
from workers.evaluation.statistics.proportions import drop_bounds as pair_bounds

RNG = np.random.default_rng(1)


def shares(*right: float, rows: int = 100) -> np.ndarray:
    """So many shares of right rows, one after the other."""
    return np.concatenate([np.arange(rows) < round(share * rows) for share in right]).astype(float)[:, np.newaxis]


def test_groups_are_numbered_by_numbers_or_texts() -> None:
    assert codes_of(np.array(["b", "a", "b"])).tolist() == [1, 0, 1]
    assert codes_of(np.array([7, -2, 7])).tolist() == [1, 0, 1]
    assert group_sums(np.array([[1.0, 2], [3, 4], [5, 6]]), np.array([1, 0, 1])).tolist() == [[3, 4], [6, 8]]


def test_the_design_effect_is_kishs() -> None:
    """1 + (m - 1)·ρ for groups of m rows with the intra-class correlation ρ."""
    groups = np.repeat(np.arange(20_000), 4)
    together = RNG.random(80_000) < np.sqrt(0.5)
    values = np.where(together, np.repeat(RNG.random(20_000), 4), RNG.random(80_000)) < 0.7
    right = values.astype(float)
    assert design_effect(right - right.mean(), groups, 24_000, 0.975) == pytest.approx(1 + 3 * 0.5, rel=0.03)
    alone = (RNG.random(80_000) < 0.7).astype(float)
    assert design_effect(alone - alone.mean(), groups, 24_000, 0.975) == pytest.approx(1, rel=0.03)


def test_few_events_are_taken_for_those_of_whole_groups() -> None:
    groups = np.repeat(np.arange(50), 4)
    assert design_effect(np.zeros(200), groups, 0, 0.975) == 4
    right = np.ones(200)
    right[7] = 0
    assert 3 < design_effect(right - right.mean(), groups, 1, 0.975) < 4


@pytest.mark.parametrize("name", ["top1", "balanced_accuracy", "mae", "spearman", "token_accuracy"])
def test_views_that_are_alike_widen_every_interval(name: str) -> None:
    rows, rng = 200, np.random.default_rng(1)
    labels = np.repeat(rng.integers(0, 3, rows // 4), 4).astype(float)
    wrong = np.repeat(rng.random(rows // 4) < 0.2, 4)
    records = {
        "top1": (~wrong).astype(float)[:, np.newaxis],
        "balanced_accuracy": np.stack([labels, np.where(wrong, (labels + 1) % 3, labels)], axis=1),
        "mae": np.repeat(rng.random(rows // 4), 4)[:, np.newaxis],
        "spearman": np.repeat(rng.random((rows // 4, 2)), 4, axis=0),
        "token_accuracy": np.stack([9.0 - wrong, np.full(rows, 9.0)], axis=1),
    }[name]
    groups = np.repeat(np.arange(rows // 4), 4)
    alone, together = (metric_bounds(name, Scores(records, groups=each), 0.975) for each in (None, groups))
    assert together.value == pytest.approx(alone.value)
    assert 1.6 < (together.upper - together.lower) / (alone.upper - alone.lower) < 3.5
    shifted = records.copy()
    shifted[:4] = records[4:8]
    single, drop = (
        drop_bounds(name, Scores(records, groups=each), Scores(shifted, groups=each), 0.975) for each in (None, groups)
    )
    assert drop.upper - drop.lower > single.upper - single.lower


def test_groups_and_slices_come_with_the_labels() -> None:
    logits = RNG.standard_normal((80, 3))
    labels = np.where(RNG.random(80) < 0.8, logits.argmax(axis=1), 0)
    arrays = {"labels": labels, "groups": np.repeat([f"photo{n}" for n in range(20)], 4), "slices": np.arange(80) % 2}
    found = judge_all([MetricChoice(name="top1")], {"y": logits}, output="y", labels=arrays)
    plain = judge_all([MetricChoice(name="top1")], {"y": logits}, output="y", labels={"labels": labels})
    [with_groups], [without] = found.measurements, plain.measurements
    assert with_groups.conditions["groups"] == 20
    assert with_groups.value == without.value
    assert with_groups.ci95 is not None
    assert without.ci95 is not None
    assert with_groups.ci95[1] - with_groups.ci95[0] > without.ci95[1] - without.ci95[0]
    assert found.scores["top1"].slice_names == ("0", "1")
    assert plain.scores["top1"].slice_names == ("class 0", "class 1", "class 2")


def test_groups_of_one_row_each_are_rows() -> None:
    arrays = {"labels": np.zeros(10, int), "groups": np.arange(10)}
    found = judge_all([MetricChoice(name="top1")], {"y": np.eye(10)[:, :3]}, output="y", labels=arrays)
    assert found.scores["top1"].groups is None


def test_scores_come_back_with_all_that_they_know(tmp_path: Path) -> None:
    kept = Scores(np.eye(4), {"bins": 5}, np.array([0, 0, 1, 1]), np.array([1, 0, 1, 0]), ("a", "b"))
    save_scores(tmp_path, {"ece": kept, "mae": Scores(np.ones((3, 1)))})
    read = read_scores(tmp_path)
    assert set(read) == {"ece", "mae"}
    found = read["ece"]
    assert (found.options, found.slice_names) == ({"bins": 5}, ("a", "b"))
    assert found.groups is not None
    assert found.slices is not None
    assert (found.groups.tolist(), found.slices.tolist()) == ([0, 0, 1, 1], [1, 0, 1, 0])
    assert np.array_equal(found.values, np.eye(4))
    assert read["mae"].groups is None


def test_the_worst_slice_is_named_with_bounds_for_all() -> None:
    slices = np.repeat(["day", "night", "rain"], 100)
    original = named_slices(Scores(shares(0.9, 0.9, 0.9)), slices)
    artifact = named_slices(Scores(shares(0.9, 0.7, 0.88)), slices)
    worst = worst_slice("top1", original, artifact, 0.95)
    assert worst is not None
    assert (worst.slice, worst.rows, worst.looked_at) == ("night", 100, 3)
    assert worst.drop == pytest.approx(0.2)
    assert worst.ci == pytest.approx(pair_bounds(Pairs(70, 20, 0, 10), 1 - 0.05 / 3))


def test_bounds_of_the_worst_of_twenty_slices_hold_though_it_was_looked_for() -> None:
    """No slice drops in truth: the bounds of the one that seems to must still hold 0, at 95 %."""
    rng, held, plain = np.random.default_rng(9), 0, 0
    slices = np.repeat(np.arange(20), 40)
    for _ in range(300):
        original, artifact = ((rng.random(800) < 0.8).astype(float)[:, np.newaxis] for _ in range(2))
        first, second = named_slices(Scores(original), slices), named_slices(Scores(artifact), slices)
        worst = worst_slice("top1", first, second, 0.95)
        assert worst is not None
        held += worst.ci[0] <= 0
        rows = slices == int(worst.slice)
        plain += drop_bounds("top1", first.of(rows), second.of(rows), 0.95).lower <= 0
    assert held / 300 > 0.92
    assert plain / 300 < 0.7, "without the adjustment the worst of twenty would seem to drop"


def test_slices_of_few_rows_and_of_no_value_are_left_out() -> None:
    slices = np.repeat(["a", "b"], [200 - LEAST_ROWS + 1, LEAST_ROWS - 1])
    scores = named_slices(Scores(shares(0.9, 0.9)), slices)
    assert worst_slice("top1", scores, scores, 0.95) is None
    labels = np.repeat([0, 1], 100)
    records = slices_of_labels(Scores(np.stack([labels, labels], axis=1).astype(float)), labels)
    assert records.slice_names == ("class 0", "class 1")
    assert worst_slice("f1", records, records, 0.95) is None  # a slice of one class has no f1


@given(drop=st.floats(0.001, 0.2), discordance=st.floats(0.0, 0.5), confidence=st.sampled_from([0.8, 0.95, 0.99]))
def test_more_rows_are_needed_for_less_and_with_more_that_differs(
    drop: float, discordance: float, confidence: float
) -> None:
    needed = rows_to_show(drop, discordance, confidence)
    assert needed is not None
    assert needed <= (rows_to_show(drop / 2, discordance, confidence) or np.inf)
    assert needed <= (rows_to_show(drop, discordance + 0.1, confidence) or np.inf)
    assert needed <= (rows_to_show(drop, discordance, confidence, design_effect=2) or np.inf)


def test_so_many_rows_show_the_drop_four_times_in_five() -> None:
    """Simulated: an artifact that is as good as the original, 1.66 % of the rows differ, half a point is asked for."""
    needed = rows_to_show(0.005, 0.0166, 0.95)
    assert needed is not None
    assert 4_000 < needed < 4_200
    rng = np.random.default_rng(3)
    shown = 0
    for both, lost, gained, neither in rng.multinomial(needed, [0.9, 0.0083, 0.0083, 0.0834], 500):
        shown += pair_bounds(Pairs(both, lost, gained, neither), 0.95)[1] <= 0.005
    assert shown / 500 == pytest.approx(0.8, abs=0.06)
    few = [Pairs(*map(int, draw)) for draw in rng.multinomial(300, [0.9, 0.0083, 0.0083, 0.0834], 200)]
    assert sum(pair_bounds(pairs, 0.95)[1] <= 0.005 for pairs in few) < 50  # only where luck gained some


def test_without_a_drop_there_is_no_number_of_rows() -> None:
    with pytest.raises(ValueError, match="no drop"):
        rows_to_show(0, 0.1, 0.95)
    assert rows_to_show(1e-9, 0.1, 0.95) is None


@given(lost=st.integers(0, 40), gained=st.integers(0, 40))
def test_mcnemar_is_scipys_exact_binomial_test(lost: int, gained: int) -> None:
    expected = binomtest(lost, lost + gained, 0.5).pvalue if lost + gained else 1.0
    assert mcnemar(Pairs(50, lost, gained, 9)) == pytest.approx(expected)


@given(rows=st.integers(1, 500), share=st.floats(0, 1), confidence=st.sampled_from([0.9, 0.975, 0.995]))
def test_clopper_and_pearsons_bounds_are_scipys(rows: int, share: float, confidence: float) -> None:
    right = round(share * rows)
    expected = binomtest(right, rows).proportion_ci(2 * confidence - 1, method="exact")
    assert clopper_pearson(right / rows, rows, confidence) == pytest.approx((expected.low, expected.high), abs=1e-9)
