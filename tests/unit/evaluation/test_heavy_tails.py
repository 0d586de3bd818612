"""Numbers that a few rows carry say so, wherever they go: measurements, drops and the gate's reasons."""

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain.goal import Constraint
from app.domain.metric import MetricChoice
from workers.evaluation.accuracy import judge_all
from workers.evaluation.bounds import HEAVY_TAIL, TWO_SIDED_95, drop_bounds, metric_bounds
from workers.evaluation.evidence import Evidence
from workers.evaluation.gate import judge_constraint
from workers.evaluation.paired import paired_drops
from workers.evaluation.scores import Scores

ROWS = 200
Floats = NDArray[np.float64]


def errors(heavy: bool, seed: int = 1) -> Floats:
    rng = np.random.default_rng(seed)
    return np.abs(rng.standard_cauchy(ROWS)) if heavy else np.abs(rng.standard_normal(ROWS))


@pytest.mark.parametrize("heavy", [True, False])
def test_a_measurement_is_flagged_beside_the_flags_that_it_has(heavy: bool) -> None:
    outputs = {"y": errors(heavy)[:, np.newaxis].astype(np.float32)}
    [found] = judge_all(
        [MetricChoice(name="mae")], outputs, output="y", labels={"labels": np.zeros(ROWS)}, flags=("synthetic",)
    ).measurements
    assert found.flags == (("synthetic", HEAVY_TAIL) if heavy else ("synthetic",))
    assert found.ci95 is not None


@pytest.mark.parametrize("heavy", [True, False])
def test_a_drop_is_flagged(heavy: bool) -> None:
    before = {"mae": Scores(errors(False)[:, np.newaxis])}
    after = {"mae": Scores(errors(False)[:, np.newaxis] + errors(heavy, 2)[:, np.newaxis])}
    [drop] = paired_drops(before, after)
    assert drop.flags == ((HEAVY_TAIL,) if heavy else ())


@pytest.mark.parametrize("heavy", [True, False])
def test_a_verdict_says_so(heavy: bool) -> None:
    scores = Scores(errors(heavy)[:, np.newaxis])
    [measured] = judge_all(
        [MetricChoice(name="mae")],
        {"y": errors(heavy)[:, np.newaxis].astype(np.float32)},
        output="y",
        labels={"labels": np.zeros(ROWS)},
    ).measurements
    evidence = Evidence(
        source="evaluation",
        original={},
        artifact={"mae": measured},
        original_scores={},
        artifact_scores={"mae": scores},
    )
    [verdict] = judge_constraint(Constraint(metric="mae", max=100.0), evidence, 0.95)
    assert ("a few rows carry most of it" in verdict.reason) == heavy


def test_a_drop_from_the_ideal_is_as_heavy_as_the_value() -> None:
    for heavy in (True, False):
        scores = Scores(errors(heavy)[:, np.newaxis])
        assert metric_bounds("kl", scores, TWO_SIDED_95).heavy_tail is heavy
        assert drop_bounds("kl", None, scores, TWO_SIDED_95).heavy_tail is heavy


def test_views_of_a_photograph_are_one_draw_for_it_too() -> None:
    """Four equal views are not four rows that tell of a tail."""
    scores = Scores(np.repeat(errors(True), 4)[:, np.newaxis], groups=np.repeat(np.arange(ROWS), 4))
    assert metric_bounds("mae", scores, TWO_SIDED_95).heavy_tail


def test_shares_of_rows_have_no_tail() -> None:
    rng = np.random.default_rng(3)
    rows = (rng.random((ROWS, 1)) < 0.01).astype(float)
    assert not metric_bounds("top1", Scores(rows), TWO_SIDED_95).heavy_tail
    parts = np.stack([np.round(errors(True)), np.full(ROWS, 50.0)], axis=1)
    assert not metric_bounds("cer", Scores(parts), TWO_SIDED_95).heavy_tail
