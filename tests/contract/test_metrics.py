"""The catalogue of metrics and the files that compute them are one to one, and every metric keeps its word."""

import pkgutil

import numpy as np
import pytest
from numpy.typing import NDArray

from app.domain.metric import ALWAYS, METRICS
from workers.evaluation import metrics
from workers.evaluation.accuracy import judge
from workers.evaluation.bounds import drop_bounds
from workers.evaluation.metrics import row_metric
from workers.evaluation.metrics.definition import Rows

ROWS = 300


def logits(noise: float) -> NDArray[np.float32]:
    clean = 2 * np.random.default_rng(1).standard_normal((ROWS, 12))
    return np.asarray(clean + noise * np.random.default_rng(2).standard_normal((ROWS, 12)), np.float32)


LABELS = logits(0.4).argmax(axis=1)


def rows(noise: float) -> Rows:
    return Rows(logits(noise), logits(0), LABELS)


def value_of(name: str, noise: float) -> float:
    metric = row_metric(name)
    return float(metric.value(metric.score(rows(noise)).mean(axis=0)))


def test_one_file_for_each_metric_and_no_other() -> None:
    files = {module.name for module in pkgutil.iter_modules(metrics.__path__)} - {"definition"}
    assert files == set(METRICS)
    assert set(ALWAYS) <= set(METRICS)


@pytest.mark.parametrize("name", METRICS)
class TestEveryMetric:
    def test_it_is_called_as_in_the_catalogue(self, name: str) -> None:
        assert row_metric(name).id == name == METRICS[name].id

    def test_it_scores_rows_in_float64(self, name: str) -> None:
        scores = row_metric(name).score(rows(0.5))
        assert scores.shape[0] == ROWS
        assert scores.ndim == 2
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()

    def test_a_row_scores_the_same_alone(self, name: str) -> None:
        everything, some = rows(0.5), slice(40, 47)
        assert everything.original is not None
        part = Rows(everything.artifact[some], everything.original[some], LABELS[some])
        metric = row_metric(name)
        assert metric.score(part) == pytest.approx(metric.score(everything)[some])

    def test_it_has_an_ideal_just_when_it_compares_with_the_original(self, name: str) -> None:
        metric = row_metric(name)
        assert (metric.ideal is not None) == METRICS[name].relative_to_original
        if metric.ideal is not None:
            assert value_of(name, 0) == pytest.approx(metric.ideal)

    def test_more_noise_is_worse_in_its_direction(self, name: str) -> None:
        near, far = value_of(name, 0.3), value_of(name, 3.0)
        assert far < near if METRICS[name].better == "higher" else far > near

    def test_worse_is_a_positive_drop_that_its_bounds_hold(self, name: str) -> None:
        metric = row_metric(name)
        original, artifact = metric.score(rows(0)), metric.score(rows(3.0))
        found = drop_bounds(name, original, artifact, 0.95)
        assert 0 < found.lower < found.value < found.upper

    def test_values_stay_in_its_range(self, name: str) -> None:
        least, most = row_metric(name).range
        assert least <= value_of(name, 3.0) <= most

    def test_it_needs_labels_as_it_says(self, name: str) -> None:
        [found] = judge([name], {"y": logits(1)}, output="y", original={"y": logits(0)}).measurements
        assert (found.method == "absent") == METRICS[name].needs_labels

    def test_a_share_is_all_or_nothing_in_rows_of_one_position(self, name: str) -> None:
        scores = row_metric(name).score(rows(1.0))
        assert METRICS[name].share == set(np.unique(scores)).issubset({0.0, 1.0})

    def test_values_of_many_means_at_once(self, name: str) -> None:
        metric = row_metric(name)
        means = metric.score(rows(1.0)).mean(axis=0)
        together = metric.value(np.stack([means, means * 0.5]))
        assert together.shape == (2,)
        assert together[0] == pytest.approx(float(metric.value(means)))
