"""Rows that accept several labels, against a plain loop."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.metric import MetricChoice
from workers.evaluation.accuracy import judge_all
from workers.evaluation.metrics import arithmetic
from workers.evaluation.metrics.definition import Rows

CLASSES = 8


@given(st.integers(0, 10_000), st.integers(2, 4), st.sampled_from(["top1", "top5"]))
def test_any_of_several_labels_is_right(seed: int, most: int, name: str) -> None:
    rng = np.random.default_rng(seed)
    outputs = rng.integers(0, 4, (20, CLASSES)).astype(np.float32)  # with equals
    labels = np.full((20, most), -1)
    for row in labels:
        count = rng.integers(1, most + 1)
        row[:count] = rng.choice(CLASSES, count, replace=False)

    metric = arithmetic(name, {})
    scores = metric.score(Rows(outputs, None, labels))

    highest = 1 if name == "top1" else 5
    for row, accepted, score in zip(outputs, labels, scores[:, 0], strict=True):
        best = sorted(range(CLASSES), key=lambda place: (-row[place], place))[:highest]
        assert score == any(label in best for label in accepted if label >= 0)


def test_one_label_a_row_may_have_an_axis_of_its_own() -> None:
    outputs = np.eye(3, dtype=np.float32)
    flat = arithmetic("top1", {}).score(Rows(outputs, None, np.array([0, 1, 0])))
    deep = arithmetic("top1", {}).score(Rows(outputs, None, np.array([[0], [1], [0]])))
    assert flat.tolist() == deep.tolist() == [[1], [1], [0]]


@pytest.mark.parametrize(
    ("labels", "said"),
    [([[0, 1], [-1, -1]], "1 rows accept no label"), ([[0, 9], [1, -1]], "0 to 2"), ([[0, -2], [1, 1]], "0 to 2")],
)
def test_labels_that_are_no_classes_are_absent_with_the_reason(labels: list[list[int]], said: str) -> None:
    outputs = {"y": np.eye(3, dtype=np.float32)[:2]}
    [found] = judge_all(
        [MetricChoice(name="top1")], outputs, output="y", labels={"labels": np.array(labels)}
    ).measurements
    assert found.method == "absent"
    assert found.reason is not None
    assert said in found.reason
