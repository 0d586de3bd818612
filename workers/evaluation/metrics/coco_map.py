"""`coco_map`: mean average precision of detected boxes as COCO has it, over the classes that the labels have.

pycocotools matches detections with boxes, picture by picture. What it then does with all matches is done here for
weighted pictures, so that intervals can leave some out: precision at 101 places of recall, mean over overlaps and
classes (pycocotools.cocoeval.COCOeval.accumulate, areaRng all, maxDets 100).
"""

import contextlib
import io
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.definition import Floats, Rows, SetMetric, row_text
from workers.evaluation.statistics.clusters import Codes, codes_of, group_count
from workers.evaluation.statistics.linear import Linearised

_MOST = 100
"""Detections of a picture that count, those with the highest scores, as COCO has it."""

_OVERLAPS = np.linspace(0.5, 0.95, 10)
_PLACES = np.linspace(0.0, 1.0, 101)
_UNITS = 100
"""Parts of the rows that are left out in turn; the error of an error from so many is 7 %, which Student's t allows."""
_SPLITS = 8
_OF_HALF = 2 ** (2 / 3) - 1
"""The greatest precision at a recall or beyond is by chance too high, and the more so of fewer rows: as other greatest
slopes of what accumulates, by about the 2/3rd power of their number (B. Prakasa Rao, "Estimation of a unimodal
density", Sankhyā A 31 (1969))."""

_CELLS = 4_000_000  # of running sums held at once

Box = NDArray[np.float64]


def metric(options: MetricOptions) -> SetMetric:
    chosen = options.model_dump()

    def score(rows: Rows) -> Floats:
        return _matched(rows, chosen)

    def linearise(records: Floats, groups: Codes | None) -> Linearised:
        """Influence by leaving out parts of the rows, whole groups of them; and how much less it is of half of them."""
        units = _units(len(records), groups)
        count = group_count(units)
        weights = np.ones((count + 1, len(records)))
        weights[1 + units, np.arange(len(records))] = 0.0
        overlaps = 1 if chosen["iou"] is not None else len(_OVERLAPS)
        values = average_precision(records, np.concatenate([weights, _halves(len(records), groups)]), overlaps)
        sizes = np.bincount(units)
        sums = (len(records) - sizes) * (values[0] - values[1 : count + 1])
        sums -= sums.mean()
        bias = (values[count + 1 :].mean() - values[0]) / _OF_HALF if count > 1 else 0.0
        return Linearised(float(values[0]), (sums / sizes)[units], 1.0, units, bias=max(float(bias), 0.0))

    return SetMetric(
        "coco_map",
        score,
        linearise,
        range=(0.0, 1.0),
        unfit=lambda rows: _unfit(rows, chosen),
        unfit_set=lambda records: None if (_columns(records)[3] >= 0).any() else "the labels have no boxes",
        whole=True,
    )


def average_precision(records: Floats, weights: Floats, overlaps: int) -> Floats:
    """The metric for rows counted so many times: `weights` has [sets, rows], what comes back [sets]."""
    classes, scores, hits, truths = _columns(records)
    rows = np.broadcast_to(np.arange(len(records))[:, np.newaxis], classes.shape)
    values: Floats = np.zeros(len(weights))
    known: Floats = np.zeros(len(weights))
    bits = 2 ** np.arange(overlaps)
    for kind in np.unique(truths[truths >= 0]):
        positives = weights @ (truths == kind).sum(axis=1)
        of_kind = classes == kind
        order = np.argsort(-scores[of_kind], kind="mergesort")
        row = rows[of_kind][order]
        right = (hits[of_kind][order].astype(np.int64)[np.newaxis] & bits[:, np.newaxis]) > 0
        occurs = positives > 0
        known += occurs
        block = max(_CELLS // max(right.size, 1), 1)
        for start in range(0, len(weights), block):
            part = slice(start, start + block)
            of_part = _precision(weights[part][:, row], right, positives[part])
            values[part] += np.where(occurs[part], of_part, 0.0)
    found: Floats = values / np.maximum(known, 1)
    return found


def _precision(weights: Floats, right: NDArray[np.bool_], positives: Floats) -> Floats:
    """Mean precision at 101 places of recall and over overlaps, [sets]."""
    every = np.cumsum(weights, axis=1) + np.spacing(1)
    boxes = np.where(positives > 0, positives, 1.0)[:, np.newaxis]
    found: Floats = np.zeros(len(weights))
    for of_overlap in right:
        # Between two that are right precision only falls, and recall stays.
        places = np.flatnonzero(of_overlap)
        true = np.cumsum(weights[:, places], axis=1)
        precision = np.maximum.accumulate((true / every[:, places])[:, ::-1], axis=1)[:, ::-1]
        # Each detection stands for the places of recall that it is the first to reach.
        reached = np.diff(np.searchsorted(_PLACES, true / boxes, side="right"), axis=1, prepend=0)
        found += np.einsum("sd,sd->s", precision, reached)
    return found / (len(_PLACES) * len(right))


def _columns(records: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    """Class, score and hits of detections, each [rows, detections], and the class of labelled boxes, [rows, boxes]."""
    detections = int(records[0, 0])
    parts = records[:, 1 : 1 + 3 * detections].reshape(len(records), 3, detections)
    return parts[:, 0], parts[:, 1], parts[:, 2], records[:, 1 + 3 * detections :]


def _units(rows: int, groups: Codes | None) -> Codes:
    """At most 100 parts of the rows that split no group; the same for the same rows."""
    together = np.arange(rows) if groups is None else groups
    count = group_count(together)
    if count <= _UNITS:
        return together
    shuffled = np.random.default_rng(0).permutation(count) % _UNITS
    return codes_of(shuffled[together])


def _halves(rows: int, groups: Codes | None) -> Floats:
    """Weights that count one half of the rows, or of their groups, and then the other; [sets, rows]."""
    together = np.arange(rows) if groups is None else groups
    count, rng = group_count(together), np.random.default_rng(1)
    parts = [(rng.permutation(count) < count / 2)[together] for _ in range(_SPLITS)]
    return np.concatenate([parts, np.logical_not(parts)]).astype(np.float64)


def _matched(rows: Rows, chosen: dict[str, Any]) -> Floats:
    """Of each row the number of detections kept, their classes, scores and hits, and the classes of labelled boxes.

    Hits are the sum of 2^i over the overlaps at which the detection is matched; -1 stands for none.
    """
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    boxes, scores, classes = _detections(rows, chosen)
    truths, kinds = _truths(rows, chosen)
    overlaps = _OVERLAPS if chosen["iou"] is None else np.array([chosen["iou"]])
    kept = min(scores.shape[1], _MOST)
    found = np.full((len(boxes), 1 + 3 * kept + kinds.shape[1]), -1.0)
    found[:, 0] = kept
    found[:, 1 + 3 * kept :] = kinds
    undefined = ~np.asarray(np.isfinite(boxes).all(axis=(1, 2)) & np.isfinite(scores).all(axis=1))

    labels: list[dict[str, Any]] = []
    guesses: list[dict[str, Any]] = []
    for row in range(len(boxes)):
        for box, kind in zip(truths[row], kinds[row], strict=True):
            if kind >= 0:
                labels.append(_annotation(row, kind, box, iscrowd=0))
        best = np.argsort(-scores[row], kind="mergesort")[:kept]
        for place in best if not undefined[row] else ():
            guesses.append(_annotation(row, classes[row, place], boxes[row, place], score=float(scores[row, place])))
    numbers = sorted({entry["category_id"] for entry in (*labels, *guesses)})
    images = [{"id": row} for row in range(len(boxes))]
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress
        truth, result = COCO(), COCO()
        for index, entries in ((truth, labels), (result, guesses)):
            index.dataset = {"images": images, "annotations": entries, "categories": [{"id": n} for n in numbers]}
            for number, entry in enumerate(entries, 1):
                entry["id"] = number
            index.createIndex()
        evaluation = COCOeval(truth, result, "bbox")
        evaluation.params.iouThrs = overlaps
        evaluation.params.maxDets = [_MOST]
        evaluation.params.areaRng = [evaluation.params.areaRng[0]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.evaluate()
    filled = np.zeros(len(boxes), int)
    for image in evaluation.evalImgs:
        if image is None:
            continue
        row = image["image_id"]
        hits = ((np.asarray(image["dtMatches"]) > 0) * 2.0 ** np.arange(len(overlaps))[:, np.newaxis]).sum(axis=0)
        places = filled[row] + np.arange(len(hits))
        found[row, 1 + places] = image["category_id"]
        found[row, 1 + kept + places] = image["dtScores"]
        found[row, 1 + 2 * kept + places] = hits
        filled[row] += len(hits)
    found[undefined] = np.nan
    return found


def _annotation(row: int, kind: float, box: Box, **more: Any) -> dict[str, Any]:
    return {
        "image_id": row,
        "category_id": int(kind),
        "bbox": box.tolist(),
        "area": float(box[2] * box[3]),
        **more,
    }


def _detections(rows: Rows, chosen: dict[str, Any]) -> tuple[Box, Floats, Floats]:
    """Boxes as corner and size, [rows, detections, 4], with scores and classes, [rows, detections].

    Where scores have a class axis, a box is one detection of each class.
    """
    boxes = _corner_and_size(rows.artifact.astype(np.float64), chosen["format"])
    boxes = _in_pixels(boxes, chosen, chosen["coordinates"])
    scores = rows.others[chosen["scores"]][: len(boxes)].astype(np.float64)
    if scores.ndim == 2:
        kinds = rows.others[chosen["classes"]][: len(boxes)] if chosen["classes"] else np.zeros(scores.shape)
        return boxes, scores, kinds.astype(np.float64)
    classes = scores.shape[2]
    kinds = np.broadcast_to(np.arange(classes, dtype=np.float64), scores.shape).reshape(len(boxes), -1)
    return np.repeat(boxes, classes, axis=1), scores.reshape(len(boxes), -1), kinds


def _truths(rows: Rows, chosen: dict[str, Any]) -> tuple[Box, Floats]:
    """Labelled boxes as corner and size, [rows, boxes, 4], and their classes, [rows, boxes], -1 for none."""
    labels = rows.truth.astype(np.float64)
    kinds = np.where(labels[..., 0] == chosen["ignore"], -1.0, labels[..., 0])
    boxes = _corner_and_size(labels[..., 1:], chosen["labels_format"] or chosen["format"])
    return _in_pixels(boxes, chosen, chosen["labels_coordinates"] or chosen["coordinates"]), kinds


def _corner_and_size(boxes: Box, form: str) -> Box:
    first, second = boxes[..., :2], boxes[..., 2:]
    if form == "xyxy":
        return np.concatenate([first, second - first], axis=-1)
    return boxes if form == "xywh" else np.concatenate([first - second / 2, second], axis=-1)


def _in_pixels(boxes: Box, chosen: dict[str, Any], coordinates: str) -> Box:
    """Overlaps do not change with the axes' scales, so it matters only where one kind of box is in pixels."""
    if coordinates == "pixels" or chosen["labels_coordinates"] in (None, chosen["coordinates"]):
        return boxes
    height, width = chosen["size"]
    return np.asarray(boxes * np.array([width, height, width, height]))


def _unfit(rows: Rows, chosen: dict[str, Any]) -> str | None:
    if rows.artifact.ndim != 3 or rows.artifact.shape[2] != 4:
        return f"boxes are [rows, detections, 4], and a row of the output is {row_text(rows.artifact)}"
    if rows.truth.ndim != 3 or rows.truth.shape[2] != 5:
        return f"labels are [rows, objects, 5], a class and a box each, and a row of them is {row_text(rows.truth)}"
    scores = rows.others.get(chosen["scores"])
    if scores is None or scores.ndim not in (2, 3) or scores.shape[1] != rows.artifact.shape[1]:
        return f"the output {chosen['scores']!r} does not have a score for each box"
    if (name := chosen["classes"]) is not None:
        kinds = rows.others.get(name)
        if scores.ndim == 3:
            return f"the scores have a class axis, so leave the output {name!r} out"
        if kinds is None or kinds.shape != scores.shape:
            return f"the output {name!r} does not have a class for each box"
    classes = rows.truth[..., 0]
    counted = classes[classes != chosen["ignore"]]
    if counted.size and (np.mod(counted, 1).any() or counted.min() < 0):
        return "the labels have classes that are no whole numbers from 0 on"
    if scores.ndim == 3 and counted.size and counted.max() >= scores.shape[2]:
        return f"labels run to class {int(counted.max())}, and the scores have {scores.shape[2]} classes"
    return None
