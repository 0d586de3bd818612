"""Latencies of calls that follow each other, each like the one before, and intervals of their median."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtr
from scipy.stats import binom

from benchmarks.coverage.simulation import Found, Random
from workers.evaluation.bounds import TWO_SIDED_95, Bounded
from workers.evaluation.statistics.clusters import Floats
from workers.evaluation.statistics.series import median_bounds

METRIC = "latency of calls"


@dataclass(frozen=True)
class Series:
    """Normal numbers, each `correlation` times the one before and its own noise, as a latency that rises with them.

    The second-last one counts with `second`. `truth` is the latency's median.
    """

    name: str
    correlation: float
    latency: Callable[[Floats], Floats]
    truth: float
    second: float = 0.0

    def draw(self, rng: Random, calls: int) -> Floats:
        before = 200
        noise = rng.standard_normal(before + calls)
        found = np.zeros(before + calls)
        for call in range(2, before + calls):
            found[call] = self.correlation * found[call - 1] + self.second * found[call - 2] + noise[call]
        # Stationary variance of an autoregression of two: G. Box and G. Jenkins, "Time Series Analysis", 3.2.
        first, second = self.correlation, self.second
        variance = (1 - second) / ((1 + second) * ((1 - second) ** 2 - first**2))
        return self.latency(found[before:] / math.sqrt(variance))


def _log_normal(values: Floats) -> Floats:
    return np.asarray(np.exp(0.3 * values))


def _gamma(values: Floats) -> Floats:
    """10 ms and an exponential wait, by its quantiles."""
    return np.asarray(10 - np.log1p(-np.clip(_uniform(values), 0, 1 - 1e-15)))


def _two_modes(values: Floats) -> Floats:
    """Three in ten calls take half as long again; the median lies among the others."""
    shares = _uniform(values)
    return np.asarray(np.where(shares < 0.7, 10 + shares, 15 + shares))


def _uniform(values: Floats) -> Floats:
    return np.asarray(stdtr(1e9, values))


DESIGNS = (140, 500)

DEVELOPMENT = (
    Series("normal, 0", 0.0, lambda values: values, 0.0),
    Series("normal, 0.5", 0.5, lambda values: values, 0.0),
    Series("normal, 0.8", 0.8, lambda values: values, 0.0),
    Series("log-normal, 0.8", 0.8, _log_normal, 1.0),
)
FRESH = (
    Series("exponential, 0.5", 0.5, _gamma, 10 + math.log(2)),
    Series("exponential, 0.8", 0.8, _gamma, 10 + math.log(2)),
    Series("two modes, 0.5", 0.5, _two_modes, 10.5),
    Series("two modes, 0.8", 0.8, _two_modes, 10.5),
    Series("of two before", 0.5, _log_normal, 1.0, 0.25),
)


def simulate_series(series: Series, calls: int, trials: int, seed: int = 0) -> Found:
    """Intervals of the median; the exact one is of order statistics of independent calls, where calls are that."""
    rng, found = np.random.default_rng([seed, calls]), Found()
    low = int(binom.ppf(1 - TWO_SIDED_95, calls, 0.5))
    for _ in range(trials):
        samples = series.draw(rng, calls)
        lower, upper = median_bounds(samples, TWO_SIDED_95)
        ordered = np.sort(samples)
        alone = series.correlation == series.second == 0
        exact = (float(ordered[low - 1]), float(ordered[calls - low])) if alone else None
        found.add(Bounded(float(np.median(samples)), lower, upper), series.truth, exact)
    return found
