"""Weights and activations as 8-bit integers in QDQ form (onnxruntime's QDQQuantizer)."""

from pathlib import Path

from onnx import GraphProto, ModelProto
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.quant_utils import QuantType, add_infer_metadata

from app.domain.recipe import StaticInt8
from app.errors import StepError
from workers.formats.onnx.graph import bodies_of
from workers.quantization.calibration import Ranges
from workers.quantization.finishing import finish
from workers.quantization.graph import defined, save
from workers.quantization.preparation import Prepared, prepare, quantized_operators
from workers.quantization.selection import select_op_types
from workers.quantization.technique import Context, Produced, nothing_to_quantize, tool_failure

_COMPUTED = (
    "Conv", "MatMul", "Gemm", "Add", "Mul", "AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid", "Softmax",
    "Where", "Concat",
)  # fmt: skip
# Alone they leave nothing to quantize: they give values on as they are, or fold into a range.
_MOVED = (
    "Split", "MaxPool", "Resize", "Gather", "GatherElements", "Slice", "Reshape", "Transpose", "Squeeze", "Unsqueeze",
    "Flatten", "ArgMax", "Relu", "Clip",
)  # fmt: skip
_IN_FLOAT = ("ConvTranspose", "Pad", "InstanceNormalization", "LayerNormalization", "BatchNormalization", "TopK")

OP_TYPES = _COMPUTED + _MOVED
"""Operator types that onnxruntime 1.32's CPU provider computes in integers between QDQ nodes, or that move
integers as they are: the default choice. Others can be asked for, and are computed in float."""

_LEAST_OPSET = 13  # QuantizeLinear and DequantizeLinear with an axis


def chosen_op_types(options: StaticInt8) -> list[str]:
    """The operator types that a recipe quantizes.

    Raises StepError `op_type_not_quantizable`.
    """
    if not options.op_types:
        return list(OP_TYPES)
    return select_op_types(options.op_types, OP_TYPES + _IN_FLOAT, "static_int8")


def prepare_for(model_path: Path, options: StaticInt8) -> Prepared:
    """The model as calibration and quantization both see it, so that tensor names agree.

    Raises StepError as `workers.quantization.preparation.prepare` does, and `nothing_to_quantize`.
    """
    op_types = chosen_op_types(options)
    prepared = prepare(model_path, least_opset=_LEAST_OPSET, keep_float=options.keep_float, fold=True, batch_norms=True)
    if not any(
        node.op_type in op_types and node.op_type not in _MOVED and node.name not in prepared.kept
        for node in prepared.model.graph.node
    ):
        raise nothing_to_quantize(
            "static_int8", "outside of nested bodies, the model has no operator to quantize that is not kept in float"
        )
    _give_biases_names_of_their_own(prepared.model.graph)
    return prepared


def quantize(model_path: Path, out_path: Path, options: StaticInt8, context: Context) -> Produced:
    """Insert QuantizeLinear and DequantizeLinear around the chosen operators, with `context.ranges`.

    `options.reduce_range` is resolved. Raises StepError `nothing_to_quantize`, `already_quantized`,
    `keep_float_matches_nothing`, `op_type_not_quantizable`, `calibration_missing` or `quantization_failed`.
    """
    if context.ranges is None or not context.ranges.exists():
        raise StepError("static_int8 needs the ranges that the calibrate step finds.", code="calibration_missing")
    prepared = prepare_for(model_path, options)
    ranges = Ranges.read(context.ranges)
    model = prepared.model
    add_infer_metadata(model)
    try:
        quantizer = QDQQuantizer(
            model,
            options.per_channel,
            bool(options.reduce_range),
            QuantType.QInt8 if options.weight_type == "int8" else QuantType.QUInt8,
            QuantType.QInt8 if options.activation_type == "int8" else QuantType.QUInt8,
            ranges.for_onnxruntime(),
            [],
            sorted(prepared.kept),
            chosen_op_types(options),
            {
                # A body that captures the output of a Relu would lose it with the Relu.
                "QDQKeepRemovableActivations": _has_bodies(model),
            },
        )
        quantizer.quantize_model()
    except Exception as error:
        raise tool_failure("static_int8", error) from error
    model = quantizer.model.model
    if not quantized_operators(model):
        raise nothing_to_quantize("static_int8", "none of the chosen operators has float tensors of known type")
    finish(model)
    save(model, out_path, external=prepared.external)
    notes = prepared.notes
    if _has_bodies(model):
        notes += ("Operators in bodies of If, Loop or Scan stay in float.",)
    return Produced(out_path, notes=notes)


def _give_biases_names_of_their_own(graph: GraphProto) -> None:
    """Copy a bias that several operators share, once for each of them.

    onnxruntime's quantizer does so too, but numbers the copies without looking whether the name is taken
    (seen with basic-pitch, where `…conv1d_25` became `…conv1d_252`, an activation).
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    taken = defined(graph)
    owned: set[str] = set()
    for node in graph.node:
        if node.op_type not in ("Conv", "ConvTranspose", "Gemm") or len(node.input) < 3 or node.input[2] not in stored:
            continue
        name = node.input[2]
        if name in owned:
            number = 2
            while f"{name}_copy_{number}" in taken:
                number += 1
            node.input[2] = f"{name}_copy_{number}"
            graph.initializer.add().CopyFrom(stored[name])
            graph.initializer[-1].name = node.input[2]
            taken.add(node.input[2])
        owned.add(name)


def _has_bodies(model: ModelProto) -> bool:
    return any(True for node in model.graph.node for _ in bodies_of(node.attribute))
