"""A large matrix, quantized some outputs at a time on all cores."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from app.errors import StepError
from workers.quantization.weight_only.blocks import Blocks, Floats, Grid, Matrix, packed, split
from workers.quantization.weight_only.storage import Mapped

Fit = Callable[[Floats, Grid], Blocks]
"""Quantizes rows, float32 [outputs, blocks, block], each for itself."""

_WEIGHTS = 1 << 17  # a panel: with what is made of it on the way it fits a second-level cache of 1 MiB or two
_LINE = 16  # outputs side by side that share a cache line
_RELEASE = 1 << 28  # bytes a tensor from which its pages are let go of on the way
_ROOM = 40  # a power of two, up or down, whose square times a row's length float32 still holds
_PANELS = 16  # after so many


def rows_of(stored: Mapped, rows_stored: bool, factor: float, first: int, last: int) -> Floats:
    """Some outputs of a stored matrix as rows, float32 [last − first, inputs]."""
    part = stored.values[first:last] if rows_stored else stored.values[:, first:last].T
    rows = np.ascontiguousarray(part, dtype=np.float32)
    return rows if factor == 1.0 else rows * np.float32(factor)


def quantize_matrix(
    stored: Mapped, grid: Grid, fit: Fit, *, name: str, rows_stored: bool, factor: float = 1.0, threads: int = 1
) -> Matrix:
    """Quantize a stored matrix, [inputs, outputs] or with `rows_stored` the other way about.

    Raises StepError `weights_not_finite`.
    """
    outputs, inputs = stored.values.shape if rows_stored else stored.values.shape[::-1]
    blocks = grid.blocks_of(inputs)
    made = Matrix(
        np.empty((outputs, blocks, grid.block * grid.bits // 8), dtype=np.uint8),
        np.empty((outputs, blocks), dtype=np.float32),
        np.empty((outputs, blocks), dtype=np.uint8),
    )
    step = max(_LINE, _WEIGHTS // inputs // _LINE * _LINE)
    large = stored.values.nbytes > _RELEASE

    def panel(first: int) -> None:
        last = min(first + step, outputs)
        rows = rows_of(stored, rows_stored, factor, first, last)
        check_finite(rows.sum(axis=-1), name)
        part = packed(_fitted(split(rows, grid.block), grid, fit), grid)
        made.codes[first:last], made.scales[first:last], made.zeros[first:last] = part.codes, part.scales, part.zeros
        if large and first // step % _PANELS == _PANELS - 1:
            stored.release()

    with ThreadPoolExecutor(threads) as pool, np.errstate(invalid="ignore", over="ignore"):
        for _ in pool.map(panel, range(0, outputs, step)):
            pass
    return made


def _fitted(rows: Floats, grid: Grid, fit: Fit) -> Blocks:
    """Blocks of rows, brought near 1 by a power of two first where their squares would leave float32."""
    _, exponent = np.frexp(np.abs(rows).max(initial=0.0))
    if abs(int(exponent)) < _ROOM:
        return fit(rows, grid)
    blocks = fit(np.ldexp(rows, -exponent), grid)
    return replace(blocks, scales=np.ldexp(blocks.scales, exponent))


def check_finite(values: Floats, name: str) -> None:
    """Raise StepError `weights_not_finite` for scales, or weights, that are not numbers."""
    if not np.isfinite(values).all():
        raise StepError(
            f"The weights {name[:200]!r} hold numbers that are infinite, not numbers, or too large to be scaled. "
            "Keep the node that reads them in keep_float, or export the model again.",
            code="weights_not_finite",
        )
