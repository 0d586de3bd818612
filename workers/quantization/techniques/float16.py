"""Weights and arithmetic in half precision, except where it would not hold what is computed."""

from pathlib import Path

import onnx
from onnx import ModelProto

from app.domain.recipe import Float16
from app.errors import StepError
from workers.quantization.finishing import finish
from workers.quantization.graph import put_weights_back, save, set_weights_aside
from workers.quantization.half_precision import convert
from workers.quantization.preparation import prepare
from workers.quantization.technique import Context, Produced, nothing_to_quantize


def quantize(model_path: Path, out_path: Path, options: Float16, context: Context) -> Produced:
    """Convert float32 tensors to float16, except around nodes that are kept or have no half-precision form.

    Raises StepError `nothing_to_quantize`, `already_quantized`, `keep_float_matches_nothing` or `types_do_not_fit`,
    which names the node.
    """
    prepared = prepare(
        model_path,
        least_opset=1,
        keep_float=options.keep_float,
        fold=False,
        partly=context.partly,
        requantize=options.requantize,
    )
    model = prepared.model
    done = convert(model, prepared.kept, keep_io_types=options.keep_io_types)
    if not done.stored:
        raise nothing_to_quantize(
            "float16", "the model stores no float32 tensors that only nodes read which can compute in half precision"
        )
    notes = list(prepared.notes)
    if done.clipped:
        notes.append(f"Weights beyond ±65,504 were clipped to it: {', '.join(done.clipped[:5])}.")
    finish(model)
    _check_types(model)
    save(model, out_path, external=prepared.external)
    return Produced(out_path, notes=tuple(notes))


def _check_types(model: ModelProto) -> None:
    """Infer every type anew, and hold it against what the nodes take."""
    aside = set_weights_aside(model)
    try:
        onnx.shape_inference.infer_shapes(model, check_type=True)
    except onnx.shape_inference.InferenceError as error:
        raise StepError(
            f"Half precision does not fit: {' '.join(str(error).split())[:300]} Keep that node in float (keep_float).",
            code="types_do_not_fit",
        ) from error
    finally:
        put_weights_back(model, aside)
