"""Products of 8-bit matrices as MLAS sums them up: in 32 bits, or by pairs in 16 bits that saturate.

What is known of onnxruntime's x86 kernels: read in core/mlas/lib (files of several ages), and measured with 1.32.0 for
AVX2 and for VNNI (benchmarks/emulation.py). AVX-512 without VNNI was read about only; no machine had it.

- AVX2 and AVX-512 without VNNI multiply u8 activations by s8 weights with VPMADDUBSW: of four neighbours along the
  reduction, the first two products are added in 16 bits with saturation, and so are the last two; what follows
  (VPMADDWD, VPADDD) is 32 bits wide. All of their u8×s8 kernels pair alike: GEMM, GEMV, and the symmetric convolution.
- Zero points are taken off afterwards, with exact sums: the instruction sees the stored bytes, padding included.
- u8×u8 kernels widen to 16 bits first and are exact, and so is every depthwise kernel.
- With VNNI, VPDPBUSDS adds four products in 32 bits (it would saturate there, which no 8-bit layer reaches).
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Arithmetic = Literal["exact", "saturating"]
"""`exact` is VNNI's, AMX's and ARM's; `saturating` that of AVX2 and AVX-512 alone."""

LOWEST, HIGHEST = -(1 << 15), (1 << 15) - 1

_LEAST_RISKY = HIGHEST // 255 + 1
"""Two weights whose sum is smaller cannot saturate, whatever they are multiplied by: 255 · 128 < 32,767."""

_EXACT_IN_FLOAT32 = 512
"""Products of eight bits by seven and a sign that may be added up in float32: 512 · 255 · 128 < 2²⁴."""

_BLOCK = 1 << 22
"""Pairs looked at together: 16 MiB of int32."""


@dataclass(frozen=True, slots=True)
class Weights:
    """One matrix of weights, ready to be multiplied.

    `numbers` are float32 [outputs, reduction], whole and from −128 to 127; `zero_point` and `sums` (of the weights
    about it) int32 [outputs, 1]. `rows` and `pairs` are where two neighbours of a row could saturate, in the order of
    the rows; empty for weights that no saturating kernel multiplies.
    """

    numbers: Array
    zero_point: Array
    sums: Array
    rows: Array
    pairs: Array


@dataclass(frozen=True, slots=True)
class Product:
    """A product and what 16 bits did to it.

    `totals` are int32 [outputs, columns]; `excess`, of that shape, is what they lack of the exact sums, or None where
    nothing is amiss. Of `pairs`, `saturated` were too large for 16 bits.
    """

    totals: Array
    excess: Array | None
    pairs: int
    saturated: int


def prepare(weights: Array, zero_point: Array) -> Weights:
    """Weights int8 or uint8 [outputs, reduction] with one zero point, or one an output."""
    # Unsigned weights are exact everywhere, so they may as well be moved into the signed range.
    offset = 128 if weights.dtype == np.uint8 else 0
    numbers = weights.astype(np.int32) - offset
    zero = np.broadcast_to(zero_point.astype(np.int32).reshape(-1, 1) - offset, (len(numbers), 1))
    rows, pairs = _risky(numbers) if weights.dtype == np.int8 else (np.empty(0, np.intp), np.empty(0, np.intp))
    sums = numbers.sum(axis=1, keepdims=True, dtype=np.int32) - numbers.shape[1] * zero
    return Weights(numbers.astype(np.float32), zero, sums.astype(np.int32), rows, pairs)


def multiply(weights: Weights, activations: Array, zero_point: int, arithmetic: Arithmetic) -> Product:
    """The sum over the reduction of (weight − its zero point) · (activation − zero point).

    `activations` are uint8 or int8 [reduction, columns]. Signed ones are moved to uint8 about 128, as onnxruntime
    does on x86.
    """
    if activations.dtype == np.int8:
        activations, zero_point = activations.view(np.uint8) ^ np.uint8(0x80), zero_point + 128
    totals = _exact(weights.numbers, activations)
    totals -= zero_point * weights.sums
    if weights.zero_point.any():
        totals -= weights.zero_point * activations.sum(axis=0, dtype=np.int32)
    pairs = len(totals) * -(-len(activations) // 2) * activations.shape[1]
    if arithmetic == "exact":
        return Product(totals, None, pairs, 0)
    excess, saturated = _excess(weights, activations)
    if excess is not None:
        totals -= excess
    return Product(totals, excess, pairs, saturated)


def _exact(numbers: Array, activations: Array) -> Array:
    totals = np.zeros((len(numbers), activations.shape[1]), np.int32)
    for start in range(0, len(activations), _EXACT_IN_FLOAT32):
        part = slice(start, start + _EXACT_IN_FLOAT32)
        totals += (numbers[:, part] @ activations[part].astype(np.float32)).astype(np.int32)
    return totals


def _risky(numbers: Array) -> tuple[Array, Array]:
    """Rows and pairs of neighbours with one sign that together are large enough to saturate."""
    even = numbers.shape[1] // 2 * 2  # the last of an odd number stands alone, and cannot
    first, second = numbers[:, 0:even:2], numbers[:, 1:even:2]
    rows, pairs = np.nonzero((np.abs(first + second) >= _LEAST_RISKY) & (first * second > 0))
    return rows, pairs


def _excess(weights: Weights, activations: Array) -> tuple[Array | None, int]:
    """What the pairs exceed 16 bits by, summed up by output: int32 [outputs, columns]; and how many pairs do."""
    rows, first, second = weights.rows, 2 * weights.pairs, 2 * weights.pairs + 1
    peaks = activations.max(axis=1, initial=0).astype(np.float32)
    most = peaks[first] * weights.numbers[rows, first] + peaks[second] * weights.numbers[rows, second]
    likely = (most < LOWEST) | (most > HIGHEST)
    if not likely.any():
        return None, 0
    rows, first, second = rows[likely], first[likely], second[likely]
    columns = activations.shape[1]
    excess = np.zeros((len(weights.numbers), columns), np.int32)
    saturated = 0
    for start in range(0, len(rows), max(1, _BLOCK // columns)):
        part = slice(start, start + max(1, _BLOCK // columns))
        sums = _pair(weights.numbers, activations, rows[part], first[part])
        sums += _pair(weights.numbers, activations, rows[part], second[part])
        sums -= np.clip(sums, LOWEST, HIGHEST)
        saturated += int(np.count_nonzero(sums))
        starts = np.flatnonzero(np.diff(rows[part], prepend=-1))
        excess[rows[part][starts]] += np.add.reduceat(sums, starts, axis=0, dtype=np.int32)
    return (excess, saturated) if saturated else (None, 0)


def _pair(numbers: Array, activations: Array, rows: Array, places: Array) -> Array:
    """One of a pair's two products, int32 [pairs, columns]."""
    products: Array = activations[places].astype(np.int32) * numbers[rows, places].astype(np.int32)[:, np.newaxis]
    return products
