"""How far the largest numbers of a tensor are from the rest, and its channels from each other."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from workers.quantization.affine import reach_of
from workers.quantization.calibration.statistics import Observer, TensorStatistics, density
from workers.quantization.qdq.plan import Array

PERCENTILE = 99.9


@dataclass(frozen=True, slots=True)
class Outliers:
    """Of a tensor's numbers: the kurtosis (3 for a normal distribution), the largest magnitude over the 99.9th
    percentile of magnitudes, and the widest channel's reach over the median channel's.

    Null where they are not defined: the tensor is constant or empty, or has no channels.
    """

    kurtosis: float | None
    peak_ratio: float | None
    channel_spread: float | None


def outliers_of(seen: TensorStatistics | None, reaches: Array) -> Outliers:
    """From a tensor's histogram and its channels' largest magnitudes; [] where it has no channels."""
    if seen is None:
        return Outliers(None, None, None)
    found = density(seen)
    shares = found.counts / found.counts.sum()
    centers = found.centers
    deviations = centers - shares @ centers
    variance = float(shares @ deviations**2)
    kurtosis = float(shares @ deviations**4) / variance**2 if variance > 0 else None
    order = np.argsort(np.abs(centers))
    below = np.cumsum(shares[order])
    place = min(int(np.searchsorted(below, PERCENTILE / 100)), len(order) - 1)
    usual = float(np.abs(centers[order[place]]))
    peak = max(-seen.low, seen.high)
    middle = float(np.median(reaches)) if reaches.size > 1 else 0.0
    return Outliers(
        kurtosis=kurtosis,
        peak_ratio=peak / usual if usual > 0 else None,
        channel_spread=float(reaches.max()) / middle if middle > 0 else None,
    )


def outliers_in(values: Sequence[Array], axis: int | None) -> Outliers:
    """Of all numbers of some tensors together, whose channels lie along an axis."""
    observer = Observer()
    for each in values:
        observer.add(each, 1)
    return outliers_of(observer.statistics() if observer.seen else None, channel_reaches(values, axis))


def channel_reaches(values: Sequence[Array], axis: int | None) -> Array:
    """The largest magnitude of each channel over some tensors; [] where there are no channels."""
    if axis is None or any(each.ndim < 2 for each in values):
        return np.empty(0)
    found = [reach_of(each, axis) for each in values]
    if len({len(each) for each in found}) != 1:  # channels whose number changes with the data are none
        return np.empty(0)
    return np.asarray(np.max(found, axis=0))
