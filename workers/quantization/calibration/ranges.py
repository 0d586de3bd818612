"""From what was observed of a tensor to the range that its quantized form covers, by any method.

A range is a pair of numbers `low ≤ 0 ≤ high`: zero must be exact, since padding and rectifiers make it. Every
method looks at the same statistics, so another one costs no other pass.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from app.domain.recipe import Calibration
from workers.quantization.calibration.histogram import Density
from workers.quantization.calibration.statistics import TensorStatistics, density

Range = tuple[float, float]
Floats = NDArray[np.float64]

_COARSE = np.linspace(1.0, 0.1, 19)
"""Shares of the full range that the search for the least squared error tries first; then finer ones about the best."""
_FINER = tuple(np.array([-2.0, -1.0, 0.0, 1.0, 2.0]) * step for step in (0.0167, 0.0056))
_SMALL = 2.0**-12
"""Of the reach: what is nearer to zero is rounded to zero or one step by any range that is tried."""
_KL_BINS = 2048
_KL_STEP = 16
_LEAST_SHARE = 1e-4  # of a bin that the quantized form leaves empty: KL would be infinite


def find_range(seen: TensorStatistics, options: Calibration, *, bits: int = 8, symmetric: bool = False) -> Range:
    """The range of one tensor by the method that `options` name.

    `bits` is the width of the quantized type, which only the methods that weigh rounding against clipping ask for.
    `symmetric` ranges reach as far below zero as above.
    """
    low, high = _FINDERS[options.method](seen, options, bits, symmetric)
    low, high = max(min(low, 0.0), min(seen.low, 0.0)), min(max(high, 0.0), max(seen.high, 0.0))
    if symmetric:
        reach = max(-low, high)
        return -reach, reach
    return low, high


def squared_error(found: Density, lows: Floats, highs: Floats, levels: int) -> Floats:
    """Expected squared error, summed over all values, of rounding and clipping to each of several ranges.

    `lows` and `highs` have one entry a range; each is covered by `levels` evenly spaced numbers of which zero is one
    to within rounding. Inside its bin a value is taken to lie anywhere with the same chance, over which the error is
    integrated exactly.
    """
    step = ((highs - lows) / (levels - 1))[:, np.newaxis]
    bottom, top = lows[:, np.newaxis], highs[:, np.newaxis]
    first, last = found.low[np.newaxis], found.high[np.newaxis]
    width = np.where(found.high > found.low, found.high - found.low, 1.0)[np.newaxis]
    inner_first, inner_last = np.clip(first, bottom, top), np.clip(last, bottom, top)
    rounding = _cube(step) * (_rounding(inner_last / step) - _rounding(inner_first / step))
    above = _cube(np.maximum(last, top) - top) - _cube(np.maximum(first, top) - top)
    below = _cube(bottom - np.minimum(first, bottom)) - _cube(bottom - np.minimum(last, bottom))
    summed: Floats = ((rounding + (above + below) / 3) / width) @ found.counts
    return summed


def _rounding(steps: Floats) -> Floats:
    """∫₀ᵗ (u − round(u))² du: a twelfth for each whole step, and a cube for what is left."""
    whole = np.round(steps)
    integral: Floats = whole / 12 + _cube(steps - whole) / 3
    return integral


def _cube(values: Floats) -> Floats:
    return values * values * values  # a power takes twenty times as long


def quantiles(found: Density, shares: Sequence[float]) -> list[float]:
    """The values below which these shares of all values lie, within a bin by linear interpolation."""
    below = np.concatenate([[0.0], np.cumsum(found.counts)])
    answers = []
    for share in shares:
        wanted = share * below[-1]
        index = int(np.clip(np.searchsorted(below, wanted, side="left") - 1, 0, len(found.counts) - 1))
        inside = (wanted - below[index]) / found.counts[index]
        answers.append(float(found.low[index] + inside * (found.high[index] - found.low[index])))
    return answers


def _minmax(seen: TensorStatistics, options: Calibration, bits: int, symmetric: bool) -> Range:
    return seen.low, seen.high


def _moving_average(seen: TensorStatistics, options: Calibration, bits: int, symmetric: bool) -> Range:
    return seen.moving_low, seen.moving_high


def _mean_extremes(seen: TensorStatistics, options: Calibration, bits: int, symmetric: bool) -> Range:
    return seen.mean_low, seen.mean_high


def _percentile(seen: TensorStatistics, options: Calibration, bits: int, symmetric: bool) -> Range:
    found = density(seen)
    cut = (100 - options.percentile) / 100
    if symmetric:
        (reach,) = quantiles(_magnitudes(found), [1 - cut])
        return -reach, reach
    low, high = quantiles(found, [cut / 2, 1 - cut / 2])
    return low, high


def _mse(seen: TensorStatistics, options: Calibration, bits: int, symmetric: bool) -> Range:
    """The ends with the least expected squared error: coarsely, then finely, one end at a time where there are two."""
    found = _without_small(density(seen))
    low, high = min(seen.low, 0.0), max(seen.high, 0.0)
    if low == high:
        return low, high
    levels = (1 << bits) - (1 if symmetric else 0)
    if symmetric:
        reach = max(-low, high)
        share = _best(lambda shares: squared_error(found, -reach * shares, reach * shares, levels))
        return -reach * share, reach * share
    below = above = 1.0
    for _ in range(2):
        if high > 0:
            bottom = low * below
            above = _best(
                lambda shares, bottom=bottom: squared_error(  # type: ignore[misc]
                    found, np.full_like(shares, bottom), high * shares, levels
                )
            )
        if low < 0:
            top = high * above
            below = _best(
                lambda shares, top=top: squared_error(  # type: ignore[misc]
                    found, low * shares, np.full_like(shares, top), levels
                )
            )
        if low == 0 or high == 0:
            break
    return low * below, high * above


def _best(error: Callable[[Floats], Floats]) -> float:
    share = float(_COARSE[int(np.argmin(error(_COARSE)))])
    for finer in _FINER:
        near = np.clip(share + finer, 0.01, 1.0)
        share = float(near[int(np.argmin(error(near)))])
    return share


def _without_small(found: Density) -> Density:
    """Two bins, one of each sign, for everything too near to zero to matter."""
    small = np.maximum(np.abs(found.low), np.abs(found.high)) < _SMALL * max(-found.low[0], found.high[-1])
    negative, positive = small & (found.high <= 0) & (found.low < 0), small & (found.low >= 0)
    kept = ~small
    parts = [(found.low[kept], found.high[kept], found.counts[kept])]
    parts += [
        (found.low[part][:1], found.high[part][-1:], found.counts[part].sum(keepdims=True))
        for part in (negative, positive)
        if part.any()
    ]
    low, high, counts = (np.concatenate(each) for each in zip(*parts, strict=True))
    return Density(low, high, counts)


def _entropy(seen: TensorStatistics, options: Calibration, bits: int, symmetric: bool) -> Range:
    """The reach whose quantized histogram diverges least from the original (Migacz, GTC 2017, slides 38 to 42)."""
    found = _magnitudes(density(seen))
    most = max(-seen.low, seen.high)
    if most <= 0:
        return seen.low, seen.high
    one_sided = not symmetric and (seen.low >= 0 or seen.high <= 0)
    levels = 1 << (bits if one_sided else bits - 1)
    if levels > _KL_BINS:  # steps finer than the bins: clipping cannot gain anything that they show
        return -most, most
    histogram = _evenly(found, most, _KL_BINS)
    # Rectifiers make so many zeros that they would decide alone, though every range has zero exactly.
    histogram[0] = histogram[1]
    candidates = range(levels, _KL_BINS + 1, _KL_STEP)
    divergences = [_divergence(histogram, bins, levels) for bins in candidates]
    # Of equals the widest: less is clipped.
    index = len(divergences) - 1 - int(np.argmin(divergences[::-1]))
    reach = most * candidates[index] / _KL_BINS
    return -reach, reach


def _divergence(histogram: Floats, bins: int, levels: int) -> float:
    """KL divergence in nats of the first bins, what is cut off added to the last, from their form in `levels`."""
    reference = histogram[:bins].copy()
    held = reference > 0
    reference[-1] += histogram[bins:].sum()
    place = np.arange(bins) * levels // bins
    total = np.bincount(place, weights=histogram[:bins], minlength=levels)
    filled = np.bincount(place, weights=held, minlength=levels)
    spread = np.where(held, (total / np.maximum(filled, 1))[place], 0.0)
    whole = spread.sum()
    if whole == 0:
        return float("inf")
    p = reference / reference.sum()
    q = np.maximum(spread / whole, _LEAST_SHARE / bins)
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / q[seen])))


def _magnitudes(found: Density) -> Density:
    """The same histogram of absolute values: bins of both signs have the same ends."""
    low = np.where(found.low < 0, -found.high, found.low)
    high = np.where(found.low < 0, -found.low, found.high)
    ends, first, place = np.unique(low, return_index=True, return_inverse=True)
    return Density(
        ends, high[first], np.asarray(np.bincount(place, weights=found.counts, minlength=len(ends)), np.float64)
    )


def _evenly(found: Density, most: float, bins: int) -> Floats:
    """A histogram of magnitudes in bins of one width from 0 to `most`: each bin spread over those that it covers."""
    below = np.concatenate([[0.0], np.cumsum(found.counts)])
    points = np.stack([found.low, found.high], axis=1).reshape(-1)
    shares = np.stack([below[:-1], below[1:]], axis=1).reshape(-1)
    cumulative = np.interp(np.linspace(0.0, most, bins + 1), points, shares)
    cumulative[0], cumulative[-1] = 0.0, below[-1]
    spread: Floats = np.diff(cumulative)
    return spread


_FINDERS: dict[str, Callable[[TensorStatistics, Calibration, int, bool], Range]] = {
    "minmax": _minmax,
    "moving_average": _moving_average,
    "mean_extremes": _mean_extremes,
    "percentile": _percentile,
    "entropy": _entropy,
    "mse": _mse,
}
