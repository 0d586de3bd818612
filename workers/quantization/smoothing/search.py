"""Which divisor of an activation's channels serves its products best, and which channels are better left in float."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from workers.quantization.affine import Array, WeightType
from workers.quantization.smoothing.seen import Seen
from workers.quantization.smoothing.shared import Shared

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
APART = (0, 1, 2, 4, 8, 16, 32)
"""How many channels are tried in float."""
LEAST_GAIN = 0.9
"""A share of the error that has to be left at most: smoothing that leaves more is not worth a changed model."""
_LEAST_GAIN_OF_NODES = 0.7
"""The same, where nodes are added for it, or more channels are kept."""
_LEAST_OUTLIER = 3.0
"""Of the median: what a channel that is computed apart may at least put into a product beside what others do."""
_LEAST_CHANNELS, _FEW, _CHANNELS_FOR_ONE = 64, 8, 48
"""Of an activation, for some to be computed apart; and how many that may be, or one for each so many of all, where that
is more: else they would be no small part of the work."""
_MOST_OUTPUTS = 512
"""Of a product, that its error is taken from: they are alike, and a language model's head has fifty thousand."""
_LEAST_PEAK = 0.02
"""Of the median above zero: a channel that hardly fires on the rows at hand may on others, and would be blown up."""
_LEAST_POWER = 1e-4
"""Of the mean: rows of a product count alike, but for those that are next to nothing."""
_TINY, _TINIEST = 1e-5, 1e-30


@dataclass(frozen=True, slots=True)
class Choice:
    """Divisors of an activation's channels, float64, and which channels are computed apart in float, int64."""

    divisor: Array
    apart: Array


def search(each: Shared, seen: Seen, weights: WeightType, *, folded: bool) -> Choice | None:
    """What leaves the products' error least; None where nothing is worth it.

    Where the division is `folded` it costs nothing; to compute channels apart would take a node for it.
    """
    peaks = seen.peaks()
    hard = peaks * np.max([np.abs(weight).max(axis=1) for weight in each.weights], axis=0)
    hardest = np.argsort(-hard, kind="stable")
    # Where all outputs share a scale, the largest weight has to be among them.
    most = _MOST_OUTPUTS if weights.per_channel else max(weight.shape[1] for weight in each.weights)
    some = [weight[:, :: -(-weight.shape[1] // most)] for weight in each.weights]
    exact = [seen.rows @ weight for weight in some]
    powers = [np.square(wanted, dtype=np.float64).sum(axis=1, keepdims=True) for wanted in exact]
    shares = [1 / np.maximum(power, max(_LEAST_POWER * float(power.mean()), _TINIEST)) for power in powers]

    def error(choice: Choice) -> float:
        factors, inverse = 1 / choice.divisor, choice.divisor.copy()
        factors[choice.apart] = inverse[choice.apart] = 0.0
        whole, few, total = seen.rounded(factors), seen.rows[:, choice.apart], 0.0
        # Huge numbers make an infinite error, or none at all; no divisor is chosen for that.
        with np.errstate(over="ignore", invalid="ignore"):
            for weight, wanted, share in zip(some, exact, shares, strict=True):
                harder = (weight * inverse[:, np.newaxis]).astype(np.float32)
                found = whole @ weights.affine(harder, axis=1).rounded(harder) + few @ weight[choice.apart]
                total += float(np.sum(np.square(found - wanted, dtype=np.float64) * share))
        return total if np.isfinite(total) else np.inf

    best, least = None, error(Choice(np.ones(len(peaks)), hardest[:0]))
    wanted_share = LEAST_GAIN if folded else _LEAST_GAIN_OF_NODES
    for count in _counts(hard) if not folded and len(each.readers) == 1 else APART[:1]:
        tried = [Choice(divisor, hardest[:count]) for divisor in divisors(peaks, each.weights)]
        left, choice = min(((error(choice), choice) for choice in tried), key=lambda pair: pair[0])
        if left < wanted_share * least:
            best, least = choice, left
    return best


def _counts(hard: Array) -> Iterator[int]:
    """How many channels are tried in float, given how hard each is: about as many as lie far beyond the others."""
    most = max(_FEW, len(hard) // _CHANNELS_FOR_ONE) if len(hard) >= _LEAST_CHANNELS else 0
    outliers = int(np.sum(hard > _LEAST_OUTLIER * np.median(hard[hard > 0]))) if hard.any() else 0
    yield from (count for count in APART if not count or (count <= most and count // 2 < outliers))


def divisors(peaks: Array, weights: Sequence[Array]) -> Iterator[Array]:
    """For each α the divisor of every channel, float64 [channels] of geometric mean 1; `peaks` are its magnitudes."""
    least = _LEAST_PEAK * float(np.median(peaks[peaks > 0])) if peaks.any() else 0.0
    peaks = np.maximum(peaks, max(least, _TINY))
    needed = np.maximum(np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0), _TINY)
    for alpha in ALPHAS:
        scale = peaks**alpha / needed ** (1 - alpha)
        yield scale / np.exp(np.mean(np.log(scale)))
