"""Affine quantization: scales, zero points, and the rounding that ONNX prescribes.

A number x becomes q = clip(round(x / scale) + zero_point), and stands for (q − zero_point) · scale; rounding is half
to even, in float32, as in ONNX's QuantizeLinear.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

_SMALLEST = float(np.finfo(np.float32).tiny)

LIMITS: dict[str, tuple[int, int]] = {
    "uint8": (0, 255),
    "int8": (-128, 127),
    "uint16": (0, 65_535),
    "int16": (-32_768, 32_767),
    "int32": (-(1 << 31), (1 << 31) - 1),
}
"""Lowest and highest number of each quantized type."""


@dataclass(frozen=True, slots=True)
class Affine:
    """How one tensor is quantized.

    `scale` is a float32 scalar, or [channels] along `axis`; `zero_point` has the type's dtype and the scale's
    shape. `low` and `high` are the numbers in use, which may be fewer than the type has.
    """

    dtype: str
    scale: Array
    zero_point: Array
    low: int
    high: int
    axis: int | None = None

    def quantize(self, values: Array) -> Array:
        """Integers of `dtype`, in the shape of `values`."""
        scale, zero_point = self._along(values)
        # In float32 up to the division, as the runtime does it.
        steps = np.rint(values.astype(np.float32) / scale).astype(np.float64) + zero_point
        whole: Array = np.clip(steps, self.low, self.high).astype(self.dtype)
        return whole

    def dequantize(self, whole: Array) -> Array:
        """The float32 numbers that integers stand for."""
        scale, zero_point = self._along(whole)
        values: Array = ((whole.astype(np.int64) - zero_point) * scale).astype(np.float32)
        return values

    def rounded(self, values: Array) -> Array:
        """What is left of float32 values after they were quantized: `dequantize(quantize(values))`, in fewer passes."""
        scale, zero_point = self._along(values)
        steps = np.rint(values.astype(np.float32, copy=False) / scale)
        least, most = (np.asarray(end - zero_point, np.float32) for end in (self.low, self.high))
        np.clip(steps, least, most, out=steps)
        steps *= scale
        return np.asarray(steps, np.float32)

    def _along(self, values: Array) -> tuple[Array, Array]:
        if self.axis is None:
            return self.scale, self.zero_point.astype(np.int64)
        shape = [1] * values.ndim
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.astype(np.int64).reshape(shape)


def for_range(low: Array | float, high: Array | float, dtype: str, *, axis: int | None = None) -> Affine:
    """Cover a range, zero exactly included, with all numbers of an unsigned or signed type.

    One scale a tensor, or along an axis, where `low` and `high` are arrays.
    """
    least, most = LIMITS[dtype]
    low, high = np.minimum(np.asarray(low, np.float64), 0.0), np.maximum(np.asarray(high, np.float64), 0.0)
    scale = ((high - low) / (most - least)).astype(np.float32)
    scale = np.where(scale > _SMALLEST, scale, np.float32(1.0))  # a tensor of zeros: any scale will do
    zero_point = np.clip(np.rint(least - low / scale.astype(np.float64)), least, most)
    return Affine(dtype, scale, zero_point.astype(dtype), least, most, axis)


def for_activation(low: float, high: float, dtype: str) -> Affine:
    """Cover what an activation takes; int16 about zero, since kernels that multiply it take no zero point."""
    if dtype == "int16":
        return symmetric(max(-low, high), dtype, bits=16)
    return for_range(low, high, dtype)


def symmetric(reach: Array | float, dtype: str, *, bits: int = 8, axis: int | None = None) -> Affine:
    """Cover −reach to reach about zero, one scale an entry of `reach`.

    The lowest number is left out, so that both signs reach as far. `bits` below the type's leave out more: 7-bit
    weights, −63 to 63, cannot saturate 16-bit sums of two products with 8-bit activations. An unsigned type has its
    zero in the middle.
    """
    most = (1 << (bits - 1)) - 1
    least = -most
    scale = np.asarray(np.asarray(reach, dtype=np.float64) / most, dtype=np.float32)
    scale = np.where(scale > _SMALLEST, scale, np.float32(1.0)).astype(np.float32)
    middle = (LIMITS[dtype][1] + 1) // 2 if dtype.startswith("u") else 0
    zero_point = np.full(scale.shape, middle, dtype=dtype)
    return Affine(dtype, scale, zero_point, least + middle, most + middle, axis)


def reach_of(values: Array, axis: int | None) -> Array:
    """The largest magnitude in a tensor, or along each index of an axis, as float64."""
    if axis is None:
        return np.asarray(np.abs(values).max(initial=0.0), dtype=np.float64)
    others = tuple(index for index in range(values.ndim) if index != axis % values.ndim)
    return np.asarray(np.abs(values).max(axis=others, initial=0.0), dtype=np.float64)


@dataclass(frozen=True, slots=True)
class WeightType:
    """How stored weights become integers: symmetric, in `bits` of int8 or of uint8 about 128."""

    dtype: str
    bits: int
    per_channel: bool

    def affine(self, values: Array, axis: int) -> Affine:
        """How a weight whose output channels lie along an axis is quantized."""
        along = axis if self.per_channel else None
        return symmetric(reach_of(values, along), self.dtype, bits=self.bits, axis=along)
