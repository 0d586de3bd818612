"""Drops of what the task asks for, paired by rows."""

import numpy as np
import pytest

from workers.evaluation.bounds import TWO_SIDED_95, drop_bounds
from workers.evaluation.paired import paired_drops
from workers.evaluation.scores import Scores

RNG = np.random.default_rng(5)


def right(share: float, rows: int = 200) -> np.ndarray:
    return (RNG.random((rows, 1)) < share).astype(np.float64)


def kept(**scores: np.ndarray) -> dict[str, Scores]:
    return {name: Scores(values) for name, values in scores.items()}


def test_the_drop_is_that_of_the_rows_and_its_interval_the_gate_s() -> None:
    before = right(0.9)
    after = before.copy()
    after[:30] = 0

    (drop,) = paired_drops(kept(top1=before), kept(top1=after))

    assert drop.metric == "top1"
    assert drop.value == pytest.approx(before[:30].mean() * 30 / 200)
    expected = drop_bounds("top1", Scores(before), Scores(after), TWO_SIDED_95)
    assert drop.ci95 == (expected.lower, expected.upper)


def test_pairing_is_what_makes_it_narrow() -> None:
    """Two models that are wrong on the same rows, against two that are wrong on any."""
    before = right(0.7, 2000)
    alike = before.copy()
    alike[:20] = 1 - alike[:20]
    shuffled = RNG.permutation(alike)

    (near,), (far,) = (paired_drops(kept(top1=before), kept(top1=after)) for after in (alike, shuffled))

    assert near.value == pytest.approx(far.value)
    assert near.ci95[1] - near.ci95[0] < (far.ci95[1] - far.ci95[0]) / 4


def test_fidelity_has_no_drop_of_its_own() -> None:
    scores = right(0.9)

    assert paired_drops(kept(agreement=scores, top1=scores), kept(agreement=scores)) == []


@pytest.mark.parametrize("original", [{}, {"top1": right(0.9, 100)}])
def test_other_rows_or_none_are_no_pair(original: dict[str, np.ndarray]) -> None:
    assert paired_drops(kept(**original), kept(top1=right(0.9, 200))) == []
