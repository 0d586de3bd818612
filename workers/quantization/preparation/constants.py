"""Turn what a model computes from nothing but constants into stored tensors, where quantizers look for weights."""

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from workers.formats.onnx.graph import graphs
from workers.quantization.graph import captured, drop_nodes

_DEFAULTS_IR = 4
"""The first version of the format in which a stored tensor need not be an input."""

_MOST_NAMED = 5

# Operators that give tensors of no more elements than their first input: folding them where all inputs are stored never
# makes a model larger, unless the input itself is still needed.
_REARRANGING = frozenset({"Identity", "Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Cast"})
_REDUCING = frozenset({"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL2", "Neg", "Sqrt", "Reciprocal"})
# Those that can make more of two small tensors, as when weights are normalized in the graph.
_BROADCASTING = frozenset({"Add", "Sub", "Mul", "Div", "Pow"})
_FOLDABLE = _REARRANGING | _REDUCING | _BROADCASTING

_LARGE = 1 << 16
"""Elements from which a tensor is not stored a second time for readers that stay in float."""

_PRODUCTS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})

_PLAIN_TYPES = frozenset(
    {
        TensorProto.FLOAT,
        TensorProto.FLOAT16,
        TensorProto.BFLOAT16,
        TensorProto.DOUBLE,
        TensorProto.INT8,
        TensorProto.UINT8,
        TensorProto.INT32,
        TensorProto.INT64,
        TensorProto.BOOL,
    }
)


def initializers_are_constants(model: ModelProto) -> tuple[str, ...]:
    """Drop weights from the graph's inputs; returns the note that names those that a caller could set.

    IR version 3 had to list every weight. From 4 on, one that is listed is the default value of an input, but exporters
    list all weights at times: what is a weight to quantizers and what a setting, nothing tells.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    stored.update(sparse.values.name for sparse in model.graph.sparse_initializer)
    inputs = [value for value in model.graph.input if value.name not in stored]
    dropped = [value.name for value in model.graph.input if value.name in stored]
    if not dropped:
        return ()
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    if model.ir_version < _DEFAULTS_IR:
        model.ir_version = _DEFAULTS_IR
        return ()
    named = ", ".join(repr(name[:200]) for name in dropped[:_MOST_NAMED])
    more = f" and {len(dropped) - _MOST_NAMED} more" if len(dropped) > _MOST_NAMED else ""
    return (f"Inputs with default values are constants now, and callers cannot set them any more: {named}{more}.",)


def write_out_sparse(model: ModelProto) -> None:
    """Turn sparse weights into dense ones, as runtimes do when they load them; how large is bounded at the upload.

    This comes before a conversion of the opset: onnx's converter does not see them.
    """
    for graph in graphs(model.graph):
        for sparse in graph.sparse_initializer:
            graph.initializer.append(numpy_helper.from_array(_dense(sparse), sparse.values.name))
        del graph.sparse_initializer[:]
        for node in graph.node:
            for attribute in node.attribute:
                if node.op_type == "Constant" and not node.domain and attribute.HasField("sparse_tensor"):
                    dense = numpy_helper.from_array(_dense(attribute.sparse_tensor))
                    attribute.CopyFrom(helper.make_attribute("value", dense))


def _dense(sparse: SparseTensorProto) -> NDArray[Any]:
    values, indices = numpy_helper.to_array(sparse.values), numpy_helper.to_array(sparse.indices)
    dense = np.zeros(tuple(sparse.dims), values.dtype)
    if indices.ndim == 2:  # a row of coordinates for each value
        dense[tuple(indices.T)] = values
    else:
        dense.reshape(-1)[indices] = values
    return dense


def store_constants(graph: GraphProto) -> None:
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
    drop_nodes(graph, dropped)


def _constant_value(node: NodeProto) -> TensorProto | None:
    """A copy of what a Constant holds; None for text."""
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


def fold_stored(graph: GraphProto, model: ModelProto, kept: frozenset[str] = frozenset()) -> None:
    """Compute what is made of nothing but stored tensors, so that a weight behind a Transpose is a weight.

    A large table that something else reads too, like an embedding tied to the head, is stored a second time only for a
    product that is not in `kept`.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for name in {*node.input, *captured(node)}:
            readers[name].append(node)
    dropped: list[int] = []
    for index, node in enumerate(graph.node):
        names = [name for name in node.input if name]
        if not _can_fold(node, stored) or node.output[0] in outputs or not _worthwhile(node, stored, readers, kept):
            continue
        tensor = _folded(node, {name: stored[name] for name in names}, model)
        if tensor is None:
            continue
        graph.initializer.append(tensor)
        stored[tensor.name] = tensor
        dropped.append(index)
        for name in names:
            readers[name].remove(node)
    drop_nodes(graph, dropped)


def _can_fold(node: NodeProto, stored: dict[str, TensorProto]) -> bool:
    names = [name for name in node.input if name]
    return (
        node.op_type in _FOLDABLE
        and not node.domain
        and bool(names)
        and all(name in stored and stored[name].data_type in _PLAIN_TYPES for name in names)
        and all(attribute.name != "to" or attribute.i in _PLAIN_TYPES for attribute in node.attribute)
        and (node.op_type not in _BROADCASTING or _stays_small([stored[name] for name in names]))
    )


def _stays_small(operands: list[TensorProto]) -> bool:
    """Whether operands together make no more elements than the largest of them has."""
    try:
        made = np.broadcast_shapes(*(tuple(tensor.dims) for tensor in operands))
    except ValueError:  # they do not fit together; the runtime will say so
        return False
    return bool(np.prod(made, dtype=np.int64) == max(np.prod(tensor.dims, dtype=np.int64) for tensor in operands))


def _worthwhile(
    node: NodeProto, stored: dict[str, TensorProto], readers: dict[str, list[NodeProto]], kept: frozenset[str]
) -> bool:
    source = stored[node.input[0]]
    if np.prod(source.dims, dtype=np.int64) < _LARGE or len(readers[source.name]) == 1:
        return True
    return any(
        reader.name not in kept and (reader.op_type in _PRODUCTS or reader.op_type in _FOLDABLE)
        for reader in readers[node.output[0]]
    )


def _folded(node: NodeProto, inputs: dict[str, TensorProto], model: ModelProto) -> TensorProto | None:
    """What a node makes of stored tensors; None where onnx's reference cannot tell, and the runtime is left to it."""
    single = helper.make_model(
        helper.make_graph(
            [node],
            "fold",
            [helper.make_tensor_value_info(name, tensor.data_type, None) for name, tensor in inputs.items()],
            [helper.make_empty_tensor_value_info(node.output[0])],
        ),
        opset_imports=list(model.opset_import),
    )
    feeds = {name: numpy_helper.to_array(tensor) for name, tensor in inputs.items()}
    try:
        (value,) = ReferenceEvaluator(single).run(None, feeds)
    except Exception:  # the reference raises classes of NumPy's and its own for what it does not have
        return None
    return numpy_helper.from_array(np.asarray(value, order="C"), node.output[0])
