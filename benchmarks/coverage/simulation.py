"""Populations with a known truth, and how often intervals of what is drawn from them hold it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from app.domain.metric import METRICS
from workers.evaluation.bounds import TWO_SIDED_95, Bounded, drop_bounds, metric_bounds
from workers.evaluation.metrics import arithmetic
from workers.evaluation.scores import Scores
from workers.evaluation.statistics.clusters import Floats

LEAST = 0.93
WIDEST = 1.3
RARELY = 0.05
"""The share of flags up to which none counts."""

TRUTH_ROWS = 300_000
_AT_ONCE = 50_000
_SETS = 1000
"""Of which the mean is the truth, where that depends on the size of a set."""

Random = np.random.Generator
Drawn = tuple[Floats, Floats]
"""What a metric keeps of each row, of the original and of the artifact."""


@dataclass(frozen=True)
class Design:
    """So many photographs, with so many views of each, of which two have this intra-class correlation."""

    photographs: int
    views: int = 1
    correlation: float = 0.0

    def __str__(self) -> str:
        return f"{self.photographs}" if self.views == 1 else f"{self.photographs}×{self.views}"


Draw = Callable[[Random, Design], Drawn]


@dataclass(frozen=True)
class Population:
    """Where rows come from.

    `exact` gives the exact interval of the value of independent rows, from what was drawn. The truth is `truth`, of
    original and artifact, where it is known; else that of `truth_rows`, which are 0 where it depends on the size of a
    set.
    """

    metric: str
    name: str
    draw: Draw
    options: dict[str, Any] = field(default_factory=dict)
    exact: Callable[[Floats], tuple[float, float]] | None = None
    truth_rows: int = TRUTH_ROWS
    truth: Callable[[], tuple[float, float]] | None = None


@dataclass
class Found:
    """What became of so many trials: how many intervals held the truth, how many were flagged, which of both, widths.

    `exact_held` are those of the exact interval, and `exact_width` is its mean width; 0 where there is none.
    """

    trials: int = 0
    held: int = 0
    flagged: int = 0
    held_unflagged: int = 0
    width: float = 0.0
    exact_held: int = 0
    exact_width: float = 0.0

    def add(self, found: Bounded, truth: float, exact: tuple[float, float] | None = None) -> None:
        leave = 1e-9 * max(abs(truth), 1e-6)
        holds = found.lower - leave <= truth <= found.upper + leave
        self.trials += 1
        self.held += holds
        self.flagged += found.heavy_tail
        self.held_unflagged += holds and not found.heavy_tail
        self.width += found.upper - found.lower
        if exact is not None:
            self.exact_held += exact[0] - leave <= truth <= exact[1] + leave
            self.exact_width += exact[1] - exact[0]

    @property
    def coverage(self) -> float:
        return self.held / self.trials

    @property
    def unflagged(self) -> int:
        return self.trials - self.flagged

    @property
    def coverage_unflagged(self) -> float:
        """Of the intervals without a flag; 1 where all have one."""
        return self.held_unflagged / self.unflagged if self.unflagged else 1.0

    @property
    def covered_or_flagged(self) -> float:
        return (self.held_unflagged + self.flagged) / self.trials

    @property
    def judged(self) -> float:
        """What must be 93 %: intervals that hold, or, where many are flagged, those that hold or have a flag."""
        return self.coverage if self.flagged <= RARELY * self.trials else self.covered_or_flagged

    @property
    def error(self) -> float:
        """The Monte-Carlo standard error of the coverage."""
        return standard_error(self.coverage, self.trials)

    @property
    def wider(self) -> float | None:
        """How much wider than the exact interval."""
        return self.width / self.exact_width if self.exact_width else None


def standard_error(share: float, trials: int) -> float:
    return math.sqrt(max(share * (1 - share), 1 / trials) / trials)


def simulate(population: Population, design: Design, trials: int, seed: int = 0) -> tuple[Found, Found | None]:
    """Intervals of the value and of the drop, drawn anew each time; of what compares with the original they are one."""
    truths = truth_of(population, design)
    rng = np.random.default_rng([seed, design.photographs, design.views])
    groups = np.repeat(np.arange(design.photographs), design.views) if design.views > 1 else None
    ideal = METRICS[population.metric].relative_to_original
    value, drop = Found(), None if ideal else Found()
    for _ in range(trials):
        original, artifact = (Scores(values, population.options, groups) for values in population.draw(rng, design))
        judged = artifact if ideal else original
        exact = population.exact(judged.values) if population.exact is not None and groups is None else None
        value.add(metric_bounds(population.metric, judged, TWO_SIDED_95), truths[0], exact)
        if drop is not None:
            drop.add(drop_bounds(population.metric, original, artifact, TWO_SIDED_95), truths[1])
    return value, drop


_TRUTHS: dict[tuple[str, str, Design | None, int], tuple[float, float]] = {}


def truth_of(population: Population, design: Design) -> tuple[float, float]:
    """Value and drop of the population."""
    great = population.truth_rows > 0
    key = (population.metric, population.name, None if great else design, population.truth_rows)
    if key not in _TRUTHS:
        before, after = population.truth() if population.truth is not None else _simulated(population, design)
        described = METRICS[population.metric]
        sign = 1 if described.better == "higher" else -1
        if described.relative_to_original:
            ideal = arithmetic(population.metric, population.options).ideal
            assert ideal is not None
            _TRUTHS[key] = after, sign * (ideal - after)
        else:
            _TRUTHS[key] = before, sign * (before - after)
    return _TRUTHS[key]


def _simulated(population: Population, design: Design) -> tuple[float, float]:
    """Of one great set, or the mean of many of this size; of original and artifact."""
    rng = np.random.default_rng(12345)
    if population.truth_rows:
        blocks = [population.draw(rng, Design(_AT_ONCE)) for _ in range(math.ceil(population.truth_rows / _AT_ONCE))]
        before, after = (value_of(population, np.concatenate(parts)) for parts in zip(*blocks, strict=True))
        return before, after
    sets = [population.draw(rng, design) for _ in range(_SETS)]
    before, after = np.array([[value_of(population, one) for one in pair] for pair in sets]).mean(axis=0)
    return float(before), float(after)


def value_of(population: Population, values: Floats) -> float:
    metric = arithmetic(population.metric, population.options)
    if hasattr(metric, "linearise"):
        return float(metric.linearise(values, None).value)
    return float(metric.value(values.mean(axis=0)))


def of_metrics(populations: Sequence[Population], metrics: Sequence[str]) -> list[Population]:
    return [one for one in populations if not metrics or one.metric in metrics]


# The exact intervals.


def clopper_pearson(values: Floats) -> tuple[float, float]:
    from scipy.stats import beta

    right, rows = round(float(values.sum())), len(values)
    lower = float(beta.ppf(1 - TWO_SIDED_95, right, rows - right + 1)) if right else 0.0
    upper = float(beta.ppf(TWO_SIDED_95, right + 1, rows - right)) if right < rows else 1.0
    return lower, upper


def student(values: Floats) -> tuple[float, float]:
    from scipy.special import stdtrit

    rows, centre = len(values), float(values[:, 0].mean())
    reach = float(stdtrit(rows - 1, TWO_SIDED_95)) * float(values[:, 0].std(ddof=1)) / math.sqrt(rows)
    return centre - reach, centre + reach


def delong(values: Floats) -> tuple[float, float]:
    """By the definition: placements of each row among those of the other class."""
    positive, negative = values[values[:, 0] == 1, 1], values[values[:, 0] == 0, 1]
    wins = (positive[:, np.newaxis] > negative) + 0.5 * (positive[:, np.newaxis] == negative)
    variance = wins.mean(axis=1).var(ddof=1) / len(positive) + wins.mean(axis=0).var(ddof=1) / len(negative)
    reach = 1.959964 * math.sqrt(float(variance))
    return float(wins.mean()) - reach, float(wins.mean()) + reach
