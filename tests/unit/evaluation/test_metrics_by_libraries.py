"""The metrics with labels, against the libraries that everybody uses and against plain loops."""

import contextlib
import io
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk

from workers.evaluation.metrics import arithmetic
from workers.evaluation.metrics.definition import RowMetric, Rows

Random = np.random.Generator


def value_of(name: str, rows: Rows, options: dict[str, Any] | None = None) -> float:
    metric = arithmetic(name, options)
    assert metric.unfit(rows) is None
    values = metric.score(rows)
    assert metric.unfit_set(values) is None
    if isinstance(metric, RowMetric):
        return float(metric.value(values.mean(axis=0)))
    return metric.linearise(values, None).value


def classes(rng: Random, rows: int, count: int, margin: float = 1.0) -> tuple[NDArray[Any], NDArray[Any]]:
    labels = np.concatenate([np.arange(count), rng.integers(0, count, rows - count)])
    logits = rng.standard_normal((rows, count))
    logits[np.arange(rows), labels] += margin
    return logits, labels


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 9), rows=st.integers(12, 80))
def test_classification_is_scikit_learns(seed: int, count: int, rows: int) -> None:
    logits, labels = classes(np.random.default_rng(seed), rows, count)
    chosen, given_rows = logits.argmax(axis=1), Rows(logits, labels=labels)
    assert value_of("balanced_accuracy", given_rows) == pytest.approx(sk.balanced_accuracy_score(labels, chosen))
    recalls = sk.recall_score(labels, chosen, average=None, labels=np.unique(labels), zero_division=0)
    assert value_of("worst_class", given_rows) == pytest.approx(min(recalls))
    for average in ("macro", "micro", "weighted"):
        expected = sk.f1_score(labels, chosen, average=average, labels=np.unique(labels), zero_division=0)
        assert value_of("f1", given_rows, {"average": average}) == pytest.approx(expected)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = sk.roc_auc_score(labels, shares[:, 1] if count == 2 else shares, multi_class="ovr", average="macro")
    assert value_of("auc", given_rows, {"scores": "logits"}) == pytest.approx(expected)
    assert value_of("auc", Rows(shares, labels=labels)) == pytest.approx(expected)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), count=st.integers(6, 12))
def test_top5_is_scikit_learns(seed: int, count: int) -> None:
    logits, labels = classes(np.random.default_rng(seed), 60, count, 0.0)
    expected = sk.top_k_accuracy_score(labels, logits, k=5, labels=np.arange(count))
    assert value_of("top5", Rows(logits, labels=labels)) == pytest.approx(expected)


def test_top5_of_equals_takes_the_first() -> None:
    flat = np.zeros((1, 8))
    assert [value_of("top5", Rows(flat, labels=np.array([label]))) for label in range(8)] == [1] * 5 + [0] * 3


@pytest.mark.parametrize("shape", [(40,), (40, 1)])
def test_two_classes_by_one_score(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(4)
    labels = rng.integers(0, 2, 40)
    scores = np.round(rng.standard_normal(40) + labels, 1)  # with equals among them
    assert value_of("auc", Rows(scores.reshape(shape), labels=labels)) == pytest.approx(
        sk.roc_auc_score(labels, scores)
    )


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_by_a_plain_loop(bins: int) -> None:
    logits, labels = classes(np.random.default_rng(5), 300, 4)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    error = 0.0
    for number in range(bins):
        inside = [row for row in range(300) if number / bins < shares[row].max() <= (number + 1) / bins]
        if inside:
            sure = sum(shares[row].max() for row in inside) / len(inside)
            right = sum(shares[row].argmax() == labels[row] for row in inside) / len(inside)
            error += len(inside) / 300 * abs(sure - right)
    assert value_of("ece", Rows(logits, labels=labels), {"bins": bins}) == pytest.approx(error)
    assert value_of("ece", Rows(shares, labels=labels), {"bins": bins}) == pytest.approx(error)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), shift=st.sampled_from([0.0, 1e4]), width=st.integers(1, 3))
def test_regression_is_scikit_learns(seed: int, shift: float, width: int) -> None:
    rng = np.random.default_rng(seed)
    labels = shift + rng.standard_normal((50, width))
    output = labels + 0.3 * rng.standard_normal((50, width))
    rows = Rows(output, labels=labels)
    assert value_of("mae", rows) == pytest.approx(sk.mean_absolute_error(labels, output))
    assert value_of("rmse", rows) == pytest.approx(math.sqrt(sk.mean_squared_error(labels, output)))
    assert value_of("r2", rows) == pytest.approx(sk.r2_score(labels, output), abs=1e-6)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10_000), digits=st.integers(0, 3))
def test_correlations_are_scipys(seed: int, digits: int) -> None:
    rng = np.random.default_rng(seed)
    labels = np.round(100 + rng.standard_normal(60), digits)
    output = np.round(labels + rng.standard_normal(60), digits)
    rows = Rows(output, labels=labels)
    assert value_of("pearson", rows) == pytest.approx(stats.pearsonr(output, labels).statistic)
    assert value_of("spearman", rows) == pytest.approx(stats.spearmanr(output, labels).statistic)


def test_pairs_are_compared_by_cosine() -> None:
    rng = np.random.default_rng(6)
    first, second, labels = rng.standard_normal((30, 5)), rng.standard_normal((30, 5)), rng.random(30)
    cosines = [float(a @ b) / math.hypot(*a) / math.hypot(*b) for a, b in zip(first, second, strict=True)]
    expected = stats.spearmanr(cosines, labels).statistic
    two_outputs = Rows(first, labels=labels, others={"other": second})
    assert value_of("spearman", two_outputs, {"against": "other"}) == pytest.approx(expected)
    in_turn = np.stack([first, second], axis=1).reshape(60, 5)
    of_rows = Rows(in_turn, labels=np.repeat(labels, 2))
    assert value_of("spearman", of_rows, {"pairs": "rows"}) == pytest.approx(expected)
    assert value_of("pearson", of_rows, {"pairs": "rows"}) == pytest.approx(stats.pearsonr(cosines, labels).statistic)


def spelled(text: str, blank: int = 0, length: int = 20) -> NDArray[Any]:
    """Logits whose greedy path is the text's letters; `_` is the blank of CTC, and a space is class 1."""
    path = [blank if sign == "_" else 1 if sign == " " else ord(sign) - ord("a") + 2 for sign in text]
    return np.asarray(np.eye(28)[path + [blank] * (length - len(path))])


def labelled(text: str, length: int = 12) -> list[int]:
    codes = [1 if sign == " " else ord(sign) - ord("a") + 2 for sign in text]
    return codes + [-100] * (length - len(codes))


def test_sequences_that_were_worked_out_by_hand() -> None:
    outputs = np.stack([spelled("hh_ee_l_lo"), spelled("a_bb c_d"), spelled("k_it_ten_ on"), spelled("")])
    labels = np.array([labelled(text) for text in ("hello", "ab cd", "sitting on", "")])
    rows = Rows(outputs, labels=labels)
    ctc = {"blank": 0}
    # kitten -> sitting: three edits; of its 10 signs, of 5 and 5 before, of none after.
    assert value_of("cer", rows, ctc) == pytest.approx(3 / 20)
    # The words: hello; ab, cd; sitting, on. One of five is wrong.
    assert value_of("wer", rows, {**ctc, "separator": 1}) == pytest.approx(1 / 5)
    assert value_of("exact_match", rows, ctc) == pytest.approx(3 / 4)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_tokens_are_counted_one_by_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits, before = rng.standard_normal((2, 8, 5, 7))
    labels = np.where(rng.random((8, 5)) < 0.3, -100, rng.integers(0, 7, (8, 5)))
    labels[0, 0] = 3
    right = same = count = 0
    nats, exact = 0.0, 0
    for row in range(8):
        row_right = row_count = 0
        for place in range(5):
            if labels[row, place] == -100:
                continue
            row_count += 1
            row_right += int(logits[row, place].argmax() == labels[row, place])
            same += int(logits[row, place].argmax() == before[row, place].argmax())
            nats -= logits[row, place, labels[row, place]] - math.log(sum(math.exp(v) for v in logits[row, place]))
        right, count, exact = right + row_right, count + row_count, exact + (row_right == row_count)
    rows = Rows(logits, before, labels)
    assert value_of("token_accuracy", rows) == pytest.approx(right / count)
    assert value_of("next_token", rows) == pytest.approx(same / count)
    assert value_of("perplexity", rows) == pytest.approx(math.exp(nats / count))
    assert value_of("exact_match", rows) == pytest.approx(exact / 8)


@pytest.mark.parametrize("form", ["first", "last", "classes"])
def test_miou_is_scikit_learns_jaccard_of_all_points(form: str) -> None:
    rng = np.random.default_rng(8)
    logits, labels = rng.standard_normal((9, 4, 6, 5)), rng.integers(0, 4, (9, 6, 5))
    labels[rng.random(labels.shape) < 0.1] = 255
    best = logits.argmax(axis=1)
    counted = labels != 255
    expected = sk.jaccard_score(labels[counted], best[counted], average="macro")
    output = {"first": logits, "last": np.moveaxis(logits, 1, -1), "classes": best.astype(np.float32)}[form]
    assert value_of("miou", Rows(output, labels=labels)) == pytest.approx(expected)


@pytest.mark.parametrize("distance", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("k", [1, 5])
def test_retrieval_by_a_plain_loop(distance: str, k: int) -> None:
    rng = np.random.default_rng(9)
    vectors, labels = rng.standard_normal((40, 6)), rng.integers(0, 12, 40)
    found = asked = 0
    for row in range(40):
        others = [other for other in range(40) if other != row]
        if not any(labels[other] == labels[row] for other in others):
            continue
        near = {
            "cosine": lambda other, row=row: -vectors[row] @ vectors[other] / math.hypot(*vectors[other]),
            "dot": lambda other, row=row: -vectors[row] @ vectors[other],
            "euclidean": lambda other, row=row: math.dist(vectors[row], vectors[other]),
        }[distance]
        asked += 1
        found += any(labels[other] == labels[row] for other in sorted(others, key=near)[:k])
    options = {"k": k, "distance": distance}
    assert value_of("retrieval_recall", Rows(vectors, labels=labels), options) == pytest.approx(found / asked)


@pytest.mark.parametrize("k", [1, 3])
def test_what_others_owe_to_a_row_is_what_they_find_without_it(k: int) -> None:
    rng = np.random.default_rng(10)
    vectors, labels = rng.standard_normal((30, 4)), rng.integers(0, 5, 30)
    metric = arithmetic("retrieval_recall", {"k": k})
    records = metric.score(Rows(vectors, labels=labels))
    for row in range(30):
        rest = np.arange(30) != row
        without = metric.score(Rows(vectors[rest], labels=labels[rest]))
        assert records[rest, 0].sum() - without[:, 0].sum() == records[row, 2]


def detections(rng: Random, rows: int = 25) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Labels [rows, 3, 5] with some padding; boxes as corner and size, their scores and classes."""
    boxes = np.concatenate([rng.uniform(0, 200, (rows, 3, 2)), rng.uniform(20, 60, (rows, 3, 2))], axis=2)
    kinds = rng.integers(0, 3, (rows, 3)).astype(float)
    labels = np.concatenate([np.where(rng.random((rows, 3)) < 0.2, -1, kinds)[..., np.newaxis], boxes], axis=2)
    moved = np.concatenate([boxes + 5 * rng.standard_normal(boxes.shape), boxes + 30], axis=1)
    guessed = np.concatenate([np.where(rng.random(kinds.shape) < 0.2, (kinds + 1) % 3, kinds), kinds], axis=1)
    return labels, moved, rng.random(guessed.shape), guessed


def by_pycocotools(
    labels: NDArray[Any], boxes: NDArray[Any], scores: NDArray[Any], kinds: NDArray[Any], overlap: float | None
) -> float:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": row} for row in range(len(labels))],
            "categories": [{"id": kind} for kind in range(3)],
            "annotations": [
                {"image_id": row, "category_id": int(kind), "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
                for row, entries in enumerate(labels.tolist())
                for kind, *box in entries
                if kind >= 0
            ],
        }
        for number, entry in enumerate(truth.dataset["annotations"], 1):
            entry["id"] = number
        truth.createIndex()
        guesses = [
            {"image_id": row, "category_id": int(kind), "bbox": box, "score": score}
            for row in range(len(boxes))
            for kind, box, score in zip(kinds[row].tolist(), boxes[row].tolist(), scores[row].tolist(), strict=True)
        ]
        evaluation = COCOeval(truth, truth.loadRes(guesses), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0 if overlap is None else 1])


@pytest.mark.parametrize("overlap", [None, 0.5])
@pytest.mark.parametrize("form", ["xywh", "xyxy", "cxcywh"])
@pytest.mark.parametrize("seed", [1, 2])
def test_average_precision_is_pycocotools(overlap: float | None, form: str, seed: int) -> None:
    labels, boxes, scores, kinds = detections(np.random.default_rng(seed))
    expected = by_pycocotools(labels, boxes, scores, kinds, overlap)
    size, corner = boxes[..., 2:], boxes[..., :2]
    given_boxes = {
        "xywh": boxes,
        "xyxy": np.concatenate([corner, corner + size], axis=-1),
        "cxcywh": np.concatenate([corner + size / 2, size], axis=-1),
    }[form]
    options = {"scores": "s", "classes": "c", "format": form, "labels_format": "xywh", "iou": overlap}
    rows = Rows(given_boxes, labels=labels, others={"s": scores, "c": kinds})
    assert value_of("coco_map", rows, options) == pytest.approx(expected, abs=1e-9)
    # The same in shares of a picture of 400 × 300.
    normalized = given_boxes / np.array([400, 300, 400, 300])
    options |= {"coordinates": "normalized", "labels_coordinates": "pixels", "size": [300, 400]}
    rows = Rows(normalized, labels=labels, others={"s": scores, "c": kinds})
    assert value_of("coco_map", rows, options) == pytest.approx(expected, abs=1e-9)


def test_scores_with_a_class_axis_are_a_detection_of_each_class() -> None:
    labels, boxes, scores, kinds = detections(np.random.default_rng(3))
    spread = np.where(np.arange(3) == kinds[..., np.newaxis], scores[..., np.newaxis], 1e-6 * scores[..., np.newaxis])
    wide, flat = spread.reshape(len(boxes), -1), np.tile(np.arange(3.0), (len(boxes), boxes.shape[1]))
    expected = by_pycocotools(labels, np.repeat(boxes, 3, axis=1), wide, flat, None)
    rows = Rows(boxes, labels=labels, others={"s": spread})
    assert value_of("coco_map", rows, {"scores": "s", "format": "xywh"}) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "options", "labels", "said"),
    [
        ("f1", {}, np.full(6, 9), "run from 9 to 9"),
        ("balanced_accuracy", {}, np.full(6, -1), "run from -1"),
        ("auc", {}, np.zeros(6), "float64"),
        ("ece", {"scores": "probabilities"}, np.zeros(6, int), "probabilities"),
        ("mae", {}, np.zeros(6), "3"),
        ("pearson", {}, np.zeros(6), "one number a row"),
        ("pearson", {"against": "none"}, np.zeros(6), "not there"),
        ("token_accuracy", {}, np.zeros((6, 4), int), "4"),
        ("cer", {"blank": 7}, np.zeros((6, 2), int), "blank"),
        ("perplexity", {}, np.full((6, 1), -100), "ignored"),
        ("miou", {}, np.zeros((6, 3), float), "float64"),
        ("coco_map", {"scores": "s"}, np.zeros((6, 1, 5)), "boxes"),
        ("retrieval_recall", {}, np.zeros(6), "float64"),
    ],
)
def test_what_cannot_be_read_has_its_reason(
    name: str, options: dict[str, Any], labels: NDArray[Any], said: str
) -> None:
    rows = Rows(np.random.default_rng(1).standard_normal((6, 3)), labels=labels)
    reason = arithmetic(name, options).unfit(rows)
    assert reason is not None
    assert said in reason


@pytest.mark.parametrize(
    ("name", "records", "said"),
    [
        ("auc", np.array([[1.0, 0.2], [1.0, 0.3]]), "one class"),
        ("f1", np.array([[2.0, 2.0], [2.0, 1.0]]), "one class"),
        ("spearman", np.array([[1.0, 2.0], [2.0, 2.0]]), "labels do not vary"),
        ("pearson", np.array([[0.0, -1.0, 0, 1, 0], [0.0, 1.0, 0, 1, 0]]), "output does not vary"),
        ("r2", np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 2.0]]), "do not vary"),
        ("retrieval_recall", np.zeros((2, 3)), "nothing to find"),
    ],
)
def test_a_set_without_a_value_has_its_reason(name: str, records: NDArray[Any], said: str) -> None:
    reason = arithmetic(name).unfit_set(records)
    assert reason is not None
    assert said in reason
