"""Populations of other families, shares and correlations: no method or constant of an interval was chosen by these."""

import math

import numpy as np

from benchmarks.coverage.drawing import (
    BOXES,
    LOGITS,
    Detected,
    Family,
    calibrated,
    classified,
    embedded,
    followed,
    numbers,
    segmented,
    sequences,
    student,
    tokens,
    two_classes,
)
from benchmarks.coverage.simulation import Design, Population, Random, clopper_pearson, delong
from benchmarks.coverage.simulation import student as exact_mean
from workers.evaluation.statistics.clusters import Floats

DESIGNS = (Design(140), Design(500), Design(140, 4, 0.7))


def laplace(rng: Random, shape: tuple[int, ...]) -> Floats:
    return rng.laplace(0, 1 / math.sqrt(2), shape)


def gamma(form: float) -> Family:
    """Of mean 1."""
    return lambda rng, shape: rng.gamma(form, 1 / form, shape)


def weibull(form: float) -> Family:
    return lambda rng, shape: rng.weibull(form, shape)


def beta(first: float, second: float) -> Family:
    return lambda rng, shape: rng.beta(first, second, shape)


def pareto(index: float) -> Family:
    """Lomax's, with moments below `index`."""
    return lambda rng, shape: 1 + rng.pareto(index, shape)


def contaminated(share: float, factor: float) -> Family:
    """Normal, and a share of it so many times as wide."""

    def draw(rng: Random, shape: tuple[int, ...]) -> Floats:
        return np.asarray(rng.standard_normal(shape) * np.where(rng.random(shape) < share, factor, 1.0))

    return draw


def two_kinds(share: float, factor: float) -> Family:
    """1, and for a share of the rows so many times as much."""
    return lambda rng, shape: np.where(rng.random(shape) < share, factor, 1.0)


def skewed(rng: Random, shape: tuple[int, ...]) -> Floats:
    """Gamma of form 2 about its mean."""
    return np.asarray(rng.gamma(2, 1 / math.sqrt(2), shape) - math.sqrt(2))


def uniform(rng: Random, shape: tuple[int, ...]) -> Floats:
    return rng.uniform(-1.7, 1.7, shape)


_GEOMETRIC = tuple(0.5 ** (place + 1) / (1 - 0.5**6) for place in range(6))
_TWO_KINDS = Detected((0.8, 0.2), most=6, moved=0.11)

POPULATIONS: tuple[Population, ...] = (
    Population("top1", "four of five", classified("top1", shares=(0.25,) * 4, margin=1.9), exact=clopper_pearson),
    Population("top1", "a half", classified("top1", shares=(0.02,) * 50, margin=2.3), exact=clopper_pearson),
    Population("top1", "near 1, Laplace", classified("top1", margin=4.8, family=laplace), exact=clopper_pearson),
    Population("top5", "two of three", classified("top5", shares=(0.02,) * 50, margin=1.9), exact=clopper_pearson),
    *(
        Population(metric, f"{said}{name}", classified(metric, options, **more), options or {})  # type: ignore[arg-type]
        for metric, options, said in (
            ("f1", None, ""),
            ("f1", {"average": "weighted"}, "weighted, "),
            ("f1", {"average": "micro"}, "micro, "),
            ("balanced_accuracy", None, ""),
            ("worst_class", None, ""),
        )
        for name, more in (
            ("halving classes", {"shares": _GEOMETRIC, "margin": 2.2, "family": laplace}),
            ("one in twelve", {"shares": (0.92, 0.08), "margin": 2.4, "family": student(5)}),
        )
    ),
    Population("auc", "three in ten, skewed", two_classes(1.0, 0.3, family=skewed), LOGITS, delong),
    Population("auc", "one in eight, rounded", two_classes(1.4, 0.12, digits=0), LOGITS, delong),
    Population("auc", "near 1, t", two_classes(5.0, 0.4, family=student(5)), LOGITS, delong),
    Population("auc", "three classes", classified("auc", LOGITS, shares=(0.6, 0.3, 0.1), margin=1.2), LOGITS),
    Population("ece", "a little too sure", calibrated(10, 1.3), LOGITS),
    Population("ece", "not sure enough", calibrated(3, 0.6, 1.5), LOGITS),
    Population("mae", "Laplace errors", numbers("mae", errors=laplace), exact=exact_mean),
    Population("mae", "one in twenty far off", numbers("mae", errors=contaminated(0.05, 5)), exact=exact_mean),
    Population("rmse", "skewed errors", numbers("rmse", errors=skewed)),
    Population("rmse", "t of 7", numbers("rmse", errors=student(7))),
    Population("rmse", "one in twenty far off", numbers("rmse", errors=contaminated(0.05, 5))),
    Population("r2", "uniform labels", numbers("r2", values=uniform, error=0.4)),
    Population("r2", "skewed both", numbers("r2", errors=skewed, values=skewed, error=0.8)),
    Population("r2", "one in twenty far off", numbers("r2", errors=contaminated(0.05, 5))),
    Population("pearson", "0.95, Laplace", numbers("pearson", errors=laplace, error=0.33)),
    Population("pearson", "0.6, skewed", numbers("pearson", errors=skewed, values=skewed, error=1.33)),
    Population("pearson", "0.7, t of 7", numbers("pearson", errors=student(7), values=student(7), error=1.0)),
    Population("spearman", "0.95, Laplace", numbers("spearman", errors=laplace, error=0.33)),
    Population("spearman", "0.6, skewed", numbers("spearman", errors=skewed, values=skewed, error=1.33)),
    Population("token_accuracy", "four of five", sequences("token_accuracy", 1.0, uneven=beta(2, 8))),
    Population("token_accuracy", "near 1", sequences("token_accuracy", 0.004, uneven=gamma(0.5))),
    Population("cer", "a quarter", sequences("cer", 1.0, uneven=beta(1, 3))),
    Population("cer", "near 0", sequences("cer", 0.01, uneven=gamma(1), longest=100)),
    Population("wer", "a tenth", sequences("wer", 0.1, uneven=weibull(0.8)), {"separator": 0}),
    Population("exact_match", "three of four", sequences("exact_match", 0.015, uneven=gamma(1)), exact=clopper_pearson),
    Population("perplexity", "gamma of 4", tokens(gamma(4))),
    Population("perplexity", "Weibull of 1.5", tokens(weibull(1.5), longest=60)),
    Population("next_token", "near 1", sequences("next_token", 0.02, uneven=gamma(0.5), longest=80)),
    Population("coco_map", "two classes", _TWO_KINDS.draw, BOXES, truth=_TWO_KINDS.truth),
    Population("miou", "eight classes", segmented((1, 0.8, 0.7, 0.5, 0.4, 0.3, 0.2, 0.15), size=gamma(1), middle=0.7)),
    Population("miou", "two classes", segmented((1, 0.3), size=gamma(2), middle=2.5)),
    Population("retrieval_recall", "8 classes", embedded(8, 2.5, family=laplace), truth_rows=0),
    Population("agreement", "0.97", followed("agreement", 0.15, family=laplace), exact=clopper_pearson),
    *(
        Population(metric, name, followed(metric, loudness=loud), exact=None if metric == "sqnr_db" else exact_mean)
        for metric in ("sqnr_db", "cosine", "kl")
        for name, loud in (
            ("gamma loudness", gamma(4)),
            ("one in ten louder", two_kinds(0.1, 3)),
            ("Weibull loudness", weibull(1)),
            ("Pareto loudness", pareto(5)),
        )
    ),
    Population("max_error", "gamma loudness", followed("max_error", loudness=gamma(4))),
)
