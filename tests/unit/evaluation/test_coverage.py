"""Intervals hold the truth as often as they say: a quick part of `python -m benchmarks.coverage`.

The leave is three standard errors of so few trials. Intervals that take the views of a photograph for rows of their
own, or a rare event for none, miss it by far, which the last tests show.
"""

import math

import numpy as np
import pytest

from benchmarks.coverage import LEAST, POPULATIONS, Population, clopper_pearson, simulate
from workers.evaluation.bounds import TWO_SIDED_95, drop_bounds, metric_bounds
from workers.evaluation.metrics import arithmetic
from workers.evaluation.scores import Scores
from workers.evaluation.statistics import means
from workers.evaluation.statistics.linear import scatter_of

TRIALS = 200
LEAVE = 3 * math.sqrt(LEAST * (1 - LEAST) / TRIALS)
WIDEST = 1.3
CHOSEN = (
    ("top1", "nine in ten"),
    ("top1", "near 1"),
    ("f1", "rare classes"),
    ("balanced_accuracy", "rare classes"),
    ("worst_class", "rare classes"),
    ("auc", "even"),
    ("auc", "rare positives"),
    ("ece", "calibrated"),
    ("mae", "normal errors"),
    ("pearson", "0.9"),
    ("spearman", "ranks of five"),
    ("token_accuracy", "near 1"),
    ("perplexity", "uneven texts"),
    ("miou", "five classes"),
    ("kl", "loud rows"),
)


def population(metric: str, name: str) -> Population:
    """The population, with a smaller set for its truth."""
    found = next(one for one in POPULATIONS if (one.metric, one.name) == (metric, name))
    return Population(found.metric, found.name, found.draw, found.options, found.exact, min(found.truth_rows, 200_000))


@pytest.mark.parametrize("views", [1, 4])
@pytest.mark.parametrize(("metric", "name"), CHOSEN)
def test_intervals_cover(metric: str, name: str, views: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(means, "_RESAMPLES", 300)  # coverage does not suffer; a single interval would
    value, drop = simulate(population(metric, name), 140, views, TRIALS)
    assert value.coverage > LEAST - LEAVE
    assert drop.coverage > LEAST - LEAVE
    if value.exact is not None and name not in ("rare positives", "loud rows"):  # where the exact one does not cover
        assert value.width < WIDEST * value.exact


def test_every_metric_has_a_population() -> None:
    from app.domain.metric import METRICS

    assert {one.metric for one in POPULATIONS} == set(METRICS)


def test_views_taken_for_rows_of_their_own_would_be_seen() -> None:
    """The same intervals without the groups miss far more often than the leave above allows."""
    rows = population("top1", "nine in ten")
    rng = np.random.default_rng(3)
    truth = float(rows.draw(rng, 400_000, 1)[0].mean())
    held = 0
    for _ in range(TRIALS):
        found = metric_bounds("top1", Scores(rows.draw(rng, 140, 4)[0]), TWO_SIDED_95)
        held += found.lower <= truth <= found.upper
    assert held / TRIALS < LEAST - LEAVE


def test_a_drop_that_no_row_shows_is_not_certain() -> None:
    """Without a row that differs, up to z² / (n + z²) of them may: for any metric between 0 and 1."""
    labels, chosen = np.repeat(np.arange(4.0), 25), np.repeat(np.arange(4.0), 25)
    chosen[::10] = (chosen[::10] + 1) % 4
    scores = Scores(np.stack([labels, chosen], axis=1))
    for name in ("f1", "balanced_accuracy", "worst_class"):
        found = drop_bounds(name, scores, scores, TWO_SIDED_95)
        assert found.value == 0
        assert found.lower < -0.03
        assert found.upper > 0.03


def test_an_area_has_delongs_error_of_independent_rows() -> None:
    """Against the definition: placements of each row among all of the other class."""
    rng = np.random.default_rng(5)
    labels = np.repeat([0, 1], [70, 50])
    scores = np.round(rng.standard_normal(120) + labels, 1)
    positive, negative = scores[labels == 1], scores[labels == 0]
    wins = (positive[:, np.newaxis] > negative) + 0.5 * (positive[:, np.newaxis] == negative)
    variance = wins.mean(axis=1).var(ddof=1) / 50 + wins.mean(axis=0).var(ddof=1) / 70
    metric = arithmetic("auc", {"scores": "logits"})
    assert not hasattr(metric, "means")
    records = np.stack([labels.astype(float), scores], axis=1)
    found = scatter_of(metric.linearise(records, None))  # type: ignore[union-attr]
    assert found.error == pytest.approx(math.sqrt(float(variance)), rel=0.01)


def test_a_rate_of_none_and_one_in_thousands_is_held() -> None:
    """Wilson's interval alone holds 0.15 events in all rows in 86 % of sets: one event puts its lower bound at 0.18."""
    rng, held = np.random.default_rng(6), 0
    for _ in range(2000):
        rows = (rng.random(140) > 0.15 / 140).astype(float)[:, np.newaxis]
        found = metric_bounds("top1", Scores(rows), TWO_SIDED_95)
        held += found.lower <= 1 - 0.15 / 140 <= found.upper
        if rows.mean() == 1 - 1 / 140:
            assert found.upper - found.lower < WIDEST * clopper_pearson(rows)
    assert held / 2000 > 0.95
