"""Round to nearest: each block's scale covers its extremes."""

import numpy as np

from workers.quantization.weight_only.blocks import Blocks, Codes, Floats, Grid, rounded, usable


def extremes(rows: Floats) -> tuple[Floats, Floats]:
    """The lowest and highest number of each block, zero included; rows [outputs, blocks, block]."""
    zero = np.float32(0)
    return np.minimum(rows.min(axis=-1), zero), np.maximum(rows.max(axis=-1), zero)


def covering(low: Floats, high: Floats, grid: Grid) -> tuple[Floats, Codes]:
    """The scales and zero points with which codes just reach from `low` ≤ 0 to `high` ≥ 0.

    In a symmetric grid codes reach one step further down than up, so the end with the largest magnitude is laid on
    the lowest code: the scale is negative where that end is positive (as in llama.cpp's Q4_0, ggml-quants.c).
    """
    if grid.symmetric:
        signed: Floats = np.where(-low >= high, low, high).astype(np.float32) / np.float32(-grid.middle)
        return usable(signed), np.full(low.shape, grid.middle, dtype=np.uint8)
    scales: Floats = usable((high - low) / np.float32(grid.most))
    return scales, np.clip(np.rint(-low / scales), 0, grid.most).astype(np.uint8)


def rtn(rows: Floats, grid: Grid) -> Blocks:
    """Quantize rows, float32 [outputs, blocks, block], to the nearest numbers between each block's extremes."""
    scales, zeros = covering(*extremes(rows), grid)
    return rounded(rows, scales, zeros, grid)
