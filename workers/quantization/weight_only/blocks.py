"""Blocks of weights that share a scale: the layout, what codes stand for, and how they are packed.

A product's weights are held as rows, [outputs, inputs]: the summed axis is the last one, and blocks are runs of it. A
weight w of a block with scale s and zero point z becomes the code q = clip(round(w / s) + z, 0, 2^bits − 1) and stands
for (q − z) · s. The last block of a row is filled up with zeros.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Codes = NDArray[np.uint8]

SMALLEST = float(np.finfo(np.float32).tiny)


@dataclass(frozen=True, slots=True)
class Grid:
    """How many bits a code has, how many weights a block, and whether all blocks have their zero in the middle."""

    bits: int
    block: int
    symmetric: bool

    @property
    def most(self) -> int:
        """The highest code."""
        return (1 << self.bits) - 1

    @property
    def middle(self) -> int:
        """The zero point of symmetric blocks, and of every block in an operator that is given none."""
        return 1 << (self.bits - 1)

    def blocks_of(self, inputs: int) -> int:
        """Blocks a row, the last of which may not be full."""
        return -(-inputs // self.block)


@dataclass(frozen=True, slots=True)
class Blocks:
    """Quantized rows: codes uint8 [outputs, blocks, block], scales float32 and zero points uint8 [outputs, blocks].

    Codes of the filling are zero points, so that they stand for 0.
    """

    codes: Codes
    scales: Floats
    zeros: Codes

    def values(self) -> Floats:
        """What the codes stand for: float32 [outputs, blocks, block]."""
        steps = self.codes.astype(np.float32)
        steps -= self.zeros[..., None]
        steps *= self.scales[..., None]
        return steps


@dataclass(frozen=True, slots=True)
class Matrix:
    """A quantized matrix, packed: codes uint8 [outputs, blocks, block · bits / 8], scales float32 and zero points
    uint8, unpacked, [outputs, blocks]."""

    codes: Codes
    scales: Floats
    zeros: Codes

    def blocks(self, grid: Grid) -> Blocks:
        """The same, unpacked."""
        return Blocks(unpack(self.codes, grid.bits, grid.block), self.scales, self.zeros)


def packed(blocks: Blocks, grid: Grid) -> Matrix:
    """Pack the codes of quantized rows."""
    return Matrix(pack(blocks.codes, grid.bits), blocks.scales, blocks.zeros)


def split(rows: Floats, block: int) -> Floats:
    """Rows [outputs, inputs] as [outputs, blocks, block], the last block filled up with zeros; a view where it can."""
    outputs, inputs = rows.shape
    blocks = -(-inputs // block)
    if blocks * block != inputs:
        filled = np.zeros((outputs, blocks * block), dtype=np.float32)
        filled[:, :inputs] = rows
        rows = filled
    return rows.reshape(outputs, blocks, block)


def joined(blocks: NDArray[Any], inputs: int) -> NDArray[Any]:
    """Undo `split`: [outputs, blocks, block] as [outputs, inputs] without the filling."""
    whole: NDArray[Any] = blocks.reshape(len(blocks), -1)[:, :inputs]
    return whole


def encode(rows: Floats, scales: Floats, zeros: Codes, grid: Grid) -> Codes:
    """The nearest codes, half to even: uint8 in the shape of `rows`, [outputs, blocks, block]."""
    steps = rows * (np.float32(1) / scales)[..., None]
    np.rint(steps, out=steps)
    steps += zeros[..., None]
    np.clip(steps, 0, grid.most, out=steps)
    return steps.astype(np.uint8)


def rounded(rows: Floats, scales: Floats, zeros: Codes, grid: Grid) -> Blocks:
    """Rows [outputs, blocks, block] rounded to given scales and zero points."""
    return Blocks(encode(rows, scales, zeros, grid), scales, zeros)


def usable(scales: Floats) -> Floats:
    """Scales that can be divided by: 1 for blocks of zeros, for which any will do."""
    return np.where(np.abs(scales) > SMALLEST, scales, np.float32(1))


def pack(codes: Codes, bits: int) -> Codes:
    """Put codes of 2, 4 or 8 bits along the last axis into bytes, the first in the lowest bits; uint8.

    Where the axis does not fill its last byte, the rest of that is 0 (onnxruntime, docs/ContribOperators.md,
    MatMulNBits).
    """
    each = 8 // bits
    if each == 1:
        return np.ascontiguousarray(codes)
    left = -codes.shape[-1] % each
    if left:
        codes = np.concatenate([codes, np.zeros((*codes.shape[:-1], left), dtype=np.uint8)], axis=-1)
    packed = codes[..., 0::each].copy()
    for place in range(1, each):
        packed |= codes[..., place::each] << np.uint8(bits * place)
    return packed


def unpack(packed: Codes, bits: int, count: int) -> Codes:
    """Undo `pack`: the first `count` codes of the last axis, uint8."""
    each = 8 // bits
    parts = [(packed >> np.uint8(bits * place)) & np.uint8((1 << bits) - 1) for place in range(each)]
    codes: Codes = np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1)[..., :count]
    return codes
