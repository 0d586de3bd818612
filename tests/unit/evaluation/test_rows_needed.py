"""The number of rows that would decide, against simulation."""

import numpy as np
import pytest

from workers.evaluation.statistics.proportions import Pairs, drop_bounds
from workers.evaluation.statistics.rows_needed import POWER, rows_needed


def needed_for(pairs: Pairs, limit: float) -> int | None:
    error = float(np.sqrt(((pairs.lost + pairs.gained) / pairs.rows - pairs.drop**2) / pairs.rows))

    def reach(factor: float) -> float:
        lower, upper = drop_bounds(pairs.scaled(factor), 0.95)
        return upper - pairs.drop if limit > pairs.drop else pairs.drop - lower

    return rows_needed(pairs.rows, abs(limit - pairs.drop), error, 0.95, reach)


@pytest.mark.parametrize(
    ("pairs", "limit"), [(Pairs(262, 6, 5, 27), 0.01), (Pairs(180, 2, 2, 16), 0.02), (Pairs(250, 12, 3, 35), 0.01)]
)
def test_so_many_rows_decide_about_four_times_in_five(pairs: Pairs, limit: float) -> None:
    needed = needed_for(pairs, limit)
    assert needed is not None
    assert needed > pairs.rows
    rng = np.random.default_rng(31)
    rates = np.array([pairs.both, pairs.lost, pairs.gained, pairs.neither]) / pairs.rows
    trials = 400
    decided = 0
    for draw in rng.multinomial(needed, rates, size=trials):
        lower, upper = drop_bounds(Pairs(*(int(count) for count in draw)), 0.95)
        decided += upper <= limit or lower > limit
    assert decided / trials == pytest.approx(POWER, abs=0.08)


def test_without_disagreement_the_score_interval_tells() -> None:
    """The standard error is zero, yet 100 rows cannot show one point: z²/(n + z²) ≤ 0.01 from 268 rows on."""
    needed = needed_for(Pairs(100, 0, 0, 0), 0.01)
    assert needed is not None
    assert 268 <= needed <= 290


def test_an_effect_at_the_limit_is_never_decided() -> None:
    assert needed_for(Pairs(90, 2, 1, 7), 0.01) is None
    assert rows_needed(100, 1e-9, 0.1, 0.95) is None


def test_fewer_rows_are_needed_the_farther_the_limit() -> None:
    near, far = rows_needed(300, 0.002, 0.01, 0.95), rows_needed(300, 0.008, 0.01, 0.95)
    assert near is not None
    assert far is not None
    assert near == pytest.approx(16 * far, rel=0.01)
