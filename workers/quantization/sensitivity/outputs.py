"""What a changed model does to the outputs: noise power, KL divergence and agreement, feed by feed."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from workers.evaluation.metrics import agreement, kl
from workers.evaluation.metrics.definition import Rows, no_class_axis
from workers.evaluation.metrics.sqnr_db import decibel
from workers.quantization.judged import power
from workers.quantization.qdq.plan import Array


@dataclass(frozen=True, slots=True)
class Score:
    """One feed's: power of the signal and of the noise, summed over all outputs, and the sums over `rows` rows of KL
    divergence in nats and of agreement, means over the outputs with a class axis; `rows` is 0 where there is none."""

    signal: float
    noise: float
    rows: int = 0
    kl: float = 0.0
    agreement: float = 0.0


@dataclass(frozen=True, slots=True)
class Effect:
    """At the outputs: SQNR in dB, pooled over them, and means over rows of KL divergence (nats) and of agreement.

    The last two are null where no output has a class axis, a last one of at least two.
    """

    sqnr_db: float
    kl: float | None
    agreement: float | None


def score(exact: Sequence[Array], found: Sequence[Array]) -> Score:
    """Compare the outputs of one feed; what the original leaves infinite or undefined is left out."""
    powers = [power(one, other) for one, other in zip(exact, found, strict=True)]
    pairs = [
        Rows(artifact=other, original=one)
        for one, other in zip(exact, found, strict=True)
        if one.size and no_class_axis(one) is None
    ]
    signal, noise = (sum(each[index] for each in powers) for index in (0, 1))
    if not pairs:
        return Score(signal, noise)
    # Outputs need not have as many rows as each other, so each one's mean counts.
    rows = len(pairs[0].artifact)
    means = [[float(metric.score(pair).mean()) for pair in pairs] for metric in (kl.METRIC, agreement.METRIC)]
    return Score(signal, noise, rows, *(rows * float(np.mean(each)) for each in means))


def same(exact: Sequence[Array]) -> Score:
    """What a feed scores when nothing has changed."""
    signal = sum(power(one, one)[0] for one in exact)
    rows = next((len(one) for one in exact if one.size and no_class_axis(one) is None), 0)
    return Score(signal, 0.0, rows, 0.0, float(rows))


def total(scores: Iterable[Score]) -> Score:
    """The sums over feeds."""
    found = list(scores)
    return Score(
        *(sum(getattr(each, name) for each in found) for name in ("signal", "noise", "rows", "kl", "agreement"))
    )


def scaled(found: Score, factor: float) -> Score:
    """A score with so much more noise; KL divergence grows alike."""
    return replace(found, noise=factor * found.noise, kl=factor * found.kl)


def effect(summed: Score) -> Effect:
    """The figures that sums stand for."""
    if not summed.rows:
        return Effect(decibel(summed.signal, summed.noise), None, None)
    return Effect(decibel(summed.signal, summed.noise), summed.kl / summed.rows, summed.agreement / summed.rows)
