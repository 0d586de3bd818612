"""Weights as 8-bit integers, activations quantized as they come (onnxruntime's ONNXQuantizer)."""

from pathlib import Path

from onnx import ModelProto, TensorProto
from onnxruntime.quantization.onnx_quantizer import ONNXQuantizer
from onnxruntime.quantization.quant_utils import QuantizationMode, QuantType, add_infer_metadata

from app.domain.recipe import DynamicInt8
from workers.formats.onnx.graph import all_nodes, bodies_of, graphs
from workers.quantization.finishing import finish
from workers.quantization.graph import save
from workers.quantization.preparation import prepare, quantized_operators
from workers.quantization.preparation.naming import rename_inner
from workers.quantization.selection import about_types, select_op_types
from workers.quantization.technique import Context, Produced, nothing_to_quantize, tool_failure

OP_TYPES = ("MatMul", "Gemm", "Conv", "Attention", "LSTM", "Gather", "EmbedLayerNormalization")
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
    # Batch norms stay: onnxruntime gives a convolution one scale here, and folded weights vary by channel.
    prepared = prepare(
        model_path,
        least_opset=_LEAST_OPSET,
        keep_float=options.keep_float,
        fold=True,
        partly=context.partly,
        requantize=options.requantize,
    )
    rename_inner(prepared.model, _ADDED)
    chosen = _chosen(prepared.model, op_types, prepared.kept)
    if not chosen:
        raise nothing_to_quantize(
            "dynamic_int8",
            f"the model has no {' or '.join(op_types)} with a stored float32 matrix that is not kept in float"
            f"{about_types(prepared.model)}",
        )
    add_infer_metadata(prepared.model)
    try:
        quantizer = ONNXQuantizer(
            prepared.model,
            options.per_channel,
            bool(options.reduce_range),
            QuantizationMode.IntegerOps,
            False,
            QuantType.QInt8 if options.weight_type == "int8" else QuantType.QUInt8,
            QuantType.QUInt8,
            None,
            chosen,
            [],
            # onnxruntime splits a Gemm into MatMul and Add before it quantizes.
            sorted({"MatMul" if name == "Gemm" else name for name in op_types}),
            {
                "MatMulConstBOnly": True,
                "EnableSubgraph": any(True for node in prepared.model.graph.node for _ in bodies_of(node.attribute)),
                "DefaultTensorType": TensorProto.FLOAT,
            },
        )
        quantizer.quantize_model()
        model = quantizer.model.model
        finish(model)
    except Exception as error:
        raise tool_failure("dynamic_int8", error) from error
    made = quantized_operators(model)
    if not made:
        raise nothing_to_quantize("dynamic_int8", f"no {' or '.join(op_types)} has stored weights")
    save(model, out_path, external=prepared.external)
    notes = prepared.notes
    if options.per_channel and "ConvInteger" in made:
        notes += ("Convolutions have one scale a tensor all the same: onnxruntime has no others for them here.",)
    return Produced(out_path, notes=notes)


def _unfit(model: ModelProto) -> set[str]:
    """Stored operands that onnxruntime's integer products cannot take: of other types, or no plain matrices."""
    return {
        tensor.name
        for graph in graphs(model.graph)
        for tensor in graph.initializer
        if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2 or not all(tensor.dims)
    }


def _chosen(model: ModelProto, op_types: list[str], kept: frozenset[str]) -> list[str]:
    """Names of the nodes to quantize, as onnxruntime will call them after it has split each Gemm."""
    unfit = _unfit(model)
    nodes = [
        node
        for node in all_nodes(model)
        if node.op_type in op_types
        and node.name not in kept
        and not (node.op_type in ("MatMul", "Gemm") and unfit.intersection(node.input[:2]))
    ]
    return [f"{node.name}_MatMul" if node.op_type == "Gemm" else node.name for node in nodes]
