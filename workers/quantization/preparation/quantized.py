"""What is quantized in a model already, and the way back to float where it is asked for."""

from onnx import ModelProto

from app.errors import StepError
from workers.formats.onnx.graph import all_nodes, is_quantized


def quantized_operators(model: ModelProto) -> list[str]:
    """The operator types in a model that compute with, or store, integers instead of floats."""
    return sorted({node.op_type for node in all_nodes(model) if is_quantized(node.op_type)})


def refuse_quantized(model: ModelProto) -> None:
    """Raise StepError `already_quantized` for a model with quantized operators."""
    found = quantized_operators(model)
    if found:
        raise StepError(
            f"The model is quantized already (it has {', '.join(found[:4])}); upload the float model it came from.",
            code="already_quantized",
        )
