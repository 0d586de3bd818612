"""How often each value was seen, in bins that need no range to be known beforehand.

A float32 value is counted by its upper 16 bits, which are its bfloat16 truncation: sign, exponent and the first
seven bits of the fraction. So a bin is at most 1/128 of its value wide, zero has bins of its own, histograms
of any parts of the data add up exactly, and there is no second pass or rebinning when a larger value comes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

_BINS = 1 << 16
_SIGN = 1 << 15
_INFINITE = 0x7F80
"""The upper half of +∞; above it, up to the sign bit, are what is no number."""

_LANES = 2
"""Counters of each bin, which neighbouring values take in turn: after a rectifier most are the same number, and a
processor waits for a counter that it has only just written."""

_MOST = (1 << 32) - 1
"""What a counter holds."""

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
    """Counts of float32 values by their upper halves; several threads may add at the same time."""

    def __init__(self) -> None:
        self._lanes = np.zeros((_LANES, _BINS), np.uint32)
        self._full: Counts | None = None  # what the lanes held when they were nearly full
        self._added = 0
        self._lock = Lock()

    def add(self, values: NDArray[np.float32]) -> None:
        """Count values of any shape, fewer than 2³² at once; they are not kept."""
        halves = np.ascontiguousarray(values).reshape(-1).view(np.uint16)[_UPPER::2]
        count = _compiled()
        with self._lock:
            if self._added + halves.size > _MOST:
                self._full = self._sum()
                self._lanes[:] = 0
                self._added = 0
            count(halves, self._lanes)
            self._added += halves.size

    def _sum(self) -> Counts:
        counts: Counts = self._lanes.sum(axis=0, dtype=np.int64)
        if self._full is not None:
            counts += self._full
        return counts

    @property
    def counts(self) -> Counts:
        """How often each upper half was seen, 65,536 of them."""
        with self._lock:
            return self._sum()


@cache
def _compiled() -> Callable[[NDArray[np.uint16], NDArray[np.uint32]], None]:
    """The loop that counts, compiled when first needed: NumPy's bincount takes three times as long."""
    import numba  # most processes count nothing, and importing it takes half a second

    def count(halves: Any, lanes: Any) -> None:
        even = halves.size // 2 * 2
        for place in range(0, even, 2):
            lanes[0, halves[place]] += 1
            lanes[1, halves[place + 1]] += 1
        if even < halves.size:
            lanes[0, halves[even]] += 1

    read_only = numba.types.Array(numba.uint16, 1, "A", readonly=True)  # or not: either is taken
    compiled: Callable[[NDArray[np.uint16], NDArray[np.uint32]], None] = numba.njit(
        numba.void(read_only, numba.uint32[:, ::1]), nogil=True
    )(count)
    return compiled


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
