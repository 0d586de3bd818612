"""What options of `weight_only` mean for a target and for one matrix."""

from collections.abc import Collection
from typing import Literal

from app.domain.recipe import WeightOnly
from app.domain.target import unpacks_bits_fast
from app.errors import StepError
from workers.quantization.weight_only.blocks import Grid

_KERNELS = (128, 64, 32)
"""Block sizes for which MatMulNBits has a fast kernel at every number of bits (measured, onnxruntime 1.32)."""

_SMALLEST_BLOCK = 16  # of MatMulNBits


def resolve(options: WeightOnly, features: Collection[str]) -> WeightOnly:
    """Replace what `auto` stands for on a processor with these features."""
    symmetric, level = options.symmetric, options.accuracy_level
    if symmetric == "auto":
        # Zero points cost no time in the int8 kernels (measured at blocks of 64 and 128), and an eighth of a bit at
        # most; at 8 bits they gain nothing. At 2 bits the nearest of four codes between the extremes is 1.5 dB farther
        # from normal weights than with the larger extreme on a code and the middle on zero.
        symmetric = options.bits == 8 or (options.bits == 2 and options.algorithm == "rtn")
    if level == "auto":
        # Measured on AVX-512, onnxruntime 1.32: 4 bits take a third of the float kernel's time so; 2 and 8 bits, which
        # have no float kernel, a fiftieth.
        int8: Literal[0, 4] = 4 if unpacks_bits_fast(features) else 0
        level = int8
    return options.model_copy(update={"symmetric": symmetric, "accuracy_level": level})


def check(options: WeightOnly) -> None:
    """Raise StepError `bits_not_supported` for what no kernel of onnxruntime runs."""
    if options.bits == 3:
        raise StepError(
            "ONNX Runtime 1.32 has no kernel for 3-bit weights (MatMulNBits takes 2, 4 and 8); take 4 bits, or 2.",
            code="bits_not_supported",
        )


def least_opset(options: WeightOnly) -> int:
    """The first opset that has what the form needs: DequantizeLinear in blocks came with 21, two bits with 25."""
    if options.form == "qdq":
        return 25 if options.bits == 2 else 21
    return 11


def storage_grid(options: WeightOnly, inputs: int, bits: int) -> Grid:
    """How a matrix with so many inputs is stored: its block is no larger than it need be.

    One scale a channel is stored as blocks that repeat it, of the size that takes least room: kernels read blocks,
    and a single one would be filled up to a power of two.
    """
    symmetric = bool(options.symmetric)
    if options.block_size == "channel":
        return min((Grid(bits, block, symmetric) for block in _KERNELS), key=lambda grid: _row_bytes(grid, inputs))
    whole = max(_SMALLEST_BLOCK, 1 << (inputs - 1).bit_length())
    return Grid(bits, min(options.block_size, whole), symmetric)


def fitting_grid(options: WeightOnly, stored: Grid, inputs: int) -> Grid:
    """The blocks that share a scale: those stored, or whole rows."""
    if options.block_size != "channel":
        return stored
    return Grid(stored.bits, stored.blocks_of(inputs) * stored.block, stored.symmetric)


def _row_bytes(grid: Grid, inputs: int) -> float:
    return grid.blocks_of(inputs) * (grid.block * grid.bits / 8 + 4 + grid.bits / 8)
