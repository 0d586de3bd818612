"""Weights as 8-bit integers, activations quantized as they come.

Products are rewritten here: of each product onnxruntime's own quantizer makes the same nodes, but it gives a
convolution one scale a tensor and takes a Gemm apart that is kept in float. What few models ask for beside them
(Attention, LSTM, Gather, EmbedLayerNormalization) is left to it.
"""

from collections.abc import Sequence
from pathlib import Path

from onnx import ModelProto, TensorProto
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode, QuantType, add_infer_metadata

from app.domain.recipe import DynamicInt8
from workers.formats.onnx.graph import all_nodes, bodies_of
from workers.quantization.dynamic_products import PRODUCTS, quantize_products
from workers.quantization.finishing import finish
from workers.quantization.graph import save
from workers.quantization.preparation import Prepared, prepare
from workers.quantization.preparation.naming import rename_inner
from workers.quantization.selection import about_types, select_op_types
from workers.quantization.technique import Context, Produced, nothing_to_quantize, tool_failure

OP_TYPES = (*PRODUCTS, "Attention", "LSTM", "Gather", "EmbedLayerNormalization")
"""Operator types that onnxruntime can run with integer weights and float inputs."""

_ADDED = ("_quantized", "_scale", "_zero_point", "_scales_mul", "_scale_mul", "_cast_output")
"""Endings by which onnxruntime's quantizer names what it adds: a model's own tensors must not be called so."""

_LEAST_OPSET = 11  # DynamicQuantizeLinear


def quantize(model_path: Path, out_path: Path, options: DynamicInt8, context: Context) -> Produced:
    """Quantize the weights of the chosen operators; what they multiply is quantized at run time.

    `options.reduce_range` is resolved. Raises StepError `nothing_to_quantize`, `already_quantized`,
    `keep_float_matches_nothing`, `op_type_not_quantizable` or `quantization_failed`.
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
    model, others = _quantize_others(prepared, [name for name in op_types if name not in PRODUCTS], options)
    products = quantize_products(
        model,
        [name for name in op_types if name in PRODUCTS],
        prepared.kept,
        dtype=options.weight_type,
        bits=7 if options.reduce_range is True else 8,
        per_channel=options.per_channel,
    )
    if not products and not others:
        raise nothing_to_quantize(
            "dynamic_int8",
            f"the model has no {' or '.join(op_types)} with a stored float32 matrix that is not kept in float"
            f"{about_types(prepared.model)}",
        )
    finish(model)
    save(model, out_path, external=prepared.external)
    return Produced(out_path, notes=prepared.notes)


def _quantize_others(prepared: Prepared, op_types: Sequence[str], options: DynamicInt8) -> tuple[ModelProto, bool]:
    """Let onnxruntime's quantizer rewrite nodes of these types; returns the model, and whether it has such nodes."""
    model = prepared.model
    chosen = [node.name for node in all_nodes(model) if node.op_type in op_types and node.name not in prepared.kept]
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
