"""Weights as 8-bit integers, activations quantized as they come.

Products are rewritten here: of each product onnxruntime's own quantizer makes the same nodes, but it gives a
convolution one scale a tensor and takes a Gemm apart that is kept in float. What few models ask for beside them
(Attention, LSTM, Gather, EmbedLayerNormalization) is left to it.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from onnx import ModelProto, TensorProto
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode, QuantType, add_infer_metadata

from app.domain.recipe import DynamicInt8
from workers.formats.onnx.graph import all_nodes, bodies_of
from workers.quantization.affine import WeightType
from workers.quantization.dynamic_products import PRODUCTS, quantize_products
from workers.quantization.finishing import finish
from workers.quantization.graph import save
from workers.quantization.judged import judged_tensors
from workers.quantization.preparation import Prepared, prepare
from workers.quantization.preparation.naming import rename_inner
from workers.quantization.recovery.ladder import JUDGING_FEEDS, Rung, divided, rung_of, told
from workers.quantization.recovery.measuring import level_db, observed_session, outputs_db
from workers.quantization.selection import about_types, select_op_types
from workers.quantization.smoothing.dynamic import smooth
from workers.quantization.technique import Context, Produced, nothing_to_quantize, tool_failure

OP_TYPES = (*PRODUCTS, "Attention", "LSTM", "Gather", "EmbedLayerNormalization")
"""Operator types that onnxruntime can run with integer weights and float inputs."""

_ADDED = ("_quantized", "_scale", "_zero_point", "_scales_mul", "_scale_mul", "_cast_output")
"""Endings by which onnxruntime's quantizer names what it adds: a model's own tensors must not be called so."""

_LEAST_OPSET = 11  # DynamicQuantizeLinear

ENOUGH_DB = 30.0
"""From here on nothing is smoothed: what it adds takes time (16 % of a small perceptron's, whose first classes agreed
in 99.9 % of all cases at 44 dB), for a result that is good already."""
_NO_ROWS = "Smoothing: there are no calibration rows, by which activations may be smoothed; give some to have it tried."


def quantize(model_path: Path, out_path: Path, options: DynamicInt8, context: Context) -> Produced:
    """Quantize the weights of the chosen operators; what they multiply is quantized at run time.

    `options.reduce_range` is resolved. With `context.feeds`, activations are smoothed where that brings the outputs
    nearer. Raises StepError `nothing_to_quantize`, `already_quantized`, `keep_float_matches_nothing`,
    `op_type_not_quantizable` or `quantization_failed`.
    """
    op_types = select_op_types(options.op_types, OP_TYPES, "dynamic_int8")
    prepared = prepare(
        model_path,
        least_opset=_LEAST_OPSET,
        keep_float=options.keep_float,
        fold=True,
        batch_norms="Conv" in op_types,
        partly=context.partly,
        requantize=options.requantize,
    )
    rename_inner(prepared.model, _ADDED)
    made, rungs, note = _made(prepared, op_types, options, context)
    finish(made)
    save(made, out_path, external=prepared.external)
    return Produced(out_path, notes=(*prepared.notes, *filter(None, [note])), recovery=rungs)


def _made(
    prepared: Prepared, op_types: Sequence[str], options: DynamicInt8, context: Context
) -> tuple[ModelProto, tuple[Rung, ...], str]:
    """The model in integers, what smoothing brought, and what the report says of it.

    Smoothed where an output is not near enough without and it brings them nearer, on rows that it was not fitted to.
    """
    products = [name for name in op_types if name in PRODUCTS]
    judged = [each.name for each in judged_tensors(prepared.model)]
    if not options.smoothing or not judged or not products:
        return _in_integers(prepared.model, prepared.kept, op_types, options), (), ""
    if context.feeds is None:
        return _in_integers(prepared.model, prepared.kept, op_types, options), (), _NO_ROWS
    feeds = context.feeds
    fitting, judging = divided(lambda: islice(feeds(), options.samples))

    def nearness(made: ModelProto) -> dict[str, float]:
        sessions = [
            observed_session(each, judged, context.work / f"{name}.onnx", threads=context.threads)
            for name, each in (("original", prepared.model), ("made", made))
        ]
        rows = (feed for feed, _ in islice(judging(), JUDGING_FEEDS))
        return outputs_db(sessions[0], sessions[1:], judged, rows)[0]

    plain = _in_integers(_copy(prepared.model), prepared.kept, op_types, options)
    before = nearness(plain)
    if min(before.values()) >= ENOUGH_DB:
        return plain, (), f"Smoothing: not needed, the SQNR of the outputs is {level_db(before):.1f} dB without."
    smoothed = _copy(prepared.model)
    added = smooth(smoothed, products, prepared.kept, _weights(options), fitting, context.work, threads=context.threads)
    if added is None:
        return plain, (), "Smoothing: nothing that the products read comes nearer for it."
    smoothed = _in_integers(smoothed, prepared.kept | added, op_types, options)
    rung = rung_of("smoothing", before, nearness(smoothed))
    return smoothed if rung.kept else plain, (rung,), told(rung)


def _in_integers(model: ModelProto, kept: frozenset[str], op_types: Sequence[str], options: DynamicInt8) -> ModelProto:
    """Rewrite nodes of these types that are not in `kept`; the model that was given is used up."""
    types = about_types(model)
    model, others = _quantize_others(model, kept, [name for name in op_types if name not in PRODUCTS], options)
    products = quantize_products(model, [name for name in op_types if name in PRODUCTS], kept, _weights(options))
    if not products and not others:
        raise nothing_to_quantize(
            "dynamic_int8",
            f"the model has no {' or '.join(op_types)} with a stored float32 matrix that is not kept in float{types}",
        )
    return model


def _weights(options: DynamicInt8) -> WeightType:
    return WeightType(options.weight_type, 7 if options.reduce_range is True else 8, options.per_channel)


def _copy(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _quantize_others(
    model: ModelProto, kept: frozenset[str], op_types: Sequence[str], options: DynamicInt8
) -> tuple[ModelProto, bool]:
    """Let onnxruntime's quantizer rewrite nodes of these types; returns the model, and whether it has such nodes."""
    chosen = [node.name for node in all_nodes(model) if node.op_type in op_types and node.name not in kept]
    if not chosen:
        return model, False
    add_infer_metadata(model)
    try:
        quantizer = ONNXQuantizer(
            model,
            options.per_channel,
            bool(options.reduce_range),
            QuantizationMode.IntegerOps,
            False,
            QuantType.QInt8 if options.weight_type == "int8" else QuantType.QUInt8,
            QuantType.QUInt8,
            None,
            chosen,
            [],
            sorted(op_types),
            {
                "MatMulConstBOnly": True,
                "EnableSubgraph": any(True for node in model.graph.node for _ in bodies_of(node.attribute)),
                "DefaultTensorType": TensorProto.FLOAT,
            },
        )
        quantizer.quantize_model()
    except Exception as error:
        raise tool_failure("dynamic_int8", error) from error
    return quantizer.model.model, True
