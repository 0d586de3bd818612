"""How often each value was seen, in bins that need no range to be known beforehand.

A float32 value is counted by its upper 16 bits, which are its bfloat16 truncation: sign, exponent and the first
seven bits of the fraction. So a bin is at most 1/128 of its value wide, zero has bins of its own, histograms
of any parts of the data add up exactly, and there is no second pass or rebinning when a larger value comes.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_BINS = 1 << 16
_SIGN = 1 << 15
_INFINITE = 0x7F80
"""The upper half of +∞; above it, up to the sign bit, are what is no number."""

_PENDING = 1 << 16
"""Values gathered before they are counted: counting has a cost of its own, as large as for half as many values."""

_UPPER = 1 if np.little_endian else 0


@dataclass(frozen=True, slots=True)
class Density:
    """A histogram as arrays, ascending: `low` and `high` ends of the bins that hold anything, and their counts."""

    low: Floats
    high: Floats
    counts: Floats

    @property
    def centers(self) -> Floats:
        return (self.low + self.high) / 2


class Histogram:
    """Counts of float32 values by their upper halves."""

    def __init__(self) -> None:
        self._counts: Counts = np.zeros(_BINS, np.int64)
        self._pending: list[NDArray[np.uint16]] = []
        self._waiting = 0

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values of any shape; they are not kept."""
        halves = np.ascontiguousarray(values).reshape(-1).view(np.uint16)[_UPPER::2]
        if self._waiting + halves.size < _PENDING:
            self._pending.append(halves.copy())
            self._waiting += halves.size
        else:
            self._count(np.concatenate([*self._pending, halves]) if self._pending else halves)

    def _count(self, halves: NDArray[np.uint16]) -> None:
        self._pending, self._waiting = [], 0
        self._counts += np.bincount(halves, minlength=_BINS)

    @property
    def counts(self) -> Counts:
        """How often each upper half was seen, 65,536 of them."""
        if self._pending:
            self._count(np.concatenate(self._pending))
        return self._counts

    @property
    def not_finite(self) -> int:
        """How many values were infinite or no numbers."""
        counts = self.counts
        return int(counts[_INFINITE:_SIGN].sum() + counts[_SIGN + _INFINITE :].sum())


def bins_of(counts: Counts) -> Density:
    """The finite bins of a histogram that hold anything, in ascending order of their values."""
    positive = np.flatnonzero(counts[:_INFINITE])
    negative = np.flatnonzero(counts[_SIGN : _SIGN + _INFINITE])[::-1]
    # Both zeros are one value, and not the beginning of a bin.
    zeros = counts[0] + counts[_SIGN]
    positive, negative = positive[positive > 0], negative[negative > 0]
    middle = np.zeros(int(zeros > 0))
    return Density(
        low=np.concatenate([-_value(negative + 1), middle, _value(positive)]),
        high=np.concatenate([-_value(negative), middle, _value(positive + 1)]),
        counts=np.concatenate([counts[_SIGN + negative], middle + zeros, counts[positive]]).astype(np.float64),
    )


def _value(halves: NDArray[np.intp]) -> Floats:
    """The number whose upper half this is and whose lower half is zero."""
    return (halves.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
