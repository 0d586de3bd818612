"""Half-quadratic quantization: scales and zero points that fit most weights well and let a few be wrong.

Badri and Shaji 2023 (HQQ, section 2) minimize the ℓp norm (p < 1) of the error by half-quadratic splitting: the large
errors are set apart (their equation 5), and the zero point is fitted to what is left of the weights (equation 7).
Their zero point is a real number, for which runtimes have no fast kernel. Here the scale is fitted with it, and of
all rounds that one is kept whose *whole* zero points leave the least error.
"""

import numpy as np

from workers.quantization.weight_only.blocks import Blocks, Codes, Floats, Grid, encode, usable
from workers.quantization.weight_only.rtn import covering, extremes

_POWER = np.float32(0.7)
_BETA = 10.0  # in steps of the grid; the paper's, in units of the weights, depends on how large these are
_KAPPA = 1.01
_ROUNDS = 12


def hqq(rows: Floats, grid: Grid) -> Blocks:
    """Quantize rows, float32 [outputs, blocks, block], with the scales and zero points of least ℓ0.7 error."""
    scales, zeros = covering(*extremes(rows), grid)
    real = zeros.astype(np.float32)
    best = _Best(rows, grid)
    best.offer(scales, zeros)
    for round_ in range(_ROUNDS):
        scaled = rows / scales[..., None]
        codes = _codes(scaled, real, grid)
        target = _without_outliers(scaled, codes - real[..., None], _BETA * _KAPPA**round_)
        if not grid.symmetric:
            real = np.clip((codes - target).mean(axis=-1), 0, grid.most)
        steps = codes - real[..., None]
        scales = scales * _slope(steps, target)
        best.offer(scales, np.rint(real).astype(np.uint8))
    return Blocks(best.codes, best.scales, best.zeros)


def _codes(scaled: Floats, zeros: Floats, grid: Grid) -> Floats:
    """The nearest codes to weights in units of their scale, about real zero points."""
    codes: Floats = np.rint(scaled + zeros[..., None])
    np.clip(codes, 0, grid.most, out=codes)
    return codes


def _without_outliers(scaled: Floats, steps: Floats, beta: float) -> Floats:
    """Weights less the part of their error beyond the soft threshold of the ℓp norm (HQQ, equation 5)."""
    error = scaled - steps
    size = np.abs(error)
    size -= np.maximum(size, np.float32(1e-6)) ** (_POWER - 1) / np.float32(beta)
    np.maximum(size, 0, out=size)
    np.copysign(size, error, out=size)
    nearer: Floats = np.subtract(scaled, size, out=size)
    return nearer


def _slope(steps: Floats, target: Floats) -> Floats:
    """The factor of least squares from steps to what they should be; 1 where all steps are 0."""
    under = np.einsum("nbk,nbk->nb", steps, steps)
    over = np.einsum("nbk,nbk->nb", steps, target)
    slope = over / np.where(under > 0, under, 1)
    return np.where((under > 0) & (slope > 0), slope, 1).astype(np.float32)


class _Best:
    """The best of what was offered for each block, by the ℓp norm of the error."""

    def __init__(self, rows: Floats, grid: Grid) -> None:
        self._rows, self._grid = rows, grid
        self._errors = np.full(rows.shape[:2], np.inf, dtype=np.float32)
        self.codes: Codes = np.zeros(rows.shape, dtype=np.uint8)
        self.scales: Floats = np.ones(rows.shape[:2], dtype=np.float32)
        self.zeros: Codes = np.zeros(rows.shape[:2], dtype=np.uint8)

    def offer(self, scales: Floats, zeros: Codes) -> None:
        scales = usable(scales)
        codes = encode(self._rows, scales, zeros, self._grid)
        error = Blocks(codes, scales, zeros).values()
        error -= self._rows
        np.abs(error, out=error)
        errors = np.power(error, _POWER, out=error).sum(axis=-1)
        better = errors < self._errors
        self._errors[better] = errors[better]
        self.codes[better] = codes[better]
        self.scales[better] = scales[better]
        self.zeros[better] = zeros[better]
