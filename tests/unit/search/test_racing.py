"""Races on invented rows whose truth is known."""

import numpy as np
import pytest

from app.domain.goal import Constraint
from workers.evaluation.scores import Scores
from workers.search.racing import LEAST_ROWS, LOOKS, Standing, look

DROP = Constraint(metric="top1", max_drop=0.02)


def right(share: float, rows: int, rng: np.random.Generator) -> Scores:
    return Scores((rng.random(rows) < share).astype(float)[:, np.newaxis])


def worse(scores: Scores, drop: float, rng: np.random.Generator, noise: float = 0.02) -> Scores:
    """Rows that were right and are wrong, `noise` more of them than asked for, which as many others make up for."""
    values = scores.values[:, 0].copy()
    draws = rng.random(len(values))
    share = values.mean()
    lost = (values == 1) & (draws < (drop + noise) / share)
    won = (values == 0) & (draws < noise / (1 - share))
    values[lost], values[won] = 0, 1
    return Scores(values[:, np.newaxis])


def raced(
    constraints: list[Constraint], before: Scores, after: Scores, confidence: float = 0.95
) -> tuple[Standing, int]:
    for share in LOOKS:
        found = look(constraints, {"top1": before}, {"top1": after}, share=share, confidence=confidence)
        if found.standing != "open":
            break
    return found.standing, found.rows


@pytest.mark.parametrize(("drop", "wrong"), [(0.02, "out"), (0.0201, "through")])
def test_at_the_bound_a_race_errs_no_more_often_than_it_may(drop: float, wrong: Standing) -> None:
    rng = np.random.default_rng(0)
    races = 300
    ends = []
    for _ in range(races):
        before = right(0.8, 1000, rng)
        ends.append(raced([DROP], before, worse(before, drop, rng))[0])
    assert ends.count(wrong) / races < 0.08  # 0.05, and what chance adds to 300 races


def test_what_is_far_off_ends_at_the_first_look() -> None:
    rng = np.random.default_rng(1)
    before = right(0.8, 2000, rng)
    assert raced([DROP], before, worse(before, 0.15, rng)) == ("out", 500)
    assert raced([DROP], before, worse(before, 0.0, rng, noise=0.001)) == ("through", 500)


def test_one_bound_that_is_broken_is_enough_and_all_must_hold() -> None:
    rng = np.random.default_rng(2)
    before = right(0.8, 4000, rng)
    after = worse(before, 0.01, rng, noise=0.001)
    loose, broken = Constraint(metric="top1", min=0.5), Constraint(metric="top1", min=0.9)
    unknown = Constraint(metric="auc", max_drop=0.1)
    assert raced([DROP, loose], before, after)[0] == "through"
    assert raced([DROP, loose, broken], before, after)[0] == "out"
    assert raced([DROP, unknown], before, after)[0] == "open"
    assert raced([Constraint(metric="top1", max=0.5)], before, after)[0] == "out"
    assert raced([Constraint(metric="top1", min=0.7, max=0.9)], before, after)[0] == "through"


def test_a_look_sees_the_first_rows_alone() -> None:
    rng = np.random.default_rng(3)
    before = right(0.8, 1000, rng)
    after = Scores(np.where(np.arange(1000)[:, np.newaxis] < 250, before.values, 0.0))
    found = look([DROP], {"top1": before}, {"top1": after}, share=0.25, confidence=0.95)
    assert found.rows == 250
    assert found.found[0] is not None
    assert found.found[0].value == 0
    assert look([DROP], {"top1": before}, {"top1": after}, share=0.5, confidence=0.95).standing == "out"


def test_few_rows_decide_nothing_before_the_last_look() -> None:
    rows = 2 * LEAST_ROWS
    before, after = Scores(np.ones((rows, 1))), Scores(np.zeros((rows, 1)))
    assert look([DROP], {"top1": before}, {"top1": after}, share=0.25, confidence=0.95).standing == "open"
    assert look([DROP], {"top1": before}, {"top1": after}, share=1.0, confidence=0.95).standing == "out"


def test_without_bounds_everybody_is_through() -> None:
    assert look([], {}, {}, share=0.25, confidence=0.95).standing == "through"
