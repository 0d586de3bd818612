"""Weights and activations as 8-bit integers in QDQ form, with ranges found beforehand and ways back from bad ones."""

from pathlib import Path

from app.domain.recipe import StaticInt8
from workers.quantization.static import make
from workers.quantization.technique import Context, Produced


def quantize(model_path: Path, out_path: Path, options: StaticInt8, context: Context) -> Produced:
    """Insert QuantizeLinear and DequantizeLinear around what is computed in integers.

    `options.reduce_range` is resolved; `context.statistics` is what calibration observed. With `context.feeds`, what
    `auto` stands for in `calibration.method` and `recovery` is found by trying. Raises StepError `nothing_to_quantize`,
    `already_quantized`, `keep_float_matches_nothing`, `op_type_not_quantizable` or `calibration_missing`.
    """
    return make(model_path, out_path, options, context)
