"""Weights of matrix products in few bits; what they multiply stays in float."""

from pathlib import Path

from app.domain.recipe import WeightOnly
from workers.quantization.selection import about_types
from workers.quantization.technique import Context, Produced, nothing_to_quantize
from workers.quantization.weight_only import choices
from workers.quantization.weight_only.forms import LEVEL_OPTION
from workers.quantization.weight_only.light import Light, read
from workers.quantization.weight_only.making import Making
from workers.quantization.weight_only.storage import Sink

_TOLD = 3
"""So many nodes are named where nothing can be quantized."""


def quantize(model_path: Path, out_path: Path, options: WeightOnly, context: Context) -> Produced:
    """Quantize the stored right sides of MatMul and Gemm in blocks, a tensor at a time.

    Raises StepError `bits_not_supported`, `calibration_missing`, `calibration_empty`, `calibration_failed`,
    `weights_not_finite`, `nothing_to_quantize`, `already_quantized`, `keep_float_matches_nothing` or
    `opset_conversion_failed`.
    """
    options = choices.resolve(options, context.features)
    choices.check(options)
    light = read(
        model_path,
        least_opset=choices.least_opset(options),
        keep_float=options.keep_float,
        partly=context.partly,
        requantize=options.requantize,
    )
    with Sink(out_path, external=light.external) as sink:
        making = Making(light, options, sink, context)
        if not making.finds_work():
            raise nothing_to_quantize("weight_only", _why_nothing(making, light))
        making.run()
        making.write(out_path)
    # Set even where it is 0: for this form the runtime takes 4 if it is told nothing.
    entries = {LEVEL_OPTION: str(options.accuracy_level)} if options.form == "qdq" else {}
    return Produced(out_path, session_options=entries, notes=(*light.notes, *making.notes))


def _why_nothing(making: Making, light: Light) -> str:
    """What left every product in float."""
    if not making.notes:
        return (
            f"the model has no MatMul or Gemm with a stored matrix that is not kept in float{about_types(light.model)}"
        )
    told = "; ".join(note.rstrip(".") for note in making.notes[:_TOLD])
    return told if len(making.notes) <= _TOLD else f"{told}; and so do {len(making.notes) - _TOLD} more"
