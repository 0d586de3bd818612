"""Bring an old operator set up to the least one that a technique needs."""

import numpy as np
from onnx import ModelProto, helper, numpy_helper, version_converter

from app.errors import StepError
from workers.formats.onnx.graph import all_nodes, graphs

_HIDDEN = "hidden.from.converter"


def opset_of(model: ModelProto) -> int:
    """The version of the default operator set; 0 where a model names none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def convert(model: ModelProto, least_opset: int) -> ModelProto:
    """The model in the least opset, or as it is where that is high enough.

    Raises StepError `opset_conversion_failed`.
    """
    opset = opset_of(model)
    if opset >= least_opset:
        return model
    source = ModelProto()
    source.CopyFrom(model)
    try:
        _hide_upsamples(source)
        converted = version_converter.convert_version(source, least_opset)
        _resize_instead(converted)
    except Exception as error:  # the converter raises RuntimeError, TypeError and classes of its own
        raise StepError(
            f"The model has opset {opset}, this technique needs {least_opset}, and the conversion failed "
            f"({_reason(error)}); export the model again with opset {least_opset} or later.",
            code="opset_conversion_failed",
        ) from error
    # The converter turns unknown output shapes into scalars.
    for before, after in ((model.graph.input, converted.graph.input), (model.graph.output, converted.graph.output)):
        kept = [value for value in before if value.name in {entry.name for entry in after}]
        del after[:]
        after.extend(kept)
    converted.ir_version = max(converted.ir_version, helper.find_min_ir_version_for(list(converted.opset_import), True))
    return converted


def _reason(error: Exception) -> str:
    return " ".join(str(error).rpartition("failed: ")[2].split())[:200]


def _hide_upsamples(model: ModelProto) -> None:
    """Put each Upsample into a domain that onnx's converter passes by: it has no way to Resize."""
    found = [node for node in all_nodes(model) if node.op_type == "Upsample" and not node.domain]
    for node in found:
        node.domain = _HIDDEN
    if found:
        model.opset_import.append(helper.make_opsetid(_HIDDEN, 1))


def _resize_instead(model: ModelProto) -> None:
    """Turn each hidden Upsample into the Resize that computes the same (ONNX operators, Resize-11)."""
    for graph in graphs(model.graph):
        for node in graph.node:
            if node.domain != _HIDDEN:
                continue
            attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
            if "scales" in attributes:  # opset 7; from 9 on they are an input
                scales = f"{node.output[0]}_scales"
                graph.initializer.append(numpy_helper.from_array(np.array(attributes["scales"], np.float32), scales))
            else:
                scales = node.input[1]
            # Resize-11 wants a region of interest even where it reads none.
            region = f"{node.output[0]}_roi"
            graph.initializer.append(numpy_helper.from_array(np.empty(0, np.float32), region))
            node.CopyFrom(
                helper.make_node(
                    "Resize",
                    [node.input[0], region, scales],
                    list(node.output),
                    name=node.name,
                    mode=attributes.get("mode", b"nearest"),
                    coordinate_transformation_mode="asymmetric",
                    nearest_mode="floor",
                )
            )
    for index in range(len(model.opset_import) - 1, -1, -1):
        if model.opset_import[index].domain == _HIDDEN:
            del model.opset_import[index]
