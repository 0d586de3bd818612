"""Do the intervals of metrics hold the truth as often as they say? Simulated, on populations whose truth is known.

`python -m benchmarks.coverage [METRIC …] [--trials N]` draws sets of 140 and 500 rows, and of 140 photographs with 4
views each (intra-class correlation 0.5), and prints for every metric how many of the two-sided 95 % intervals of its
value and of its paired drop hold the truth, and how wide they are on average; beside, where there is one, the width of
the exact interval of independent rows: Clopper and Pearson's for shares, Student's t for means, DeLong's normal one
for areas under curves. The truth is that of a set of a million rows; where the value of a set depends on its size
(retrieval), the mean of many sets. `no` under covers is below 93 % by more than chance.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.metric import METRICS
from workers.evaluation.bounds import TWO_SIDED_95, drop_bounds, metric_bounds
from workers.evaluation.metrics import arithmetic
from workers.evaluation.metrics.definition import Rows
from workers.evaluation.scores import Scores
from workers.evaluation.statistics.clusters import Floats

VIEWS, CORRELATION = 4, 0.5
DESIGNS = ((140, 1), (500, 1), (140, VIEWS))
"""Photographs, and views of each."""

LEAST = 0.93
TRUTH_ROWS = 1_000_000
_AT_ONCE = 50_000

Random = np.random.Generator
Drawn = tuple[Floats, Floats]
"""What a metric keeps of each row, of the original and of the artifact."""


@dataclass(frozen=True)
class Population:
    """Where rows come from: `draw` gives those of so many photographs with so many views each.

    `exact` is the width of the exact interval of the value of independent rows, from what was drawn. `truth_rows` are
    those the truth is taken from; 0 where it depends on the size of a set.
    """

    metric: str
    name: str
    draw: Callable[[Random, int, int], Drawn]
    options: dict[str, Any] = field(default_factory=dict)
    exact: Callable[[Floats], float] | None = None
    truth_rows: int = TRUTH_ROWS
    share_of_trials: float = 1.0


@dataclass(frozen=True)
class Found:
    """Of so many trials: how many intervals held the truth, their mean width, and that of the exact ones."""

    trials: int
    held: int
    width: float
    exact: float | None
    missed_below: int

    @property
    def coverage(self) -> float:
        return self.held / self.trials

    @property
    def error(self) -> float:
        """The Monte-Carlo standard error of the coverage."""
        return math.sqrt(max(self.coverage * (1 - self.coverage), 1 / self.trials) / self.trials)


def simulate(population: Population, photographs: int, views: int, trials: int, seed: int = 0) -> tuple[Found, Found]:
    """Intervals of the value and of the drop, drawn anew each time."""
    truths = _truth(population, photographs, views)
    rng = np.random.default_rng([seed, photographs, views])
    groups = np.repeat(np.arange(photographs), views) if views > 1 else None
    held, below, widths, exact = np.zeros(2, int), np.zeros(2, int), np.zeros(2), 0.0
    for _ in range(trials):
        original, artifact = (
            Scores(values, population.options, groups) for values in population.draw(rng, photographs, views)
        )
        ideal = METRICS[population.metric].relative_to_original
        bounds = (
            metric_bounds(population.metric, artifact if ideal else original, TWO_SIDED_95),
            drop_bounds(population.metric, original, artifact, TWO_SIDED_95),
        )
        for side, (found, truth) in enumerate(zip(bounds, truths, strict=True)):
            leave = 1e-9 * max(abs(truth), 1e-6)
            held[side] += found.lower - leave <= truth <= found.upper + leave
            below[side] += truth < found.lower - leave
            widths[side] += (found.upper - found.lower) / trials
        if population.exact is not None and views == 1:
            exact += population.exact((artifact if ideal else original).values) / trials
    value, drop = (
        Found(trials, int(held[side]), float(widths[side]), exact or None if side == 0 else None, int(below[side]))
        for side in (0, 1)
    )
    return value, drop


_TRUTHS: dict[tuple[str, str, int, int], tuple[float, float]] = {}


def _truth(population: Population, photographs: int, views: int) -> tuple[float, float]:
    """Value and drop of the population: of one great set, or the mean of many of this size."""
    great = population.truth_rows > 0
    key = (population.metric, population.name, *((0, 0) if great else (photographs, views)))
    if key not in _TRUTHS:
        rng = np.random.default_rng(12345)
        sets: list[Drawn] = []
        if great:
            blocks = [population.draw(rng, _AT_ONCE, 1) for _ in range(math.ceil(population.truth_rows / _AT_ONCE))]
            sets = [tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))]  # type: ignore[list-item]
        else:
            sets = [population.draw(rng, photographs, views) for _ in range(3000)]
        values = np.array([[_value(population, one) for one in pair] for pair in sets]).mean(axis=0)
        described = METRICS[population.metric]
        sign = 1 if described.better == "higher" else -1
        if described.relative_to_original:
            ideal = arithmetic(population.metric, population.options).ideal
            assert ideal is not None
            _TRUTHS[key] = float(values[1]), sign * (ideal - float(values[1]))
        else:
            _TRUTHS[key] = float(values[0]), sign * float(values[0] - values[1])
    return _TRUTHS[key]


def _value(population: Population, values: Floats) -> float:
    metric = arithmetic(population.metric, population.options)
    if hasattr(metric, "linearise"):
        return float(metric.linearise(values, None).value)
    return float(metric.value(values.mean(axis=0)))


# The exact intervals.


def clopper_pearson(values: Floats) -> float:
    from scipy.stats import binomtest

    found = binomtest(round(float(values.sum())), len(values)).proportion_ci(0.95, method="exact")
    return float(found.high - found.low)


def student(values: Floats) -> float:
    from scipy.stats import t

    reach = t.ppf(TWO_SIDED_95, len(values) - 1) * values[:, 0].std(ddof=1) / math.sqrt(len(values))
    return 2 * float(reach)


def delong(values: Floats) -> float:
    """By the definition: placements of each row among those of the other class."""
    positive, negative = values[values[:, 0] == 1, 1], values[values[:, 0] == 0, 1]
    wins = (positive[:, np.newaxis] > negative) + 0.5 * (positive[:, np.newaxis] == negative)
    variance = wins.mean(axis=1).var(ddof=1) / len(positive) + wins.mean(axis=0).var(ddof=1) / len(negative)
    return 2 * 1.959964 * math.sqrt(float(variance))


# What rows are made of.


Parts = tuple[NDArray[Any], ...]


def mixed(rng: Random, photographs: int, views: int, make: Callable[[int], Parts]) -> Parts:
    """Arrays that `make` gives of so many rows. With several views a photograph, two of them are alike in half the
    cases, so that whatever is computed of a row has this intra-class correlation, and no row another distribution."""
    if views == 1:
        return make(photographs)
    shared, own = make(photographs), make(photographs * views)
    of_all = rng.random(photographs * views) < math.sqrt(CORRELATION)
    places = np.repeat(np.arange(photographs), views)
    return tuple(
        np.where(of_all.reshape(-1, *([1] * (one.ndim - 1))), first[places], one)
        for first, one in zip(shared, own, strict=True)
    )


def classified(
    metric: str,
    options: dict[str, Any] | None = None,
    *,
    shares: Sequence[float] = (0.1,) * 10,
    margin: float | Sequence[float] = 2.9,
    noise: float = 0.35,
    harmed: int = 0,
) -> Callable[[Random, int, int], Drawn]:
    """Logits of classes: the right one stands out by `margin`; the artifact has noise, and harms some classes."""
    of_class = np.broadcast_to(np.asarray(margin, float), (len(shares),))

    def draw(rng: Random, photographs: int, views: int) -> Drawn:
        labels = np.repeat(rng.choice(len(shares), photographs, p=np.asarray(shares)), views)
        original, added = mixed(
            rng, photographs, views, lambda rows: tuple(rng.standard_normal((2, rows, len(shares))))
        )
        original[np.arange(len(labels)), labels] += of_class[labels]
        artifact = original + noise * added
        artifact[np.arange(len(labels)), labels] -= np.where(labels < harmed, 0.5, 0.0)
        return scored(metric, options, original, artifact, labels)

    return draw


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


def two_classes(separation: float, positives: float, noise: float = 0.3) -> Callable[[Random, int, int], Drawn]:
    def draw(rng: Random, photographs: int, views: int) -> Drawn:
        labels = np.repeat(rng.random(photographs) < positives, views).astype(np.int64)
        labels[: 2 * views] = np.repeat([0, 1], views)  # a set of one class has no area
        original, added = mixed(rng, photographs, views, lambda rows: tuple(rng.standard_normal((2, rows, 1))))
        original = original + separation * labels[:, np.newaxis]
        return scored("auc", LOGITS, original, original + noise * added, labels)

    return draw


def calibrated(classes: int, temperature: float) -> Callable[[Random, int, int], Drawn]:
    """Labels drawn from the softmax of logits, which are then too sure by `temperature`."""

    def make(rng: Random, rows: int) -> Parts:
        logits = 2 * rng.standard_normal((rows, classes))
        shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        labels = np.minimum((shares.cumsum(axis=1) < rng.random((rows, 1))).sum(axis=1), classes - 1)
        return logits, logits + 0.4 * rng.standard_normal(logits.shape), labels

    def draw(rng: Random, photographs: int, views: int) -> Drawn:
        logits, noisy, labels = mixed(rng, photographs, views, lambda rows: make(rng, rows))
        return scored("ece", LOGITS, temperature * logits, temperature * noisy, labels)

    return draw


def numbers(
    metric: str, *, tails: str = "normal", error: float = 0.5, rank: bool = False
) -> Callable[[Random, int, int], Drawn]:
    """A number predicted with an error, normal, of heavy tails (Student's t with 5) or very heavy ones (log-normal);
    the artifact errs a little more."""

    def errors(rng: Random, rows: int) -> NDArray[Any]:
        if tails == "heavy":
            return rng.standard_t(5, (2, rows, 1))
        found = rng.standard_normal((2, rows, 1))
        return found if tails == "normal" else np.sign(found) * (np.exp(np.abs(found)) - 1)

    def draw(rng: Random, photographs: int, views: int) -> Drawn:
        truth, off, added = mixed(
            rng, photographs, views, lambda rows: (rng.standard_normal((rows, 1)), *errors(rng, rows))
        )
        original = truth + error * off
        labels = np.clip(np.round(truth[:, 0] + 2), 0, 4) if rank else truth[:, 0]
        return scored(metric, None, original, original + 0.2 * error * added, labels)

    return draw


def sequences(metric: str, rate: float, harm: float = 0.3) -> Callable[[Random, int, int], Drawn]:
    """Rows of 5 to 40 positions, of which a share goes wrong that differs from row to row."""

    def make(rng: Random, rows: int) -> Parts:
        lengths = rng.integers(5, 41, rows)
        wrong = np.minimum(rate * rng.lognormal(-0.5, 1, rows), 1.0)
        before = rng.binomial(lengths, wrong)
        after = before - rng.binomial(before, harm / 2) + rng.binomial(lengths - before, np.minimum(harm * wrong, 1))
        if metric in ("token_accuracy", "next_token"):
            before, after = lengths - before, lengths - after
        if metric == "exact_match":
            return (before == 0).astype(float)[:, np.newaxis], (after == 0).astype(float)[:, np.newaxis]
        return np.stack([before, lengths], axis=1).astype(float), np.stack([after, lengths], axis=1).astype(float)

    return recorded(make)


def tokens(spread: float) -> Callable[[Random, int, int], Drawn]:
    """Nats of 20 to 200 tokens a row; texts differ in how hard they are."""

    def make(rng: Random, rows: int) -> Parts:
        lengths = rng.integers(20, 201, rows)
        before = 3 * rng.lognormal(-(spread**2) / 2, spread, rows) * rng.gamma(lengths, 1 / lengths) * lengths
        after = before * (1 + 0.01 * rng.lognormal(0, 1, rows))
        return np.stack([before, lengths], axis=1), np.stack([after, lengths], axis=1)

    return recorded(make)


def segmented(rng: Random, rows: int) -> Parts:
    """Five classes, of which a picture holds some; counts of points."""
    there = rng.random((rows, 5)) < np.array([1, 0.6, 0.4, 0.2, 0.1])
    size = np.where(there, rng.lognormal(6, 1, (rows, 5)), 0)
    part = 1 / (1 + np.exp(-1.5 - rng.standard_normal((rows, 5))))
    worse = np.clip(part - 0.05 + 0.05 * rng.standard_normal((rows, 5)), 0, 1)
    before, after = (np.concatenate([size * inside, 1.1 * size], axis=1).round() for inside in (part, worse))
    return before, after


def recorded(make: Callable[[Random, int], Parts]) -> Callable[[Random, int, int], Drawn]:
    """Where what a metric keeps of rows is drawn itself."""

    def draw(rng: Random, photographs: int, views: int) -> Drawn:
        before, after = mixed(rng, photographs, views, lambda rows: make(rng, rows))
        return before, after

    return draw


def embedded(classes: int, spread: float) -> Callable[[Random, int, int], Drawn]:
    """Embeddings about the middles of their classes."""
    middles = np.random.default_rng(7).standard_normal((classes, 16))

    def draw(rng: Random, photographs: int, views: int) -> Drawn:
        labels = np.repeat(rng.integers(0, classes, photographs), views)
        off, added = mixed(rng, photographs, views, lambda rows: tuple(rng.standard_normal((2, rows, 16))))
        # No two views are the same to the last bit, or each would find the other.
        original = middles[labels] + spread * off + 0.3 * rng.standard_normal(off.shape)
        return scored("retrieval_recall", None, original, original + 0.3 * added, labels)

    return draw


def detected(rng: Random, photographs: int, views: int) -> Drawn:
    """One to four boxes a picture of three classes; some are missed, some displaced, some made up."""
    most = 4

    def make(rows: int) -> Parts:
        return (
            rng.integers(1, most + 1, (rows, 1)),
            rng.choice(3, (rows, most), p=[0.6, 0.3, 0.1]),
            rng.uniform(0, 500, (rows, most, 2)),
            rng.uniform(40, 120, (rows, most, 2)),
            *rng.standard_normal((2, rows, most)),
            *rng.standard_normal((2, rows, most, 2)),
            rng.random((rows, most)),
        )

    count, kinds, corners, sizes, quality, worse, moved, more, luck = mixed(rng, photographs, views, make)
    there = np.arange(most) < count
    labels = np.concatenate([np.where(there, kinds, -1)[..., np.newaxis], corners, sizes], axis=2)
    outputs = []
    for seen, off in ((quality, moved), (quality - 0.1 + 0.2 * worse, moved + 0.2 * more)):
        boxes = np.concatenate([corners + sizes * 0.08 * np.exp(-0.5 * seen)[..., np.newaxis] * off, sizes], axis=2)
        scores = np.where(there, 1 / (1 + np.exp(-1 - 2 * seen)), 0.4 * luck)
        outputs.append((boxes, scores, np.where(luck < 0.05, (kinds + 1) % 3, kinds).astype(float)))
    others = {"s": (outputs[0][1], outputs[1][1]), "c": (outputs[0][2], outputs[1][2])}
    return scored("coco_map", BOXES, outputs[0][0], outputs[1][0], labels, others)


def followed(metric: str, noise: float = 0.1, tails: float = 0.0) -> Callable[[Random, int, int], Drawn]:
    """An artifact's logits beside the original's; `tails` spreads the logarithm of rows' noise."""

    def draw(rng: Random, photographs: int, views: int) -> Drawn:
        original, added, loud = mixed(
            rng,
            photographs,
            views,
            lambda rows: (*rng.standard_normal((2, rows, 10)), rng.standard_normal((rows, 1))),
        )
        artifact = 3 * original + noise * np.exp(tails * loud) * added
        return scored(metric, None, 3 * original, artifact, None)

    return draw


LOGITS = {"scores": "logits"}
BOXES = {"scores": "s", "classes": "c", "format": "xywh"}
RARE = (0.3, 0.25, 0.2, 0.1, 0.05, 0.05, 0.05)

POPULATIONS: tuple[Population, ...] = (
    Population("top1", "nine in ten", classified("top1"), exact=clopper_pearson),
    Population("top1", "near 1", classified("top1", margin=4.6), exact=clopper_pearson),
    Population("top1", "one in thousands wrong", classified("top1", margin=5.5), exact=clopper_pearson),
    Population("top1", "near 0", classified("top1", margin=-0.7), exact=clopper_pearson),
    Population("top5", "near 1", classified("top5", margin=2.5), exact=clopper_pearson),
    *(
        Population(metric, name, classified(metric, options, **more), options or {})
        for metric, options in (
            ("f1", None),
            ("f1", {"average": "weighted"}),
            ("f1", {"average": "micro"}),
            ("balanced_accuracy", None),
            ("worst_class", None),
        )
        for name, more in (
            (f"{(options or {}).get('average', '')} even classes".strip(), {}),
            (f"{(options or {}).get('average', '')} rare classes".strip(), {"shares": RARE, "harmed": 3}),
            (
                f"{(options or {}).get('average', '')} rare, near 1".strip(),
                {"shares": RARE, "margin": (4.6, 4.6, 4.6, 4.6, 4, 4, 3.5)},
            ),
        )
    ),
    Population("auc", "even", two_classes(1.8, 0.5), LOGITS, delong),
    Population("auc", "rare positives", two_classes(1.8, 0.08), LOGITS, delong),
    Population("auc", "near 1", two_classes(3.5, 0.3), LOGITS, delong),
    Population(
        "auc",
        "five classes",
        classified("auc", LOGITS, shares=(0.4, 0.3, 0.1, 0.1, 0.1), margin=2.0),
        LOGITS,
        truth_rows=400_000,
    ),
    Population("ece", "too sure", calibrated(5, 1.8), LOGITS),
    Population("ece", "calibrated", calibrated(5, 1.0), LOGITS),
    Population("mae", "normal errors", numbers("mae"), exact=student),
    Population("mae", "very heavy tails", numbers("mae", tails="very heavy"), exact=student),
    Population("rmse", "normal errors", numbers("rmse")),
    Population("rmse", "heavy tails", numbers("rmse", tails="heavy")),
    Population("rmse", "very heavy tails", numbers("rmse", tails="very heavy")),
    Population("r2", "normal errors", numbers("r2")),
    Population("r2", "heavy tails", numbers("r2", tails="heavy")),
    Population("r2", "very heavy tails", numbers("r2", tails="very heavy")),
    Population("pearson", "0.9", numbers("pearson")),
    Population("pearson", "0.3", numbers("pearson", error=3.0)),
    Population("pearson", "very heavy tails", numbers("pearson", tails="very heavy")),
    Population("spearman", "0.9", numbers("spearman"), truth_rows=400_000),
    Population("spearman", "0.3", numbers("spearman", error=3.0), truth_rows=400_000),
    Population("spearman", "ranks of five", numbers("spearman", rank=True), truth_rows=400_000),
    Population("token_accuracy", "nine in ten", sequences("token_accuracy", 0.1)),
    Population("token_accuracy", "near 1", sequences("token_accuracy", 0.002)),
    Population("cer", "a tenth", sequences("cer", 0.1)),
    Population("cer", "near 0", sequences("cer", 0.002)),
    Population("wer", "a third", sequences("wer", 0.3), {"separator": 0}),
    Population("exact_match", "a half", sequences("exact_match", 0.04), exact=clopper_pearson),
    Population("perplexity", "even texts", tokens(0.2)),
    Population("perplexity", "uneven texts", tokens(0.6)),
    Population("next_token", "near 1", sequences("next_token", 0.01)),
    Population("coco_map", "three classes", detected, BOXES, truth_rows=20_000, share_of_trials=0.2),
    Population("miou", "five classes", recorded(segmented)),
    Population("retrieval_recall", "20 classes", embedded(20, 1.5), truth_rows=0, share_of_trials=0.5),
    Population("agreement", "near 1", followed("agreement"), exact=clopper_pearson),
    Population("agreement", "nine in ten", followed("agreement", 0.4), exact=clopper_pearson),
    Population("sqnr_db", "even noise", followed("sqnr_db")),
    Population("sqnr_db", "loud rows", followed("sqnr_db", tails=0.5)),
    Population("sqnr_db", "very loud rows", followed("sqnr_db", tails=1.0)),
    Population("cosine", "even noise", followed("cosine"), exact=student),
    Population("cosine", "loud rows", followed("cosine", tails=0.5), exact=student),
    Population("cosine", "very loud rows", followed("cosine", tails=1.0), exact=student),
    Population("kl", "even noise", followed("kl"), exact=student),
    Population("kl", "loud rows", followed("kl", tails=0.5), exact=student),
    Population("kl", "very loud rows", followed("kl", tails=1.0), exact=student),
    Population("max_error", "even noise", followed("max_error"), truth_rows=TRUTH_ROWS),
)


def lines(populations: Sequence[Population], trials: int) -> Iterator[str]:
    """The table, row by row."""
    yield (
        f"{'metric':18} {'population':20} {'rows':>9}  {'value':>7} {'covers':>14} {'width':>9} {'÷ exact':>8}"
        f"  {'drop':>9} {'covers':>14} {'width':>9} {'ms':>6}"
    )
    for population in populations:
        for photographs, views in DESIGNS:
            count = max(round(trials * population.share_of_trials), 10)
            truths = _truth(population, photographs, views)
            started = time.perf_counter()
            value, drop = simulate(population, photographs, views, count)
            spent = 1000 * (time.perf_counter() - started) / count
            rows = str(photographs) if views == 1 else f"{photographs} × {views}"
            exact = f"{value.width / value.exact:.2f}" if value.exact else "·"
            yield (
                f"{population.metric:18} {population.name:20} {rows:>9}  {truths[0]:7.4g} {_said(value)} "
                f"{value.width:9.4g} {exact:>8}  {truths[1]:9.3g} {_said(drop)} {drop.width:9.4g} {spent:6.1f}"
            )


def _said(found: Found) -> str:
    low = " no" if found.coverage + 2 * found.error < LEAST else ""
    return f"{f'{100 * found.coverage:.1f} ± {100 * found.error:.1f}{low}':>14}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Coverage and width of the intervals of all metrics, simulated.")
    parser.add_argument("metrics", nargs="*", help="metrics to look at; all of them if left out")
    parser.add_argument("--trials", type=int, default=1000, help="sets drawn of each population and design")
    given = parser.parse_args()
    for line in lines([one for one in POPULATIONS if not given.metrics or one.metric in given.metrics], given.trials):
        print(line, flush=True)


if __name__ == "__main__":
    main()
