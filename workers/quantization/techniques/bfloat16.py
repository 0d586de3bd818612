"""Weights stored as bfloat16, each with a Cast back to float32 in front of its readers.

onnxruntime 1.32's CPU provider computes nothing in bfloat16. It casts the weights back as it loads the model, so the
file is half as large while the memory and the time of a run are the float model's, and loading takes more of both
(measured on twelve products of 2048 by 2048: 337 MiB at the peak instead of 251).
"""

import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from app.domain.recipe import Bfloat16
from workers.formats.onnx.graph import all_nodes, all_tensors, graphs, is_quantized
from workers.quantization.finishing import finish
from workers.quantization.graph import defined
from workers.quantization.selection import about_types
from workers.quantization.technique import Context, Produced, nothing_to_quantize
from workers.quantization.weight_only.light import read
from workers.quantization.weight_only.storage import Mapped, Sink

_LEAST_OPSET = 13  # Cast from bfloat16

_MOST_NAMED = 5

_LARGEST = np.uint16(0x7F7F)  # of the finite numbers
_LARGEST_VALUE = np.float32(2.0**127 * (2 - 2.0**-7))


def quantize(model_path: Path, out_path: Path, options: Bfloat16, context: Context) -> Produced:
    """Store weights as bfloat16, a tensor at a time; what nodes compute stays in float32.

    A weight that a node kept in float reads too stays as it is, so that nothing is stored twice. Raises StepError
    `nothing_to_quantize`, `already_quantized`, `keep_float_matches_nothing` or `opset_conversion_failed`.
    """
    light = read(
        model_path,
        least_opset=_LEAST_OPSET,
        keep_float=options.keep_float,
        partly=context.partly,
        requantize=options.requantize,
    )
    wanted = _wanted(light.model, light.kept, options.least_elements)
    if not wanted:
        raise nothing_to_quantize("bfloat16", _why_nothing(light.model, options.least_elements))
    with Sink(out_path, external=light.external) as sink:
        clipped = [
            name
            for graph in graphs(light.model.graph)
            for tensor in [tensor for tensor in graph.initializer if tensor.name in wanted]
            for name in _store(tensor, graph, light.folder, sink)
        ]
        for tensor in all_tensors(light.model):
            if tensor.data_type != TensorProto.BFLOAT16:
                sink.move(tensor, light.folder)
    finish(light.model)
    out_path.write_bytes(light.model.SerializeToString(deterministic=True))
    notes = (
        *light.notes,
        f"{len(wanted)} weights are stored as bfloat16: the file is smaller, the time and memory of a run are not.",
    )
    if clipped:
        notes += (f"Weights beyond ±3.39e38 were clipped to it: {', '.join(clipped[:5])}.",)
    return Produced(out_path, notes=notes)


def to_bfloat16(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bits of the nearest bfloat16 numbers, ties to even (IEEE 754-2019, 4.3.1); no numbers stay such.

    What is finite stays finite: an attention mask of the lowest float32 would become infinite, and a row of it no
    numbers.
    """
    bits = np.asarray(values, np.float32, order="C").view(np.uint32)
    odd = (bits >> 16) & 1
    rounded = ((bits + np.uint32(0x7FFF) + odd) >> 16).astype(np.uint16)  # only what is no number wraps around
    sign = (bits >> 16).astype(np.uint16) & np.uint16(0x8000)
    rounded = np.where(_overflows(values, rounded), sign | _LARGEST, rounded)
    quiet = (bits >> 16).astype(np.uint16) | np.uint16(0x0040)
    made: NDArray[np.uint16] = np.where(np.isnan(values), quiet, rounded)
    return made


def _overflows(values: NDArray[np.float32], rounded: NDArray[np.uint16]) -> NDArray[np.bool_]:
    return np.isfinite(values) & ((rounded & np.uint16(0x7FFF)) > _LARGEST)


def _why_nothing(model: ModelProto, least: int) -> str:
    """What left every weight as it is."""
    large = _large(model, least)
    if not large:
        return f"the model stores no float32 weights of {least} elements or more{about_types(model)}"
    if large <= _outputs(model):
        return f"its only float32 weights of {least} elements or more are themselves outputs ({_named(large)})"
    return (
        f"its float32 weights of {least} elements or more ({_named(large)}) are themselves outputs, or nodes read them "
        "that are kept in float or work on integers"
    )


def _named(names: set[str]) -> str:
    told = ", ".join(repr(name[:200]) for name in sorted(names)[:_MOST_NAMED])
    return told if len(names) <= _MOST_NAMED else f"{told} and {len(names) - _MOST_NAMED} more"


def _large(model: ModelProto, least: int) -> set[str]:
    """Names of the float32 weights that are large enough and that nodes read."""
    read = {name for node in all_nodes(model) for name in node.input}
    return {
        tensor.name
        for graph in graphs(model.graph)
        for tensor in graph.initializer
        if tensor.data_type == TensorProto.FLOAT
        and tensor.dims
        and math.prod(tensor.dims) >= least
        and tensor.name in read
    }


def _outputs(model: ModelProto) -> set[str]:
    return {value.name for graph in graphs(model.graph) for value in graph.output}


def _wanted(model: ModelProto, kept: frozenset[str], least: int) -> set[str]:
    """Names of the float32 weights that only nodes read which are not kept and want no integers."""
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in all_nodes(model):
        for name in node.input:
            readers[name].append(node)
    return {
        name
        for name in _large(model, least) - _outputs(model)
        if not any(node.name in kept or is_quantized(node.op_type) for node in readers[name])
    }


def _store(tensor: TensorProto, graph: GraphProto, folder: Path, sink: Sink) -> list[str]:
    """Put a weight's bfloat16 form in its place, a Cast to the old name behind; returns the name if clipped."""
    name, taken = tensor.name, defined(graph)
    stored = f"{name}_bfloat16"
    while stored in taken:
        stored += "_"
    with Mapped(tensor, folder) as mapped:
        bits = to_bfloat16(mapped.values)
        clipped = bool((np.isfinite(mapped.values) & (np.abs(mapped.values) > _LARGEST_VALUE)).any())
    tensor.CopyFrom(sink.put(stored, bits, TensorProto.BFLOAT16, tuple(tensor.dims)))
    graph.node.append(helper.make_node("Cast", [stored], [name], name=f"{stored}_Cast", to=TensorProto.FLOAT))
    return [name] if clipped else []
