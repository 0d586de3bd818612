"""Bring a model into the one form that every technique starts from.

Models arrive with weights in Constant nodes or behind a Transpose, nodes without names, batch norms
beside convolutions, local functions, and opsets of many years. Nothing here changes what is computed,
beyond the rounding of folded batch norms.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, inliner, numpy_helper, version_converter
from onnx.reference import ReferenceEvaluator

from app.domain.recipe import KeepFloat
from app.errors import StepError
from workers.formats.onnx.graph import all_nodes, bodies_of, graphs, is_quantized
from workers.quantization.graph import (
    captured,
    defined,
    put_weights_back,
    set_weights_aside,
    sort_nodes,
    uses_external_data,
)
from workers.quantization.selection import resolve_keep_float

# Operators that take and give tensors of no more elements than their first input: folding them where
# all inputs are stored never makes a model larger.
_FOLDABLE = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"})

_HIDDEN = "hidden.from.converter"

_PLAIN_TYPES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.DOUBLE,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.BOOL,
    }
)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model ready to be quantized.

    `kept` are the names of nodes that stay in float. `external` says whether the original keeps its
    weights in files of their own, as the artifact then does too.
    """

    model: ModelProto
    kept: frozenset[str]
    external: bool
    notes: tuple[str, ...]


def quantized_operators(model: ModelProto) -> list[str]:
    """The operator types in a model that compute with, or store, integers instead of floats."""
    return sorted({node.op_type for node in all_nodes(model) if is_quantized(node.op_type)})


def prepare(
    path: Path,
    *,
    least_opset: int,
    keep_float: KeepFloat,
    fold: bool,
    batch_norms: bool = False,
    partly: bool = False,
) -> Prepared:
    """Read a model and bring it into the form that techniques start from, with types and shapes inferred.

    `fold` computes beforehand what only rearranges weights; `batch_norms` folds those too, into the
    convolutions before them. With `partly`, a part of the model may be quantized.
    Raises StepError `already_quantized`, `keep_float_matches_nothing` or `opset_conversion_failed`.
    """
    model = onnx.load(path)
    found = quantized_operators(model)
    if found and not partly:
        raise StepError(
            f"The model is quantized already (it has {', '.join(found[:4])}); upload the float model it came from.",
            code="already_quantized",
        )
    notes: list[str] = []
    if model.functions:
        model = inliner.inline_local_functions(model)
    _name_nodes(model)
    kept = resolve_keep_float(model, keep_float)

    aside = set_weights_aside(model)
    converted = _convert(model, least_opset)
    if converted is not model:
        notes.append(f"Converted from opset {_opset(model)} to {_opset(converted)}.")
        model = converted
        _name_nodes(model)
    model = onnx.shape_inference.infer_shapes(model)
    put_weights_back(model, aside)

    _initializers_are_constants(model)
    for graph in graphs(model.graph):
        _store_constants(graph)
        if fold:
            _fold_stored(graph, model)
    _make_names_unique(model)
    if batch_norms:
        folded = _fold_batch_norms(model.graph, kept)
        if folded:
            notes.append(f"Folded {folded} batch normalization{'s' if folded > 1 else ''} into convolutions.")
    sort_nodes(model.graph)
    return Prepared(model=model, kept=frozenset(kept), external=uses_external_data(path), notes=tuple(notes))


def _opset(model: ModelProto) -> int:
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _name_nodes(model: ModelProto) -> None:
    """Give every node a name of its own, from its type and place where it has none."""
    taken = {node.name for node in all_nodes(model) if node.name}
    seen: set[str] = set()
    for index, node in enumerate(all_nodes(model)):
        if not node.name or node.name in seen:
            base = node.name or node.op_type
            suffix = index
            while f"{base}_{suffix}" in taken:
                suffix += 1
            node.name = f"{base}_{suffix}"
            taken.add(node.name)
        seen.add(node.name)


def _convert(model: ModelProto, least_opset: int) -> ModelProto:
    """The model in the least opset, or as it is where that is high enough."""
    opset = _opset(model)
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


def _initializers_are_constants(model: ModelProto) -> None:
    """Drop weights from the graph's inputs, where IR version 3 had to list them."""
    stored = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in stored]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)
        model.ir_version = max(model.ir_version, 4)


def _store_constants(graph: GraphProto) -> None:
    """Turn Constant nodes into initializers, which is where quantizers look for weights.

    A constant that is itself an output stays a node, with its value as a tensor.
    """
    outputs = {value.name for value in graph.output}
    dropped: list[int] = []
    for index, node in enumerate(graph.node):
        tensor = _constant_value(node) if node.op_type == "Constant" and not node.domain else None
        if tensor is None:
            continue
        tensor.name = node.output[0]
        if node.output[0] in outputs:
            node.CopyFrom(helper.make_node("Constant", [], list(node.output), name=node.name, value=tensor))
        else:
            graph.initializer.append(tensor)
            dropped.append(index)
    _drop_nodes(graph, dropped)


def _constant_value(node: NodeProto) -> TensorProto | None:
    """A copy of what a Constant holds; None for text and sparse tensors."""
    for attribute in node.attribute:
        if attribute.name == "value":
            tensor = TensorProto()
            tensor.CopyFrom(attribute.t)
            return tensor
        if attribute.name == "value_float":
            return numpy_helper.from_array(np.array(attribute.f, np.float32))
        if attribute.name == "value_floats":
            return numpy_helper.from_array(np.array(attribute.floats, np.float32))
        if attribute.name == "value_int":
            return numpy_helper.from_array(np.array(attribute.i, np.int64))
        if attribute.name == "value_ints":
            return numpy_helper.from_array(np.array(attribute.ints, np.int64))
    return None


def _fold_stored(graph: GraphProto, model: ModelProto) -> None:
    """Compute what only rearranges stored tensors, so that a weight behind a Transpose is a weight."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    dropped: list[int] = []
    for index, node in enumerate(graph.node):
        names = [name for name in node.input if name]
        if (
            node.op_type not in _FOLDABLE
            or node.domain
            or not names
            or any(name not in stored or stored[name].data_type not in _PLAIN_TYPES for name in names)
            or any(attribute.name == "to" and attribute.i not in _PLAIN_TYPES for attribute in node.attribute)
            or node.output[0] in outputs
        ):
            continue
        feeds = {name: numpy_helper.to_array(stored[name]) for name in names}
        single = helper.make_model(
            helper.make_graph(
                [node],
                "fold",
                [helper.make_tensor_value_info(name, stored[name].data_type, None) for name in feeds],
                [helper.make_empty_tensor_value_info(node.output[0])],
            ),
            opset_imports=list(model.opset_import),
        )
        (value,) = ReferenceEvaluator(single).run(None, feeds)
        tensor = numpy_helper.from_array(np.ascontiguousarray(value), node.output[0])
        graph.initializer.append(tensor)
        stored[tensor.name] = tensor
        dropped.append(index)
    if dropped:
        _drop_nodes(graph, dropped)
        _drop_unused(graph)


def _drop_unused(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in (*node.input, *captured(node))}
    used.update(value.name for value in graph.output)
    for index in range(len(graph.initializer) - 1, -1, -1):
        if graph.initializer[index].name not in used:
            del graph.initializer[index]


def _drop_nodes(graph: GraphProto, indexes: list[int]) -> None:
    for index in sorted(indexes, reverse=True):
        del graph.node[index]


def _make_names_unique(model: ModelProto) -> None:
    """Rename what a nested body calls by a name that another graph uses too.

    Sibling bodies may share names; onnxruntime's tools keep one table of names for the whole model.
    """
    taken = set(defined(model.graph))
    for graph in list(graphs(model.graph))[1:]:
        here = defined(graph)
        renamed: dict[str, str] = {}
        for name in sorted(here & taken):
            suffix = 2
            while f"{name}_{suffix}" in taken or f"{name}_{suffix}" in here:
                suffix += 1
            renamed[name] = f"{name}_{suffix}"
        if renamed:
            _rename(graph, renamed)
        taken |= {renamed.get(name, name) for name in here}


def _rename(graph: GraphProto, renamed: dict[str, str]) -> None:
    for entry in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        entry.name = renamed.get(entry.name, entry.name)
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        for body in bodies_of(node.attribute):
            _rename(body, renamed)


def _fold_batch_norms(graph: GraphProto, kept: set[str]) -> int:
    """Fold each BatchNormalization into the Conv before it, where nothing else reads the Conv.

    W' = W·γ/√(σ²+ε) and b' = (b − μ)·γ/√(σ²+ε) + β, computed in float64 (Jacob et al. 2018, §3.2).
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    readers = Counter(name for node in graph.node for name in node.input)
    fixed = {value.name for value in graph.output}
    for node in graph.node:
        fixed |= captured(node)
    producers = {node.output[0]: node for node in graph.node if node.op_type == "Conv"}
    dropped: list[int] = []
    for index, node in enumerate(graph.node):
        convolution = producers.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        if (
            convolution is None
            or node.name in kept
            or convolution.name in kept
            or readers[node.input[0]] != 1
            or node.input[0] in fixed
            or len([name for name in node.output if name]) != 1
            or any(attribute.name == "training_mode" and attribute.i for attribute in node.attribute)
            or not all(
                name in stored and stored[name].data_type == TensorProto.FLOAT
                for name in (*node.input[1:5], *[name for name in convolution.input[1:] if name])
            )
        ):
            continue
        epsilon = next((attribute.f for attribute in node.attribute if attribute.name == "epsilon"), 1e-5)
        gamma, beta, mean, variance = (
            numpy_helper.to_array(stored[name]).astype(np.float64) for name in node.input[1:5]
        )
        factor = gamma / np.sqrt(variance + epsilon)
        weight = numpy_helper.to_array(stored[convolution.input[1]]).astype(np.float64)
        has_bias = len(convolution.input) > 2 and convolution.input[2]
        bias = numpy_helper.to_array(stored[convolution.input[2]]).astype(np.float64) if has_bias else 0.0
        weight = weight * factor.reshape((-1,) + (1,) * (weight.ndim - 1))
        tensors = (
            numpy_helper.from_array(weight.astype(np.float32), f"{convolution.name}_folded_weight"),
            numpy_helper.from_array(
                ((bias - mean) * factor + beta).astype(np.float32), f"{convolution.name}_folded_bias"
            ),
        )
        graph.initializer.extend(tensors)
        stored.update((tensor.name, tensor) for tensor in tensors)
        convolution.input[:] = [convolution.input[0], *(tensor.name for tensor in tensors)]
        convolution.output[0] = node.output[0]
        dropped.append(index)
    if dropped:
        _drop_nodes(graph, dropped)
        _drop_unused(graph)
    return len(dropped)
