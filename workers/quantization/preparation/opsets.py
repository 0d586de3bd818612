"""Bring an old operator set up to the least one that a technique needs."""

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper, version_converter

from app.errors import StepError
from workers.formats.onnx.graph import all_nodes, graphs
from workers.quantization.graph import attribute, fresh, names_in
from workers.quantization.preparation.agreement import disagreement

_HIDDEN = "hidden.from.converter"

_COORDINATES_OPSET = 11  # Resize has modes of coordinates from here on
_AXIS_OPSET = 13  # Hardmax looks along one axis from here on
_CHANNELS_OPSET = 21  # GroupNormalization has a scale for each channel from here on


def opset_of(model: ModelProto) -> int:
    """The version of the default operator set; 0 where a model names none."""
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def convert(
    model: ModelProto, least_opset: int, aside: Mapping[str, bytes] | None = None, folder: Path | None = None
) -> ModelProto:
    """The model in the least opset, or as it is where that is high enough.

    `aside` are weights that were set aside; external data that were never read lie in `folder`. Raises StepError
    `opset_conversion_failed`, also where what came of it does not load or, on made-up feeds, computes something else.
    """
    opset = opset_of(model)
    if opset >= least_opset:
        return model
    source = ModelProto()
    source.CopyFrom(model)
    try:
        if opset < _AXIS_OPSET <= least_opset:
            _flatten_hardmaxes(source)
        _hide(source, {"Upsample", "GroupNormalization"} if opset < _CHANNELS_OPSET <= least_opset else {"Upsample"})
        converted = version_converter.convert_version(source, least_opset)
        if opset < _COORDINATES_OPSET <= least_opset:
            _keep_coordinates(converted)
        _unhide(converted)
    except Exception as error:  # the converter raises RuntimeError, TypeError and classes of its own
        raise _failed(opset, least_opset, _reason(error)) from error
    # The converter turns unknown output shapes into scalars.
    for before, after in ((model.graph.input, converted.graph.input), (model.graph.output, converted.graph.output)):
        kept = [value for value in before if value.name in {entry.name for entry in after}]
        del after[:]
        after.extend(kept)
    converted.ir_version = max(converted.ir_version, helper.find_min_ir_version_for(list(converted.opset_import), True))
    wrong = disagreement(model, converted, aside or {}, folder)
    if wrong is not None:
        raise _failed(opset, least_opset, wrong)
    return converted


def _failed(opset: int, least_opset: int, why: str) -> StepError:
    return StepError(
        f"The model has opset {opset}, this technique needs {least_opset}, and the conversion failed "
        f"({why}); export the model again with opset {least_opset} or later.",
        code="opset_conversion_failed",
    )


def _reason(error: Exception) -> str:
    return " ".join(str(error).rpartition("failed: ")[2].split())[:200]


def _hide(model: ModelProto, op_types: Collection[str]) -> None:
    """Put nodes of these types into a domain that onnx's converter passes by.

    It has no way from Upsample to Resize, and leaves a GroupNormalization as it is (onnx 1.23).
    """
    found = [node for node in all_nodes(model) if node.op_type in op_types and not node.domain]
    for node in found:
        node.domain = _HIDDEN
    if found:
        model.opset_import.append(helper.make_opsetid(_HIDDEN, 1))


def _unhide(model: ModelProto) -> None:
    """Turn each hidden node into what computes the same in the new opset."""
    taken = names_in(model)
    for graph in graphs(model.graph):
        if any(node.domain == _HIDDEN for node in graph.node):
            _replace(graph, (made for node in graph.node for made in _shown(graph, node, taken)))
    for index in range(len(model.opset_import) - 1, -1, -1):
        if model.opset_import[index].domain == _HIDDEN:
            del model.opset_import[index]


def _shown(graph: GraphProto, node: NodeProto, taken: set[str]) -> Iterator[NodeProto]:
    if node.domain != _HIDDEN:
        yield node
    elif node.op_type == "Upsample":
        yield _resize_instead(graph, node, taken)
    else:
        yield from _norm_by_channel(graph, node, taken)


def _resize_instead(graph: GraphProto, node: NodeProto, taken: set[str]) -> NodeProto:
    """The Resize that computes what an Upsample does (ONNX operators, Resize-11)."""
    attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
    if "scales" in attributes:  # opset 7; from 9 on they are an input
        scales = _store(graph, f"{node.output[0]}_scales", np.array(attributes["scales"], np.float32), taken)
    else:
        scales = node.input[1]
    # Resize-11 wants a region of interest even where it reads none.
    region = _store(graph, f"{node.output[0]}_roi", np.empty(0, np.float32), taken)
    return helper.make_node(
        "Resize",
        [node.input[0], region, scales],
        list(node.output),
        name=node.name,
        mode=attributes.get("mode", b"nearest"),
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )


def _norm_by_channel(graph: GraphProto, node: NodeProto, taken: set[str]) -> Iterator[NodeProto]:
    """A GroupNormalization-21, whose scale and bias have a number a channel, of one that had them a group."""
    shown = NodeProto.FromString(node.SerializeToString())
    shown.ClearField("domain")
    of = node.output[0]
    parts = ("channels", "each", "repeats")
    channels, each, repeats = (fresh(f"{of}_{part}", taken) for part in parts)
    groups = _store(graph, f"{of}_groups", np.array([int(attribute(node, "num_groups", 1))], np.int64), taken)
    one, column, flat = (
        _store(graph, f"{of}_{part}", np.array(values, np.int64), taken)
        for part, values in (("one", [1]), ("column", [-1, 1]), ("flat", [-1]))
    )
    yield helper.make_node("Shape", [node.input[0]], [channels], name=channels, start=1, end=2)
    yield helper.make_node("Div", [channels, groups], [each], name=each)
    yield helper.make_node("Concat", [one, each], [repeats], name=repeats, axis=0)
    for index in (1, 2):
        name = node.input[index]
        alone, repeated, shown.input[index] = (
            fresh(f"{of}_{name}_{part}", taken) for part in ("column", "repeated", "of_channels")
        )
        yield helper.make_node("Reshape", [name, column], [alone], name=alone)
        yield helper.make_node("Expand", [alone, repeats], [repeated], name=repeated)
        yield helper.make_node("Reshape", [repeated, flat], [shown.input[index]], name=shown.input[index])
    yield shown


def _flatten_hardmaxes(model: ModelProto) -> None:
    """Write out that a Hardmax made one row of all axes from its own on: onnx's converter forgets it (1.23)."""
    taken = names_in(model)
    for graph in graphs(model.graph):
        if any(node.op_type == "Hardmax" and not node.domain for node in graph.node):
            _replace(graph, (made for node in graph.node for made in _flattened(node, taken)))


def _flattened(node: NodeProto, taken: set[str]) -> Iterator[NodeProto]:
    if node.op_type != "Hardmax" or node.domain:
        yield node
        return
    source, result = node.input[0], node.output[0]
    flat, most, shape = (fresh(f"{result}_{part}", taken) for part in ("flat", "of_rows", "shape"))
    yield helper.make_node("Flatten", [source], [flat], name=flat, axis=int(attribute(node, "axis", 1)))
    yield helper.make_node("Hardmax", [flat], [most], name=node.name, axis=1)
    yield helper.make_node("Shape", [source], [shape], name=shape)
    yield helper.make_node("Reshape", [most, shape], [result], name=fresh(f"{result}_Reshape", taken))


def _keep_coordinates(model: ModelProto) -> None:
    """Say of each Resize what was the only way in opset 10: the default of later ones is another."""
    for graph in graphs(model.graph):
        values = _values(graph)
        for node in graph.node:
            if node.op_type != "Resize" or node.domain:
                continue
            scales = values.get(node.input[2]) if len(node.input) > 2 else None
            # onnxruntime 1.32 takes the next pixel, not the last one, where it makes an image smaller.
            smaller = scales is not None and bool((scales <= 1).all() and (scales < 1).any())
            node.attribute.extend(
                [
                    helper.make_attribute("coordinate_transformation_mode", "asymmetric"),
                    helper.make_attribute("nearest_mode", "ceil" if smaller else "floor"),
                ]
            )


def _values(graph: GraphProto) -> dict[str, NDArray[Any]]:
    """What small tensors of a graph hold, stored or in Constant nodes."""
    found = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and not node.domain:
            found.update((node.output[0], entry.t) for entry in node.attribute if entry.name == "value")
    return {
        name: numpy_helper.to_array(tensor)
        for name, tensor in found.items()
        if tensor.data_location != TensorProto.EXTERNAL and tensor.data_type == TensorProto.FLOAT
    }


def _store(graph: GraphProto, name: str, values: NDArray[Any], taken: set[str]) -> str:
    tensor = numpy_helper.from_array(values, fresh(name, taken))
    graph.initializer.append(tensor)
    return str(tensor.name)


def _replace(graph: GraphProto, nodes: Iterator[NodeProto]) -> None:
    copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
