"""Find the types and shapes of a model's tensors, a step at a time where it does not go all at once."""

import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, helper

from workers.quantization.graph import captured

_MOST_NAMED = 5

_FATAL = 4

_ELEMENT_TYPES = {"float": TensorProto.FLOAT, "double": TensorProto.DOUBLE} | {
    name.lower(): number for name, number in TensorProto.DataType.items() if name not in ("FLOAT", "DOUBLE")
}
"""ONNX's element types by onnxruntime's names."""


def infer(model: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """The model with types and shapes as far as they can be known, and notes that name where they cannot.

    First all at once; where that fails, node after node, so that one that fails takes no other with it; then, for what
    has no type still (operators that onnx does not know), from onnxruntime. Large weights are set aside, nodes are in
    order. Nothing is raised: what has no type stays in float.
    """
    try:
        return _typed_by_runtime(onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True))
    except Exception:  # InferenceError, ValueError, RuntimeError and others, by the kind of fault
        pass
    try:
        model = onnx.shape_inference.infer_shapes(model)
    except Exception:  # the same once more; what the model declares itself is still there
        copy = ModelProto()
        copy.CopyFrom(model)
        model = copy
    failed = _node_by_node(model)
    model, notes = _typed_by_runtime(model)
    if failed:
        named = "; ".join(failed[:_MOST_NAMED]) + (f"; and {len(failed) - 5} more" if len(failed) > 5 else "")
        notes = (f"Shapes were inferred node by node, without those at which that fails: {named}.", *notes)
    return model, notes


def _node_by_node(model: ModelProto) -> list[str]:
    """Infer each node's outputs from what is known of its inputs; returns what failed, and why."""
    graph = model.graph
    known: dict[str, TypeProto] = {value.name: value.type for value in (*graph.output, *graph.value_info)}
    known.update({value.name: value.type for value in graph.input})
    stored = {tensor.name: tensor for tensor in graph.initializer}
    failed: list[str] = []
    for node in graph.node:
        if any(name and name not in known and name not in stored for name in node.input):
            continue  # no fault of its own
        try:
            found = _outputs_of(node, known, stored, model)
        except Exception as error:
            failed.append(f"{node.name!r} ({node.op_type}): {_reason(error)}")
            continue
        for value in found:
            if value.name not in known and value.type.WhichOneof("value"):
                known[value.name] = value.type
                graph.value_info.append(value)
    return failed


def _outputs_of(
    node: NodeProto, known: dict[str, TypeProto], stored: dict[str, TensorProto], model: ModelProto
) -> list[ValueInfoProto]:
    names = {name for name in (*node.input, *captured(node)) if name}
    single = helper.make_graph(
        [node],
        "one",
        [ValueInfoProto(name=name, type=known[name]) for name in sorted(names) if name in known and name not in stored],
        [helper.make_empty_tensor_value_info(name) for name in node.output if name],
        [stored[name] for name in sorted(names) if name in stored],
    )
    inferred = onnx.shape_inference.infer_shapes(
        helper.make_model(single, opset_imports=list(model.opset_import)), strict_mode=True, data_prop=True
    )
    return list(inferred.graph.output)


def _typed_by_runtime(model: ModelProto) -> tuple[ModelProto, tuple[str, ...]]:
    """Ask onnxruntime for the types that are unknown still: it has those of its own operators."""
    known = {value.name for value in (*model.graph.value_info, *model.graph.output) if value.type.WhichOneof("value")}
    unknown = [name for node in model.graph.node for name in node.output if name and name not in known]
    if not unknown:
        return model, ()
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL
    try:
        session = ort.InferenceSession(
            _asking(model, unknown).SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0
        )
        given = {argument.name: argument for argument in session.get_outputs()}
        model.graph.value_info.extend(
            value for name in unknown if (value := _value_of(name, given.get(name))) is not None
        )
    except Exception as error:  # onnxruntime raises some twenty classes that share no base but Exception
        named = ", ".join(map(repr, unknown[:_MOST_NAMED]))
        return model, (
            f"The types of {len(unknown)} tensors are unknown ({named}), so what reads them stays in float: "
            f"{_reason(error)}.",
        )
    return model, ()


def _asking(model: ModelProto, wanted: list[str]) -> ModelProto:
    """The model with these tensors as outputs, and inputs in the place of weights that were set aside."""
    asking = ModelProto()
    asking.CopyFrom(model)
    graph: GraphProto = asking.graph
    inputs = {value.name for value in graph.input}
    for index in range(len(graph.initializer) - 1, -1, -1):
        tensor = graph.initializer[index]
        if tensor.data_location == TensorProto.EXTERNAL:
            if tensor.name not in inputs:
                graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
            del graph.initializer[index]
    graph.output.extend(helper.make_empty_tensor_value_info(name) for name in wanted)
    return asking


def _value_of(name: str, argument: ort.NodeArg | None) -> ValueInfoProto | None:
    """What onnxruntime says of a tensor; its empty shape may be an unknown rank and is no knowledge."""
    kind = "" if argument is None else argument.type.removeprefix("tensor(").removesuffix(")")
    if argument is None or kind not in _ELEMENT_TYPES:
        return None
    shape = [size if size != "" else None for size in argument.shape] or None
    return helper.make_tensor_value_info(name, _ELEMENT_TYPES[kind], shape)


def _reason(error: Exception) -> str:
    return " ".join(str(error).rpartition("Error] ")[2].split())[:160]
