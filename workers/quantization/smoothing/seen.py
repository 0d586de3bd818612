"""What activations are on some feeds: samples of their rows, and how far their channels reach."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto

from workers.quantization.affine import Array, for_range, symmetric
from workers.quantization.calibration.collect import SLICE_BYTES, Feeds, slices
from workers.quantization.recovery.measuring import observed_session

_ROWS_A_FEED, _MOST_ROWS = 8, 512
_HUGE = 1e30


@dataclass(frozen=True, slots=True)
class Seen:
    """An activation on some feeds: the extremes of its channels [feeds, channels], and sampled rows of all feeds.

    `rows` are [n, channels], `feeds` [n] say which feed's extremes each is rounded by, `dtype` in which type.
    """

    rows: Array
    feeds: Array
    lows: Array
    highs: Array
    dtype: str = "uint8"

    def with_one_range(self, dtype: str) -> "Seen":
        """The same rows, rounded by one range for all, which is found beforehand."""
        lows, highs = self.lows.min(axis=0, keepdims=True), self.highs.max(axis=0, keepdims=True)
        return Seen(self.rows, np.zeros_like(self.feeds), lows, highs, dtype)

    def peaks(self) -> Array:
        """The root mean square over the ranges of each channel's largest magnitude, float64 [channels]."""
        reach = np.maximum(np.abs(self.lows), np.abs(self.highs)).astype(np.float64)
        return np.asarray(np.sqrt(np.mean(np.square(reach), axis=0)))

    def rounded(self, factors: Array) -> Array:
        """The rows with their channels multiplied, quantized by the range that each has then."""
        low, high = (self.lows * factors).min(axis=1)[self.feeds], (self.highs * factors).max(axis=1)[self.feeds]
        if self.dtype == "int16":  # which has no zero point where products are computed
            affine = symmetric(np.maximum(-low, high), self.dtype, bits=16, axis=0)
        else:
            affine = for_range(low, high, self.dtype, axis=0)
        return affine.rounded((self.rows * factors).astype(np.float32))


def observed(model: ModelProto, names: Sequence[str], feeds: Feeds, work: Path, threads: int) -> Mapping[str, Seen]:
    """What these tensors are on the feeds, without those that are never more than empty."""
    found: dict[str, list[tuple[Array, Array, Array]]] = {name: [] for name in names}
    chances = {name: np.random.default_rng(0) for name in names}
    for part in slices(model, names, feeds, SLICE_BYTES):
        session = observed_session(model, part, work / "smoothed.onnx", threads=threads)
        for given, _ in feeds():
            for name, values in zip(part, session.run(given), strict=True):
                if values.size and np.abs(values).max() < _HUGE:  # else there is nothing that could be scaled
                    flat = values.reshape(-1, values.shape[-1])
                    some = flat[chances[name].choice(len(flat), min(_ROWS_A_FEED, len(flat)), replace=False)]
                    found[name].append((some, flat.min(axis=0), flat.max(axis=0)))
    return {name: _joined(parts) for name, parts in found.items() if parts}


def _joined(parts: Sequence[tuple[Array, Array, Array]]) -> Seen:
    rows, lows, highs = zip(*parts, strict=True)
    feeds = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
    some = np.random.default_rng(0).permutation(len(feeds))[:_MOST_ROWS]
    return Seen(np.concatenate(rows)[some], feeds[some], np.stack(lows), np.stack(highs))
