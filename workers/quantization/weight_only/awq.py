"""Activation-aware scaling: input channels with large activations are given finer steps.

Lin et al. 2024 (AWQ, section 3.2): weights are multiplied by s and activations divided by it, channel by channel, with
s = (root mean square of the activation)^α and α searched. What divides the activations goes into the operator that
makes them (see `folding`), so that it costs nothing at run time; where there is no such place, s is 1. The scaled
weights are then rounded as `gptq` does, which finds no finer steps by itself.
"""

from collections.abc import Sequence

import numpy as np

from workers.quantization.weight_only.blocks import Floats, Grid, joined, split
from workers.quantization.weight_only.mse import mse

_POWERS = (0.0, 0.15, 0.3, 0.45, 0.6, 0.8)
_MOST_OUTPUTS = 512  # rows that the search looks at, of each matrix


def channel_scales(matrices: Sequence[tuple[Floats, Grid]], hessian: Floats) -> Floats:
    """The factors of input channels with which the matrices that read them lose least: float32 [inputs].

    `matrices` are rows, float32 [outputs, inputs], all of the same inputs; `hessian` the mean of xᵀx.
    """
    sizes = np.sqrt(np.diag(hessian).astype(np.float64))
    if not sizes.max() > 0:
        return np.ones(len(sizes), dtype=np.float32)
    sizes = np.maximum(sizes, 1e-3 * sizes.max())
    best, least = np.ones(len(sizes), dtype=np.float32), np.inf
    thinned = [(rows[:: -(-len(rows) // _MOST_OUTPUTS)], grid) for rows, grid in matrices]
    for power in _POWERS:
        scales = (sizes / np.exp(np.log(sizes).mean())) ** power
        scales = scales.astype(np.float32)
        error = sum(scaled_error(rows, hessian, grid, scales) for rows, grid in thinned)
        if error < least:
            best, least = scales, error
    return best


def scaled_error(rows: Floats, hessian: Floats, grid: Grid, scales: Floats) -> float:
    """The error of a product, summed over its outputs, after its scaled weights went through the clip search."""
    scaled = rows * scales
    importance = split((np.diag(hessian) / (scales * scales))[None].astype(np.float32), grid.block)[0]
    off = joined(mse(split(scaled, grid.block), grid, importance).values(), rows.shape[1]) / scales - rows
    return float(np.einsum("nk,nk->", off @ hessian, off, dtype=np.float64))
