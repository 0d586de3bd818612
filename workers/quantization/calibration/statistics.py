"""What one pass over the calibration rows keeps of every tensor, and the file it is kept in."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.quantization.calibration.histogram import Counts, Density, Histogram, bins_of

Array = NDArray[Any]

MOMENTUM = 0.9
"""Weight of the past in the moving average of extremes, a feed at a time (as PyTorch's observers, whose
`averaging_constant` of 0.01 is meant for training's many more batches)."""


@dataclass(frozen=True, slots=True)
class TensorStatistics:
    """One tensor over all rows: its extremes in four senses, and its histogram.

    `mean_low` and `mean_high` are means over the rows of each row's extremes, `moving_low` and `moving_high`
    exponential averages over the feeds in their order. `counts` are those of `Histogram`, null where only extremes were
    observed.
    """

    low: float
    high: float
    mean_low: float
    mean_high: float
    moving_low: float
    moving_high: float
    counts: Counts | None = field(repr=False)


def density(seen: TensorStatistics) -> Density:
    """A tensor's histogram, no bin of which reaches beyond the extremes: a bound like 6 is a value seen often."""
    assert seen.counts is not None, "observed without its histogram"
    found = bins_of(seen.counts)
    low, high = np.maximum(found.low, seen.low), np.minimum(found.high, seen.high)
    # A bin in which only its first number was seen keeps some width, for densities are counts over widths.
    least = np.abs(found.low) * 2.0**-23
    return Density(np.minimum(low, high - least), np.maximum(high, low + least), found.counts)


@dataclass(frozen=True, slots=True)
class Extremes:
    """What one feed made of one tensor: the extremes over all rows, and the sums of each row's."""

    low: float
    high: float
    lows: float
    highs: float
    rows: int


def extremes(values: NDArray[np.float32], rows: int) -> Extremes | None:
    """The extremes of a tensor of a feed of `rows` rows; None of an empty one.

    Its first axis counts as that of the rows where it has their number; else the feed counts as one row.
    """
    if values.size == 0:
        return None
    by_row = values.reshape(rows if values.ndim and values.shape[0] == rows else 1, -1)
    if len(by_row) == 1:  # NumPy is faster without an axis
        low, high = float(values.min()), float(values.max())
        return Extremes(low, high, low, high, 1)
    lows, highs = by_row.min(axis=1), by_row.max(axis=1)
    return Extremes(
        low=float(lows.min()),
        high=float(highs.max()),
        lows=float(lows.sum(dtype=np.float64)),
        highs=float(highs.sum(dtype=np.float64)),
        rows=len(by_row),
    )


class Observer:
    """Watches one tensor; memory is one histogram, or less, whatever passes by."""

    def __init__(self, *, histogram: bool = True) -> None:
        self._histogram = Histogram() if histogram else None
        self._low, self._high = np.inf, -np.inf
        self._lows = self._highs = 0.0
        self._rows = 0
        self._moving: tuple[float, float] | None = None

    def add(self, values: Array, rows: int) -> None:
        """Observe what one feed of `rows` rows made of the tensor."""
        self.take(self.look(values, rows))

    def look(self, values: Array, rows: int) -> Extremes | None:
        """Count values, and return what `take` needs to know of them; from any thread, and in any order."""
        values = np.ascontiguousarray(values, dtype=np.float32)
        if self._histogram is not None:
            self._histogram.add(values)
        return extremes(values, rows)

    def take(self, found: Extremes | None) -> None:
        """Add a feed's extremes, in the order of the feeds, for one average depends on it."""
        if found is None:
            return
        # Not min() and max(), which lose what is no number: it has to be told.
        self._low, self._high = float(np.minimum(self._low, found.low)), float(np.maximum(self._high, found.high))
        self._lows += found.lows
        self._highs += found.highs
        self._rows += found.rows
        past = self._moving or (found.low, found.high)
        self._moving = (
            MOMENTUM * past[0] + (1 - MOMENTUM) * found.low,
            MOMENTUM * past[1] + (1 - MOMENTUM) * found.high,
        )

    @property
    def seen(self) -> bool:
        """Whether there was anything to see."""
        return self._moving is not None

    def statistics(self) -> TensorStatistics:
        """What was seen so far."""
        assert self._moving is not None, "nothing was observed"
        return TensorStatistics(
            low=self._low,
            high=self._high,
            mean_low=self._lows / self._rows,
            mean_high=self._highs / self._rows,
            moving_low=self._moving[0],
            moving_high=self._moving[1],
            counts=None if self._histogram is None else self._histogram.counts,
        )


@dataclass(frozen=True, slots=True)
class Statistics:
    """All observed tensors by name, and how many rows they come from."""

    samples: int
    tensors: Mapping[str, TensorStatistics]

    def write(self, path: Path) -> None:
        """Keep them as a compressed `.npz`, the bins that hold anything alone. The same gives the same bytes."""
        names = sorted(self.tensors)
        found = [self.tensors[name] for name in names]
        counts = [np.zeros(0, np.int64) if entry.counts is None else entry.counts for entry in found]
        bins = [np.flatnonzero(each) for each in counts]
        arrays: dict[str, Array] = {
            "samples": np.array(self.samples),
            "names": np.array(names, dtype=np.str_),
            "scalars": np.array([[getattr(entry, name) for name in _SCALARS] for entry in found], dtype=np.float64),
            "ends": np.cumsum([len(each) for each in bins], dtype=np.int64),
            "bins": np.concatenate([*bins, np.empty(0, np.int64)]).astype(np.uint16),
            "counts": np.concatenate([*(c[b] for c, b in zip(counts, bins, strict=True)), np.empty(0, np.int64)]),
        }
        with path.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    @classmethod
    def read(cls, path: Path) -> "Statistics":
        """Read what `write` wrote."""
        with np.load(path, allow_pickle=False) as kept:
            arrays = {name: kept[name] for name in kept.files}
        tensors = {}
        start = 0
        for name, scalars, end in zip(arrays["names"], arrays["scalars"], arrays["ends"], strict=True):
            counts = None
            if end > start:  # whatever was seen is in a bin, if there are any
                counts = np.zeros(1 << 16, np.int64)
                counts[arrays["bins"][start:end]] = arrays["counts"][start:end]
            start = end
            values = dict(zip(_SCALARS, (float(value) for value in scalars), strict=True))
            tensors[str(name)] = TensorStatistics(**values, counts=counts)
        return cls(samples=int(arrays["samples"]), tensors=tensors)


_SCALARS = ("low", "high", "mean_low", "mean_high", "moving_low", "moving_high")
