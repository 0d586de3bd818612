"""Each metric against a plain reference, row by row and number by number in Python."""

import math
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from workers.evaluation.metrics import arithmetic
from workers.evaluation.metrics.definition import Rows

Values = NDArray[np.float32]

TWO_OUTPUTS = array_shapes(min_dims=2, max_dims=3, min_side=2, max_side=6).flatmap(
    lambda shape: st.tuples(
        *(arrays(np.float32, shape, elements=st.floats(-8, 8, width=32)) for _ in range(2)),
        arrays(np.int64, shape[:-1], elements=st.integers(0, shape[-1] - 1)),
    )
)


def value_of(name: str, rows: Rows) -> float:
    metric = arithmetic(name)
    return float(metric.value(metric.score(rows).mean(axis=0)))


def first_highest(values: Sequence[float]) -> int:
    best = 0
    for index, value in enumerate(values):
        if value > values[best]:
            best = index
    return best


def class_rows(values: Values) -> list[list[list[float]]]:
    """Rows of positions of classes, as plain lists."""
    flat: list[list[list[float]]] = values.reshape(len(values), -1, values.shape[-1]).astype(float).tolist()
    return flat


@settings(deadline=None)
@given(TWO_OUTPUTS)
def test_top1_and_agreement_count_the_first_highest(drawn: tuple[Values, Values, NDArray[np.int64]]) -> None:
    original, artifact, labels = drawn
    right = agree = total = 0
    for first, second, truth in zip(
        class_rows(original), class_rows(artifact), labels.reshape(len(labels), -1).tolist(), strict=True
    ):
        for position, label in enumerate(truth):
            right += first_highest(second[position]) == label
            agree += first_highest(second[position]) == first_highest(first[position])
            total += 1
    rows = Rows(artifact, original, labels)
    assert value_of("top1", rows) == pytest.approx(right / total)
    assert value_of("agreement", rows) == pytest.approx(agree / total)


@settings(deadline=None)
@given(TWO_OUTPUTS)
def test_sqnr_is_the_ratio_of_sums_over_everything(drawn: tuple[Values, Values, object]) -> None:
    original, artifact, _ = drawn
    signal = noise = 0.0
    for before, after in zip(original.ravel().tolist(), artifact.ravel().tolist(), strict=True):
        signal += before * before
        noise += (before - after) ** 2
    if noise == 0:
        expected = 200.0
    elif signal == 0:
        expected = -200.0
    else:
        expected = min(max(10 * math.log10(signal / noise), -200.0), 200.0)
    assert value_of("sqnr_db", Rows(artifact, original)) == pytest.approx(expected, abs=1e-6)


@settings(deadline=None)
@given(TWO_OUTPUTS)
def test_cosine_is_the_mean_over_rows(drawn: tuple[Values, Values, object]) -> None:
    original, artifact, _ = drawn
    cosines = []
    for first, second in zip(
        original.reshape(len(original), -1).tolist(), artifact.reshape(len(artifact), -1).tolist(), strict=True
    ):
        product = math.fsum(a * b for a, b in zip(first, second, strict=True))
        lengths = math.hypot(*first) * math.hypot(*second)
        if lengths:
            cosines.append(product / lengths)
        else:
            cosines.append(1.0 if math.hypot(*first) == math.hypot(*second) else 0.0)
    assert value_of("cosine", Rows(artifact, original)) == pytest.approx(math.fsum(cosines) / len(cosines), abs=1e-6)


@settings(deadline=None)
@given(TWO_OUTPUTS)
def test_kl_is_nats_after_softmax(drawn: tuple[Values, Values, object]) -> None:
    original, artifact, _ = drawn

    def softmax(values: list[float]) -> list[float]:
        total = math.fsum(math.exp(value) for value in values)
        return [math.exp(value) / total for value in values]

    nats = []
    for first, second in zip(class_rows(original), class_rows(artifact), strict=True):
        for before, after in zip(first, second, strict=True):
            pairs = zip(softmax(before), softmax(after), strict=True)
            nats.append(math.fsum(p * math.log(p / q) for p, q in pairs))
    assert value_of("kl", Rows(artifact, original)) == pytest.approx(math.fsum(nats) / len(nats), abs=1e-9)


def test_ties_go_to_the_first_as_numpy_has_it() -> None:
    tied = np.array([[1.0, 3.0, 3.0]], np.float32)
    assert value_of("top1", Rows(tied, labels=np.array([1]))) == 1
    assert value_of("top1", Rows(tied, labels=np.array([2]))) == 0


def test_an_undefined_output_is_neither_right_nor_in_agreement() -> None:
    original = np.array([[np.nan, 0.0], [0.0, 1.0]], np.float32)
    artifact = np.array([[np.nan, 0.0], [0.0, 1.0]], np.float32)
    labels = np.array([0, 1])
    assert value_of("top1", Rows(artifact, labels=labels)) == 0.5
    assert value_of("agreement", Rows(artifact, original)) == 0.5


def test_what_the_original_masks_costs_nothing() -> None:
    masked = np.array([[2.0, 1.0, -np.inf]], np.float32)
    near = np.array([[2.0, 1.1, -np.inf]], np.float32)
    assert value_of("sqnr_db", Rows(masked, masked)) == 200
    assert value_of("cosine", Rows(masked, masked)) == pytest.approx(1)
    assert value_of("kl", Rows(masked, masked)) == 0
    assert 0 < value_of("kl", Rows(near, masked)) < 0.01
    assert math.isfinite(value_of("sqnr_db", Rows(near, masked)))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("name", ["sqnr_db", "cosine", "kl"])
def test_an_artifact_that_overflows_has_undefined_scores(name: str, broken: float) -> None:
    original = np.array([[1.0, 2.0], [3.0, 4.0]], np.float32)
    artifact = np.array([[1.0, broken], [3.0, 4.0]], np.float32)
    scores = arithmetic(name).score(Rows(artifact, original))
    if name == "kl" and broken == np.inf:
        assert np.isnan(scores[0]).any()
    undefined = np.isnan(scores).any(axis=1)
    assert undefined.tolist() == [True, False]


def test_float16_is_summed_in_float64() -> None:
    original = np.full((1, 4096), 200.0, np.float16)  # 200² · 4096 is far beyond float16
    artifact = original + np.float16(1)
    assert value_of("sqnr_db", Rows(artifact, original)) == pytest.approx(20 * math.log10(200))


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_cosine_neither_over_nor_underflows(scale: float) -> None:
    original = (np.array([[1.0, 2.0, 3.0]]) * scale).astype(np.float32)
    artifact = (np.array([[1.0, 2.0, 2.0]]) * scale).astype(np.float32)
    assert value_of("cosine", Rows(artifact, original)) == pytest.approx(11 / math.sqrt(14 * 9), rel=1e-6)


@pytest.mark.parametrize("shape", [(5,), (5, 1), (5, 3, 1)])
@pytest.mark.parametrize("name", ["top1", "agreement", "kl"])
def test_outputs_without_a_class_axis_are_unfit(name: str, shape: tuple[int, ...]) -> None:
    values = np.zeros(shape, np.float32)
    reason = arithmetic(name).unfit(Rows(values, values, np.zeros(5, np.int64)))
    assert reason is not None
    assert "class axis" in reason


def test_labels_of_another_shape_are_unfit() -> None:
    outputs = np.zeros((5, 7, 3), np.float32)
    reason = arithmetic("top1").unfit(Rows(outputs, labels=np.zeros(5, np.int64)))
    assert reason is not None
    assert "[5, 7]" in reason
    assert arithmetic("top1").unfit(Rows(outputs, labels=np.zeros((5, 7), np.int64))) is None
