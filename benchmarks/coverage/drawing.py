"""What rows are made of: classes, numbers, sequences, boxes, embeddings; and how alike a photograph's views are."""

import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.metric import METRICS
from benchmarks.coverage.simulation import Design, Draw, Drawn, Random
from workers.evaluation.metrics import arithmetic
from workers.evaluation.metrics.definition import Rows
from workers.evaluation.statistics.clusters import Floats

Parts = tuple[NDArray[Any], ...]

LOGITS = {"scores": "logits"}
BOXES = {"scores": "s", "classes": "c", "format": "xywh"}

Family = Callable[[Random, tuple[int, ...]], Floats]
"""Numbers of a distribution, of any shape."""


def normal(rng: Random, shape: tuple[int, ...]) -> Floats:
    return rng.standard_normal(shape)


def student(freedom: float) -> Family:
    return lambda rng, shape: rng.standard_t(freedom, shape)


def signed_log_normal(rng: Random, shape: tuple[int, ...]) -> Floats:
    """Of either sign, and beyond 0 log-normal less 1."""
    found = rng.standard_normal(shape)
    return np.asarray(np.sign(found) * (np.exp(np.abs(found)) - 1))


def log_normal(spread: float) -> Family:
    return lambda rng, shape: np.asarray(np.exp(spread * rng.standard_normal(shape)))


_UNEVEN = log_normal(1.0)


def mixed(rng: Random, design: Design, make: Callable[[int], Parts]) -> Parts:
    """Arrays that `make` gives of so many rows. With several views a photograph, two of them are the same in as many
    cases as their correlation says, so that whatever is computed of a row has it, and no row another distribution."""
    if design.views == 1:
        return make(design.photographs)
    rows = design.photographs * design.views
    shared, own = make(design.photographs), make(rows)
    of_all = rng.random(rows) < math.sqrt(design.correlation)
    places = np.repeat(np.arange(design.photographs), design.views)
    return tuple(
        np.where(of_all.reshape(-1, *([1] * (one.ndim - 1))), first[places], one)
        for first, one in zip(shared, own, strict=True)
    )


def scored(
    metric: str,
    options: dict[str, Any] | None,
    original: NDArray[Any],
    artifact: NDArray[Any],
    labels: NDArray[Any] | None,
    others: dict[str, tuple[NDArray[Any], NDArray[Any]]] | None = None,
) -> Drawn:
    """What the metric keeps of both."""
    found = arithmetic(metric, options)
    reference = original if METRICS[metric].relative_to_original else None
    first, second = (
        Rows(values, reference, labels, {name: pair[place] for name, pair in (others or {}).items()})
        for place, values in enumerate((original, artifact))
    )
    return found.score(first), found.score(second)


def classified(
    metric: str,
    options: dict[str, Any] | None = None,
    *,
    shares: Sequence[float] = (0.1,) * 10,
    margin: float | Sequence[float] = 2.9,
    noise: float = 0.35,
    harmed: int = 0,
    family: Family = normal,
) -> Draw:
    """Logits of classes: the right one stands out by `margin`; the artifact has noise, and harms some classes."""
    of_class = np.broadcast_to(np.asarray(margin, float), (len(shares),))

    def draw(rng: Random, design: Design) -> Drawn:
        labels = np.repeat(rng.choice(len(shares), design.photographs, p=np.asarray(shares)), design.views)
        original, added = mixed(
            rng, design, lambda rows: (family(rng, (rows, len(shares))), family(rng, (rows, len(shares))))
        )
        original[np.arange(len(labels)), labels] += of_class[labels]
        artifact = original + noise * added
        artifact[np.arange(len(labels)), labels] -= np.where(labels < harmed, 0.5, 0.0)
        return scored(metric, options, original, artifact, labels)

    return draw


def two_classes(
    separation: float, positives: float, noise: float = 0.3, *, family: Family = normal, digits: int | None = None
) -> Draw:
    """One score a row, higher for class 1; rounded to so many `digits`."""

    def draw(rng: Random, design: Design) -> Drawn:
        labels = np.repeat(rng.random(design.photographs) < positives, design.views).astype(np.int64)
        labels[: 2 * design.views] = np.repeat([0, 1], design.views)  # a set of one class has no area
        original, added = mixed(rng, design, lambda rows: (family(rng, (rows, 1)), family(rng, (rows, 1))))
        original = original + separation * labels[:, np.newaxis]
        artifact = original + noise * added
        if digits is not None:
            original, artifact = original.round(digits), artifact.round(digits)
        return scored("auc", LOGITS, original, artifact, labels)

    return draw


def calibrated(classes: int, temperature: float, spread: float = 2.0) -> Draw:
    """Labels drawn from the softmax of logits, which are then too sure by `temperature`."""

    def make(rng: Random, rows: int) -> Parts:
        logits = spread * rng.standard_normal((rows, classes))
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        labels = np.minimum((shares.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1), classes - 1)
        return logits, logits + 0.4 * rng.standard_normal(logits.shape), labels

    def draw(rng: Random, design: Design) -> Drawn:
        logits, noisy, labels = mixed(rng, design, lambda rows: make(rng, rows))
        return scored("ece", LOGITS, temperature * logits, temperature * noisy, labels)

    return draw


def numbers(
    metric: str,
    *,
    errors: Family = normal,
    values: Family = normal,
    error: float = 0.5,
    harm: float = 0.2,
    ranks: bool = False,
) -> Draw:
    """A number predicted with an error; the artifact errs a little more."""

    def draw(rng: Random, design: Design) -> Drawn:
        truth, off, added = mixed(
            rng,
            design,
            lambda rows: (values(rng, (rows, 1)), errors(rng, (rows, 1)), errors(rng, (rows, 1))),
        )
        original = truth + error * off
        labels = np.clip(np.round(truth[:, 0] + 2), 0, 4) if ranks else truth[:, 0]
        return scored(metric, None, original, original + harm * error * added, labels)

    return draw


def sequences(metric: str, rate: float, harm: float = 0.3, *, uneven: Family = _UNEVEN, longest: int = 40) -> Draw:
    """Rows of 5 to `longest` positions, of which a share goes wrong that differs from row to row."""

    def make(rng: Random, rows: int) -> Parts:
        lengths = rng.integers(5, longest + 1, rows)
        wrong = np.minimum(rate * uneven(rng, (rows,)), 1.0)
        before = rng.binomial(lengths, wrong)
        after = before - rng.binomial(before, harm / 2) + rng.binomial(lengths - before, np.minimum(harm * wrong, 1))
        if metric in ("token_accuracy", "next_token"):
            before, after = lengths - before, lengths - after
        if metric == "exact_match":
            return (before == 0).astype(float)[:, np.newaxis], (after == 0).astype(float)[:, np.newaxis]
        return np.stack([before, lengths], axis=1).astype(float), np.stack([after, lengths], axis=1).astype(float)

    return recorded(make)


def tokens(difficulty: Family, longest: int = 200) -> Draw:
    """Nats of 20 to `longest` tokens a row; texts differ in how hard they are."""

    def make(rng: Random, rows: int) -> Parts:
        lengths = rng.integers(20, longest + 1, rows)
        before = 3 * difficulty(rng, (rows,)) * rng.gamma(lengths, 1 / lengths) * lengths
        after = before * (1 + 0.01 * rng.lognormal(0, 1, rows))
        return np.stack([before, lengths], axis=1), np.stack([after, lengths], axis=1)

    return recorded(make)


def segmented(
    occurs: Sequence[float] = (1, 0.6, 0.4, 0.2, 0.1), *, size: Family = _UNEVEN, middle: float = 1.5
) -> Draw:
    """Counts of points of classes, of which a picture holds some."""

    def make(rng: Random, rows: int) -> Parts:
        shape = (rows, len(occurs))
        there = rng.random(shape) < np.asarray(occurs)
        points = np.where(there, 400 * size(rng, shape), 0)
        part = 1 / (1 + np.exp(-middle - rng.standard_normal(shape)))
        worse = np.clip(part - 0.05 + 0.05 * rng.standard_normal(shape), 0, 1)
        before, after = (np.concatenate([points * inside, 1.1 * points], axis=1).round() for inside in (part, worse))
        return before, after

    return recorded(make)


def recorded(make: Callable[[Random, int], Parts]) -> Draw:
    """Where what a metric keeps of rows is drawn itself."""

    def draw(rng: Random, design: Design) -> Drawn:
        before, after = mixed(rng, design, lambda rows: make(rng, rows))
        return before, after

    return draw


def embedded(classes: int, spread: float, *, family: Family = normal) -> Draw:
    """Embeddings about the middles of their classes."""
    middles = np.random.default_rng(7).standard_normal((classes, 16))

    def draw(rng: Random, design: Design) -> Drawn:
        labels = np.repeat(rng.integers(0, classes, design.photographs), design.views)
        off, added = mixed(rng, design, lambda rows: (family(rng, (rows, 16)), family(rng, (rows, 16))))
        # No two views are the same to the last bit, or each would find the other.
        original = middles[labels] + spread * off + 0.3 * rng.standard_normal(off.shape)
        return scored("retrieval_recall", None, original, original + 0.3 * added, labels)

    return draw


def followed(metric: str, noise: float = 0.1, *, loudness: Family | None = None, family: Family = normal) -> Draw:
    """An artifact's logits beside the original's; rows differ in their noise by the factor `loudness`."""

    def draw(rng: Random, design: Design) -> Drawn:
        original, added, loud = mixed(
            rng,
            design,
            lambda rows: (
                3 * rng.standard_normal((rows, 10)),
                family(rng, (rows, 10)),
                np.ones((rows, 1)) if loudness is None else loudness(rng, (rows, 1)),
            ),
        )
        return scored(metric, None, original, original + noise * loud * added, None)

    return draw


class Detected:
    """Boxes of pictures, drawn from a pool: what a metric of them costs is the matching, which is done once.

    A picture has one to `most` boxes of classes with these shares; some are missed, some displaced, some made up.
    """

    def __init__(self, shares: Sequence[float], *, most: int = 4, pictures: int = 3000, moved: float = 0.08) -> None:
        self.shares, self.most, self.pictures, self.moved = shares, most, pictures, moved

    @cache  # noqa: B019 - as many as there are populations
    def pool(self) -> Drawn:
        rng, most, rows = np.random.default_rng(99), self.most, self.pictures
        there = np.arange(most) < rng.integers(1, most + 1, (rows, 1))
        kinds = rng.choice(len(self.shares), (rows, most), p=np.asarray(self.shares))
        corners, sizes = rng.uniform(0, 500, (rows, most, 2)), rng.uniform(40, 120, (rows, most, 2))
        quality, worse = rng.standard_normal((2, rows, most))
        off, more = rng.standard_normal((2, rows, most, 2))
        luck = rng.random((rows, most))
        labels = np.concatenate([np.where(there, kinds, -1)[..., np.newaxis], corners, sizes], axis=2)
        outputs = []
        for seen, displaced in ((quality, off), (quality - 0.1 + 0.2 * worse, off + 0.2 * more)):
            shift = sizes * self.moved * np.exp(-0.5 * seen)[..., np.newaxis] * displaced
            scores = np.where(there, 1 / (1 + np.exp(-1 - 2 * seen)), 0.4 * luck)
            taken = np.where(luck < 0.05, (kinds + 1) % len(self.shares), kinds).astype(float)
            outputs.append((np.concatenate([corners + shift, sizes], axis=2), scores, taken))
        others = {"s": (outputs[0][1], outputs[1][1]), "c": (outputs[0][2], outputs[1][2])}
        return scored("coco_map", BOXES, outputs[0][0], outputs[1][0], labels, others)

    def draw(self, rng: Random, design: Design) -> Drawn:
        before, after = self.pool()
        (places,) = mixed(rng, design, lambda rows: (rng.integers(0, self.pictures, rows),))
        return before[places], after[places]

    def truth(self) -> tuple[float, float]:
        metric = arithmetic("coco_map", BOXES)
        before, after = (float(metric.linearise(records, None).value) for records in self.pool())  # type: ignore[union-attr]
        return before, after
