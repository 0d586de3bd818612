"""Activations as 16-bit integers and weights as 8-bit ones in QDQ form, with ranges found beforehand.

onnxruntime 1.32's CPU provider has no kernel that multiplies 16-bit by 8-bit integers: it rounds to 16 bits and back,
and multiplies floats between. What is gained is size (a quarter) and an answer to what an accelerator with such
kernels will give; time is not.
"""

from dataclasses import replace
from pathlib import Path

from app.domain.recipe import StaticInt16
from workers.quantization.static import make
from workers.quantization.technique import Context, Produced

_NO_FUSION = {"session.disable_quant_qdq": "1"}
"""Without it onnxruntime 1.32 makes MatMulNBits of a DequantizeLinear and a product, whatever the activation's type,
and that rounds activations to 8 bits: measured, 45 dB instead of 130 against exact products of the same integers."""


def quantize(model_path: Path, out_path: Path, options: StaticInt16, context: Context) -> Produced:
    """Insert QuantizeLinear and DequantizeLinear of 16 bits around products with stored weights.

    Standard operators where the model is or can be brought to opset 21, else those of onnxruntime's own domain.
    `context.statistics` is what calibration observed; with `context.feeds`, what `auto` stands for is found by trying.
    Raises StepError `nothing_to_quantize`, `already_quantized`, `keep_float_matches_nothing`,
    `op_type_not_quantizable` or `calibration_missing`.
    """
    exact = options.weights == "exact"
    made = make(model_path, out_path, options, context, exact=exact)
    notes = (*made.notes, "ONNX Runtime multiplies floats between pairs of 16 bits: smaller, but not faster here.")
    return replace(made, session_options={} if exact else dict(_NO_FUSION), notes=notes)
