"""The catalogue of metrics and the files that compute them are one to one, and every metric keeps its word."""

import math
import pkgutil
from typing import Any

import numpy as np
import pytest
from jsonschema import Draft202012Validator
from numpy.typing import NDArray

from app.domain.metric import ALWAYS, METRICS, MetricChoice, metric_catalogue, named_outputs, options_of
from workers.evaluation import metrics
from workers.evaluation.accuracy import judge_all
from workers.evaluation.bounds import drop_bounds, metric_bounds
from workers.evaluation.metrics import arithmetic
from workers.evaluation.metrics.definition import RowMetric, Rows
from workers.evaluation.scores import Scores
from workers.evaluation.statistics.clusters import Floats
from workers.evaluation.statistics.means import linearise

ROWS, CLASSES, POSITIONS = 300, 12, 6
OPTIONS: dict[str, dict[str, Any]] = {
    "wer": {"separator": 0},
    "coco_map": {"scores": "scores", "classes": "classes", "format": "xywh"},
}


def noise_of(seed: int, *shape: int) -> NDArray[np.float64]:
    return np.random.default_rng(seed).standard_normal(shape)


def sample(name: str, noise: float) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    """Outputs, the first of them the one looked at, and labels of the kind that the metric takes."""
    kind = METRICS[name].labels
    if kind == "numbers":
        truth = noise_of(1, ROWS, 1)
        return {"y": truth + (0.1 + 0.3 * noise) * noise_of(2, ROWS, 1)}, truth[:, 0]
    if kind == "sequences":
        clean = 2 * noise_of(1, ROWS, POSITIONS, CLASSES)
        labels = (clean + 0.4 * noise_of(3, ROWS, POSITIONS, CLASSES)).argmax(axis=-1)
        labels[::3, 4:] = -100
        return {"y": clean + noise * noise_of(2, ROWS, POSITIONS, CLASSES)}, labels
    if kind == "keys":
        labels = np.arange(ROWS) % 20
        return {"y": noise_of(1, 20, 8)[labels] + (0.3 + 0.3 * noise) * noise_of(2, ROWS, 8)}, labels
    if kind == "masks":
        clean = 2 * noise_of(1, ROWS, 3, 8, 8)
        return {"y": clean + noise * noise_of(2, ROWS, 3, 8, 8)}, (clean + 0.4 * noise_of(3, ROWS, 3, 8, 8)).argmax(1)
    if kind == "objects":
        rng = np.random.default_rng(1)
        boxes = np.concatenate([rng.uniform(0, 300, (ROWS, 3, 2)), rng.uniform(30, 90, (ROWS, 3, 2))], axis=2)
        classes = rng.integers(0, 3, (ROWS, 3)).astype(float)
        found = boxes + (1 + 6 * noise) * noise_of(2, ROWS, 3, 4)
        labels = np.concatenate([classes[..., np.newaxis], boxes], axis=2)
        return {"y": found, "scores": rng.random((ROWS, 3)), "classes": classes}, labels
    clean = 2 * noise_of(1, ROWS, CLASSES)
    labels = (clean + 0.4 * noise_of(3, ROWS, CLASSES)).argmax(axis=1)
    return {"y": clean + noise * noise_of(2, ROWS, CLASSES)}, labels


def choice(name: str) -> MetricChoice:
    return MetricChoice(name=name, options=OPTIONS.get(name, {}))


def rows(name: str, noise: float) -> Rows:
    outputs, labels = sample(name, noise)
    return Rows(outputs["y"], sample(name, 0)[0]["y"], labels, {key: outputs[key] for key in outputs if key != "y"})


def scored(name: str, noise: float) -> Scores:
    return Scores(arithmetic(name, OPTIONS.get(name)).score(rows(name, noise)), OPTIONS.get(name, {}))


def value_of(name: str, values: Floats) -> float:
    metric = arithmetic(name, OPTIONS.get(name))
    if isinstance(metric, RowMetric):
        return float(metric.value(values.mean(axis=0)))
    return metric.linearise(values, None).value


def test_one_file_for_each_metric_and_no_other() -> None:
    files = {module.name for module in pkgutil.iter_modules(metrics.__path__)} - {"definition"}
    assert files == set(METRICS)
    assert set(ALWAYS) <= set(METRICS)


def test_the_catalogue_has_a_schema_for_the_options_of_each() -> None:
    for entry in metric_catalogue():
        Draft202012Validator.check_schema(entry["schema"])
        validator = Draft202012Validator(entry["schema"])
        assert validator.is_valid(OPTIONS.get(entry["id"], {}))
        assert not validator.is_valid({"no_such_option": 1})
        assert all("description" in option for option in entry["schema"]["properties"].values())


@pytest.mark.parametrize("name", METRICS)
class TestEveryMetric:
    def test_it_is_called_as_in_the_catalogue(self, name: str) -> None:
        assert arithmetic(name, OPTIONS.get(name)).id == name == METRICS[name].id

    def test_it_scores_rows_in_float64(self, name: str) -> None:
        scores = arithmetic(name, OPTIONS.get(name)).score(rows(name, 0.5))
        assert scores.shape[0] == ROWS
        assert scores.ndim == 2
        assert scores.dtype == np.float64
        assert np.isfinite(scores).all()

    def test_a_row_scores_the_same_alone_unless_it_takes_all(self, name: str) -> None:
        everything, some = rows(name, 0.5), slice(40, 47)
        assert everything.original is not None
        metric = arithmetic(name, OPTIONS.get(name))
        others = {key: values[some] for key, values in everything.others.items()}
        labels = None if everything.labels is None else everything.labels[some]
        part = Rows(everything.artifact[some], everything.original[some], labels, others)
        same = metric.score(part).shape == metric.score(everything)[some].shape and np.allclose(
            metric.score(part), metric.score(everything)[some]
        )
        assert same or metric.whole

    def test_it_has_an_ideal_just_when_it_compares_with_the_original(self, name: str) -> None:
        metric = arithmetic(name, OPTIONS.get(name))
        assert (metric.ideal is not None) == METRICS[name].relative_to_original
        if metric.ideal is not None:
            assert value_of(name, scored(name, 0).values) == pytest.approx(metric.ideal)
        # The cap on decibels is no best value: it stands for there being none.
        assert METRICS[name].ideal == (None if name == "sqnr_db" else metric.ideal)

    def test_only_an_extreme_has_no_upper_end(self, name: str) -> None:
        upper = metric_bounds(name, scored(name, 0.5), 0.975).upper
        assert math.isinf(upper) == METRICS[name].extreme

    def test_more_noise_is_worse_in_its_direction(self, name: str) -> None:
        near, far = value_of(name, scored(name, 0.3).values), value_of(name, scored(name, 3.0).values)
        assert far < near if METRICS[name].better == "higher" else far > near

    def test_worse_is_a_positive_drop_that_its_bounds_hold(self, name: str) -> None:
        found = drop_bounds(name, scored(name, 0), scored(name, 3.0), 0.95)
        assert found.value > 0
        assert found.lower <= found.value <= found.upper
        assert found.lower < found.upper
        # Twelve classes, and fifteen bins, of 300 rows are not known well enough for a drop that is certain.
        assert found.lower > 0 or name in ("worst_class", "ece")

    def test_values_stay_in_its_range(self, name: str) -> None:
        least, most = arithmetic(name, OPTIONS.get(name)).range
        found = metric_bounds(name, scored(name, 3.0), 0.975)
        assert least <= found.lower <= found.value <= found.upper <= most

    def test_it_needs_labels_as_it_says(self, name: str) -> None:
        outputs, original = sample(name, 1)[0], sample(name, 0)[0]
        [found] = judge_all([choice(name)], outputs, output="y", original=original).measurements
        assert (found.method == "absent") == METRICS[name].needs_labels
        assert found.reason == "the rows have no labels" or not METRICS[name].needs_labels

    def test_a_share_is_all_or_nothing(self, name: str) -> None:
        values = scored(name, 1.0).values
        assert not METRICS[name].share or (values.shape[1] == 1 and set(np.unique(values)) <= {0.0, 1.0})

    def test_values_of_many_means_at_once(self, name: str) -> None:
        metric = arithmetic(name, OPTIONS.get(name))
        if not isinstance(metric, RowMetric):
            influence = metric.linearise(scored(name, 1.0).values, None).influence
            assert influence.shape == (ROWS,)
            assert influence.mean() == pytest.approx(0, abs=1e-9 * max(1.0, float(np.abs(influence).max())))
            return
        means = metric.score(rows(name, 1.0)).mean(axis=0)
        together = metric.value(np.stack([means, means * 0.5]))
        assert together.shape == (2,)
        assert together[0] == pytest.approx(float(metric.value(means)))

    def test_groups_of_rows_that_are_all_alike_tell_no_more_than_one_row_each(self, name: str) -> None:
        once = scored(name, 1.0)
        groups = np.repeat(np.arange(ROWS), 4)
        four_times = Scores(np.repeat(once.values, 4, axis=0), once.options, groups)
        alone, together = metric_bounds(name, once, 0.975), metric_bounds(name, four_times, 0.975)
        assert together.value == pytest.approx(alone.value)
        if np.isfinite(alone.upper):
            wide, same = together.upper - together.lower, alone.upper - alone.lower
            assert 0.9 * same < wide < 1.35 * same

    def test_one_row_and_rows_that_do_not_differ_crash_nothing(self, name: str) -> None:
        for count in (1, 2):
            outputs, labels = sample(name, 1.0)
            cut = {key: np.repeat(values[:1], count, axis=0) for key, values in outputs.items()}
            arrays = {} if labels is None else {"labels": np.repeat(labels[:1], count, axis=0)}
            [found] = judge_all([choice(name)], cut, output="y", original=cut, labels=arrays).measurements
            assert found.value is not None or found.reason
            assert found.value is None or found.ci95 is None or found.ci95[0] <= found.value <= found.ci95[1]

    def test_an_output_that_is_not_finite_is_no_silent_number(self, name: str) -> None:
        outputs, labels = sample(name, 0.3)
        whole = value_of(name, scored(name, 0.3).values)
        outputs["y"][::2] = np.nan
        arrays = {} if labels is None else {"labels": labels}
        original = sample(name, 0)[0]
        [found] = judge_all([choice(name)], outputs, output="y", original=original, labels=arrays).measurements
        if found.value is not None:
            assert found.value < whole if METRICS[name].better == "higher" else found.value > whole
        else:
            assert found.flags == ("non_finite",)

    def test_options_that_name_outputs_are_known_as_such(self, name: str) -> None:
        options = options_of(name, OPTIONS.get(name))
        assert set(options.OUTPUTS) <= set(type(options).model_fields)
        assert set(named_outputs(choice(name))) <= set(options.OUTPUTS)


@pytest.mark.parametrize(
    "name", [name for name in METRICS if name not in ("max_error", "coco_map", "retrieval_recall")]
)
def test_influence_is_what_a_row_that_comes_once_more_does(name: str) -> None:
    """To first order. The greatest error has none, that of coco_map is known of parts of the rows alone, and what
    retrieval_recall keeps of a row is about the others."""
    metric, values = arithmetic(name, OPTIONS.get(name)), scored(name, 1.0).values
    found = linearise(values, metric.value) if isinstance(metric, RowMetric) else metric.linearise(values, None)
    for row in range(0, ROWS, 23):
        moved = (value_of(name, np.concatenate([values, values[row : row + 1]])) - found.value) * (ROWS + 1)
        assert moved == pytest.approx(found.influence[row], rel=0.15, abs=0.05 * found.step)
