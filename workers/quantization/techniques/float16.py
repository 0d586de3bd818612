"""Weights and arithmetic in half precision (onnxruntime's float16 converter)."""

from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from app.domain.recipe import Float16
from workers.formats.onnx.graph import all_tensors, graphs
from workers.quantization.finishing import finish
from workers.quantization.graph import defined, save
from workers.quantization.preparation import prepare
from workers.quantization.technique import Context, Produced, nothing_to_quantize, tool_failure

_LARGEST = float(np.finfo(np.float16).max)


def quantize(model_path: Path, out_path: Path, options: Float16, context: Context) -> Produced:
    """Convert float32 tensors to float16, except around operators that have no half-precision form.

    Raises StepError `nothing_to_quantize`, `already_quantized`, `keep_float_matches_nothing` or
    `quantization_failed`.
    """
    prepared = prepare(
        model_path, least_opset=1, keep_float=options.keep_float, requantize=options.requantize, fold=False
    )
    model = prepared.model
    if not any(tensor.data_type == TensorProto.FLOAT for tensor in all_tensors(model)):
        raise nothing_to_quantize("float16", "the model stores no float32 tensors")
    beyond = _beyond_half(model)
    passed = _take_passed_on(model.graph)
    try:
        converted: ModelProto = convert_float_to_float16(
            model,
            keep_io_types=options.keep_io_types,
            # Done in preparation, in a way that works above 2 GB too.
            disable_shape_infer=True,
            node_block_list=sorted(prepared.kept),
        )
        _move_casts_inside(converted.graph)
        _put_passed_on_back(converted.graph, passed)
    except Exception as error:
        raise tool_failure("float16", error) from error
    notes = list(prepared.notes)
    clipped = [
        tensor.name
        for tensor in all_tensors(converted)
        if tensor.name in beyond and tensor.data_type == TensorProto.FLOAT16
    ]
    if clipped:
        notes.append(f"Weights beyond ±65,504 were clipped to it: {', '.join(clipped[:5])}.")
    finish(converted)
    save(converted, out_path, external=prepared.external)
    return Produced(out_path, notes=tuple(notes))


def _take_passed_on(graph: GraphProto) -> list[tuple[int, str]]:
    """Take out outputs that are inputs as they are, for which the converter defines their name twice."""
    inputs = {value.name for value in graph.input}
    passed = [(place, value.name) for place, value in enumerate(graph.output) if value.name in inputs]
    for place, _ in reversed(passed):
        del graph.output[place]
    return passed


def _put_passed_on_back(graph: GraphProto, passed: list[tuple[int, str]]) -> None:
    inputs = {value.name: value for value in graph.input}
    for place, name in passed:
        graph.output.insert(place, inputs[name])


def _beyond_half(model: ModelProto) -> set[str]:
    return {
        tensor.name
        for tensor in all_tensors(model)
        if tensor.data_type == TensorProto.FLOAT
        and (values := numpy_helper.to_array(tensor)).size
        and bool(np.any(np.isfinite(values) & (np.abs(values) > _LARGEST)))
    }


def _move_casts_inside(graph: GraphProto) -> None:
    """Put each Cast into the body whose tensor it casts.

    The converter appends every Cast to the outermost graph, even those for operators in the body of an
    `If` or `Loop` (onnxruntime 1.32), where their inputs do not exist.
    """
    bodies = list(graphs(graph))[1:]
    while True:
        homes = {name: body for body in bodies for name in defined(body)}
        outside = defined(graph)
        # A Cast of what another Cast made follows it in the next round.
        strays = [
            index
            for index, node in enumerate(graph.node)
            if node.op_type == "Cast" and node.input[0] not in outside and node.input[0] in homes
        ]
        if not strays:
            return
        for index in reversed(strays):
            homes[graph.node[index].input[0]].node.add().CopyFrom(graph.node[index])
            del graph.node[index]
