"""Rows that are scored one after the other give what they give together, of every metric that can be told so."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.domain.metric import METRICS, MetricChoice
from workers.evaluation.accuracy import judge_all
from workers.evaluation.streaming import RowScores, scored_alone

OPTIONS: dict[str, dict[str, Any]] = {
    "wer": {"separator": 0},
    "coco_map": {"scores": "scores", "classes": "classes", "format": "xyxy"},
}
ALONE = {"top1", "top5", "mae", "rmse", "token_accuracy", "cer", "wer", "exact_match", "perplexity"}
ROWS, PLACES, CLASSES = 30, 4, 7


def choice(name: str, **more: Any) -> MetricChoice:
    return MetricChoice(name=name, options=OPTIONS.get(name, {}), **more)


def output_and_labels(name: str, rows: int = ROWS) -> tuple[NDArray[np.float32], NDArray[Any]]:
    rng = np.random.default_rng(2)
    if METRICS[name].labels == "numbers":
        return rng.normal(size=(rows, 3)).astype(np.float32), rng.normal(size=(rows, 3))
    shape = (rows, PLACES) if METRICS[name].labels == "sequences" else (rows,)
    labels = rng.integers(0, CLASSES, shape)
    if len(shape) == 2:
        labels[::5] = -100  # rows of which nothing counts
    return rng.normal(size=(*shape, CLASSES)).astype(np.float32), labels


def test_metrics_that_need_no_other_row_and_no_original() -> None:
    assert {name for name in METRICS if scored_alone(choice(name))} == ALONE
    assert not scored_alone(MetricChoice(name="pearson", options={"pairs": "rows"}))


@pytest.mark.parametrize("name", sorted(ALONE))
@given(st.lists(st.integers(1, ROWS), min_size=1, max_size=9), st.integers(1, ROWS))
@settings(max_examples=15, deadline=None)
def test_row_after_row_gives_what_all_together_give(name: str, sizes: list[int], kept: int) -> None:
    """However many rows come at once, and however few outputs are there at the end."""
    output, labels = output_and_labels(name)
    arrays = {"labels": labels, "groups": np.arange(ROWS) // 2, "slices": np.arange(ROWS) % 2}
    scored = RowScores([choice(name)], arrays, "y")
    assert scored
    first = 0
    for size in [*sizes, *[1] * ROWS]:
        if first < ROWS:
            assert scored.add({"y": output[first : first + size]})
        first += size
    plain = judge_all([choice(name)], {"y": output}, output="y", labels=arrays)
    streamed = judge_all([choice(name)], {"y": output[:kept]}, output="y", labels=arrays, scored=scored)
    [one], [other] = plain.measurements, streamed.measurements
    assert one.value is not None
    assert other.value == pytest.approx(one.value, rel=1e-12)
    assert other.ci95 == pytest.approx(one.ci95, rel=1e-9)
    assert (other.count, other.conditions) == (one.count, one.conditions)
    np.testing.assert_allclose(streamed.scores[name].values, plain.scores[name].values, rtol=1e-12)
    np.testing.assert_array_equal(streamed.scores[name].slices, plain.scores[name].slices)
    np.testing.assert_array_equal(streamed.scores[name].groups, plain.scores[name].groups)


def test_without_every_row_the_outputs_that_are_there_are_judged() -> None:
    output, labels = output_and_labels("top1")
    scored = RowScores([choice("top1")], {"labels": labels}, "y")
    scored.add({"y": output[:10]})
    [found] = judge_all(
        [choice("top1")], {"y": output[:5]}, output="y", labels={"labels": labels}, scored=scored
    ).measurements
    assert found.conditions["rows"] == 5


@pytest.mark.parametrize(
    ("name", "labels", "outputs"),
    [
        ("top1", np.full(4, CLASSES), [np.zeros((4, CLASSES))]),  # beyond the last class
        ("perplexity", np.zeros((4, 2), int), [np.zeros((4, 3, CLASSES))]),  # of other positions
        ("top1", np.zeros(4, int), [np.zeros((2, CLASSES)), np.zeros((2, CLASSES + 1))]),  # another shape
        ("top1", np.zeros(4, int), []),  # no such output
    ],
)
def test_what_does_not_fit_is_given_up(name: str, labels: NDArray[Any], outputs: list[NDArray[Any]]) -> None:
    scored = RowScores([choice(name)], {"labels": labels}, "y")
    going = [scored.add({"y": output}) for output in outputs] or [scored.add({"z": np.zeros((4, CLASSES))})]
    assert going[-1] is False
    assert scored.of(choice(name, output="y")) is None
    assert not scored


def test_others_are_not_scored_so() -> None:
    labels = {"labels": np.zeros(4, int)}
    assert not RowScores([choice("auc"), choice("agreement"), choice("next_token")], labels, "y")
    assert not RowScores([choice("top1")], {}, "y")
    assert not RowScores([choice("top1", labels="kind")], labels, "y")


def test_each_output_and_each_array_of_labels_is_one() -> None:
    rng = np.random.default_rng(1)
    outputs = {"y": rng.normal(size=(40, 3)).astype(np.float32), "z": rng.normal(size=(40, 5)).astype(np.float32)}
    labels = {"labels": rng.integers(0, 3, 40), "kind": rng.integers(0, 5, 40)}
    asked = [choice("top1"), choice("top1", output="z", labels="kind"), choice("top1", output="y")]
    scored = RowScores(asked, labels, "y")
    for first in range(0, 40, 8):
        scored.add({name: values[first : first + 8] for name, values in outputs.items()})
    plain = judge_all(asked, outputs, output="y", labels=labels).measurements
    none_kept = {name: values[:1] for name, values in outputs.items()}
    streamed = judge_all(asked, none_kept, output="y", labels=labels, scored=scored).measurements
    assert streamed == plain
    assert len(plain) == 2
