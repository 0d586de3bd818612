"""What is quantized in a model already, and the way back to float where it is asked for."""

from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from app.errors import StepError
from workers.formats.onnx.graph import all_nodes, graphs, is_quantized
from workers.quantization.graph import defined, drop_nodes, fresh
from workers.quantization.preparation.dead_parts import drop_dead_parts
from workers.quantization.preparation.naming import rename
from workers.quantization.qdq.placement import MOVES

Bounds = tuple[float, float]

QDQ_OPSET = 11
"""The first opset in which Clip takes its bounds as inputs."""

_QUANTIZE, _DEQUANTIZE = "QuantizeLinear", "DequantizeLinear"


def quantized_operators(model: ModelProto) -> list[str]:
    """The operator types in a model that compute with, or store, integers instead of floats."""
    return sorted({node.op_type for node in all_nodes(model) if is_quantized(node.op_type)})


def refuse_quantized(model: ModelProto) -> None:
    """Raise StepError `already_quantized` for a model with quantized operators."""
    found = quantized_operators(model)
    if found:
        raise StepError(
            f"The model is quantized already (it has {', '.join(found[:4])}); upload the float model it came from, or "
            "ask for it to be turned back into float first (requantize).",
            code="already_quantized",
        )


def to_float(model: ModelProto) -> str:
    """Turn a model in QDQ form back into float, and return the note that says so.

    A stored tensor behind a DequantizeLinear becomes the numbers that it stands for; a pair of nodes around an
    activation becomes a Clip to what the integers reach, since a ReLU may be nothing but the end of a range. What is
    computed is the same, apart from the rounding of activations. Names are unique, constants are initializers, nodes in
    order, the opset is `QDQ_OPSET` or later. Raises StepError `already_quantized`, which names the node, for every
    other form.
    """
    stored = {tensor.name: tensor for graph in graphs(model.graph) for tensor in graph.initializer}
    taken = {name for graph in graphs(model.graph) for name in defined(graph)}
    tensors = pairs = 0
    for graph in graphs(model.graph):
        tensors += _store_numbers(graph, stored)
        pairs += _bound_pairs(graph, stored, taken)
    drop_dead_parts(model.graph)
    left = next((node for node in all_nodes(model) if is_quantized(node.op_type)), None)
    if left is not None:
        raise StepError(
            f"The model cannot be turned back into float: {left.op_type} {left.name[:200]!r} is neither a "
            "DequantizeLinear of stored numbers nor one of a pair with one scale around an activation. Upload the "
            "float model it came from.",
            code="already_quantized",
        )
    return (
        f"Turned back into float: {tensors} stored tensors are the numbers that their integers stood for, and {pairs} "
        "activations are bounded to what theirs could reach."
    )


def _store_numbers(graph: GraphProto, stored: dict[str, TensorProto]) -> int:
    """Evaluate QuantizeLinear and DequantizeLinear of stored tensors; returns how many of the latter there were."""
    outputs = {value.name for value in graph.output}
    done: list[int] = []
    count = 0
    for index, node in enumerate(graph.node):
        names = [name for name in node.input if name]
        if node.op_type not in (_QUANTIZE, _DEQUANTIZE) or any(name not in stored for name in names):
            continue
        tensor = _evaluated(node, [stored[name] for name in names])
        if tensor is None or node.output[0] in outputs:
            continue
        stored[tensor.name] = tensor
        graph.initializer.append(tensor)
        done.append(index)
        count += node.op_type == _DEQUANTIZE
    drop_nodes(graph, done)
    return count


def _evaluated(node: NodeProto, inputs: list[TensorProto]) -> TensorProto | None:
    """What a node makes of stored tensors, by onnx's reference; None for what that does not have."""
    standard = NodeProto()
    standard.CopyFrom(node)
    standard.domain = ""  # onnxruntime's own operators of these names compute the same
    single = helper.make_graph(
        [standard],
        "evaluated",
        [helper.make_tensor_value_info(tensor.name, tensor.data_type, None) for tensor in inputs],
        [helper.make_empty_tensor_value_info(node.output[0])],
    )
    made = helper.make_model(single, opset_imports=[helper.make_opsetid("", 21)])
    try:
        (values,) = ReferenceEvaluator(made).run(None, {t.name: numpy_helper.to_array(t) for t in inputs})
    except Exception:  # the reference raises classes of NumPy's and its own for what it does not have
        return None
    return numpy_helper.from_array(np.asarray(values, order="C"), node.output[0])


def _bound_pairs(graph: GraphProto, stored: dict[str, TensorProto], taken: set[str]) -> int:
    """Put a Clip in the place of each pair, or nothing where what it is given is within its bounds already."""
    producers = {name: node for node in graph.node for name in node.output if name}
    within: dict[str, Bounds] = {}
    made: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    needless: list[int] = []
    twice: set[str] = set()
    pairs = 0
    for index, node in enumerate(graph.node):
        if node.op_type in MOVES and not node.domain and node.input[0] in within:
            within.update((name, within[node.input[0]]) for name in node.output)
        first = producers.get(node.input[0]) if node.op_type == _DEQUANTIZE else None
        if first is None or first.op_type != _QUANTIZE or not _same_scale(first, node, stored):
            continue
        bounds = _bounds(first, stored)
        if bounds is None:
            continue
        pairs += 1
        source, result = first.input[0], node.output[0]
        same = source if within.get(source) == bounds else made.get(node.input[0])
        if same is not None and result not in outputs:
            rename(graph, {result: same})
            needless.append(index)
            twice.add(same)
        else:
            made[node.input[0]] = result
            within[result] = bounds
            scale = numpy_helper.to_array(stored[first.input[1]])
            names = list(_stored_bounds(graph, stored, bounds, scale.dtype, result, taken))
            node.CopyFrom(helper.make_node("Clip", [source, *names], [result], name=node.name))
    drop_nodes(graph, needless)
    _keep_one_declaration(graph, twice)
    return pairs


def _keep_one_declaration(graph: GraphProto, names: set[str]) -> None:
    """Drop what is declared of tensors a second time, after others took their names."""
    inputs = {value.name for value in graph.input}
    seen: set[str] = inputs & names
    for index in range(len(graph.value_info) - 1, -1, -1):
        name = graph.value_info[index].name
        if name in seen:
            del graph.value_info[index]
        elif name in names:
            seen.add(name)


def _stored_bounds(
    graph: GraphProto, stored: dict[str, TensorProto], bounds: Bounds, dtype: Any, name: str, taken: set[str]
) -> Iterator[str]:
    for end, number in zip(("low", "high"), bounds, strict=True):
        tensor = numpy_helper.from_array(np.asarray(number, dtype), fresh(f"{name}_{end}", taken))
        graph.initializer.append(tensor)
        stored[tensor.name] = tensor
        yield str(tensor.name)


def _same_scale(first: NodeProto, second: NodeProto, stored: dict[str, TensorProto]) -> bool:
    """Whether two nodes have equal scales and zero points."""
    given, taken = (_parameters(node, stored) for node in (first, second))
    return (
        given is not None
        and taken is not None
        and all(np.array_equal(one, other) for one, other in zip(given, taken, strict=True))
    )


def _parameters(node: NodeProto, stored: dict[str, TensorProto]) -> tuple[NDArray[Any], NDArray[Any]] | None:
    names = [name for name in node.input[1:] if name]
    if not names or any(name not in stored for name in names):
        return None
    scale = numpy_helper.to_array(stored[names[0]])
    return scale, numpy_helper.to_array(stored[names[1]]) if len(names) > 1 else np.zeros_like(scale, np.uint8)


def _bounds(node: NodeProto, stored: dict[str, TensorProto]) -> Bounds | None:
    """The least and greatest number that a QuantizeLinear with one scale can stand for; None for other forms."""
    found = _parameters(node, stored)
    if found is None or found[0].size != 1 or _has_own_type(node.attribute):
        return None
    scale, zero_point = (values.reshape(()) for values in found)
    if zero_point.dtype.kind not in "iu":  # 8-bit floats
        return None
    limits = np.iinfo(zero_point.dtype)
    return tuple((end - int(zero_point)) * float(scale) for end in (limits.min, limits.max))  # type: ignore[return-value]


def _has_own_type(attributes: Collection[Any]) -> bool:
    return any(entry.name == "output_dtype" and entry.i for entry in attributes)
