"""Give Gemms biases in the one form that integer kernels add: a number for each column."""

from collections.abc import Collection, Iterator, Mapping

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from workers.quantization.graph import attribute, defined, fresh


def make_biases_plain(graph: GraphProto, kept: Collection[str]) -> int:
    """Bring the stored biases of Gemms that can be quantized into the shape (columns,); returns how many could not be.

    A bias of one row, or of one number, is stored anew in that shape. One that differs from row to row is added behind
    the Gemm in float, since a quantized bias has a scale for each column. What is computed stays where it is: it is
    float, and runtimes add it as such.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    taken = defined(graph) | {node.name for node in graph.node}
    shapes = {value.name: value for value in (*graph.value_info, *graph.output)}
    split = 0
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        if node.name in kept or not _is_quantizable(node, stored):
            continue
        columns = stored[node.input[1]].dims[0 if attribute(node, "transB", 0) else 1]
        bias = stored[node.input[2]]
        if list(bias.dims) == [columns]:
            continue
        if np.prod(bias.dims) == 1 or list(bias.dims) == [1, columns]:
            # Stored anew, not changed, as others may read it in the shape that it has.
            values = np.broadcast_to(numpy_helper.to_array(bias).reshape(-1), columns)
            node.input[2] = fresh(f"{bias.name}_of_columns", taken)
            graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(values), node.input[2]))
            continue
        nodes[-1:] = _split(node, taken)
        graph.value_info.extend(_renamed(shapes.get(node.output[0]), nodes[-2].output[0]))
        split += 1
    if split:
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del graph.node[:]
        graph.node.extend(copies)
    return split


def _is_quantizable(node: NodeProto, stored: Mapping[str, TensorProto]) -> bool:
    """Whether a static technique may take this Gemm, and it has a stored bias.

    `workers.quantization.qdq.placement` says which; factors before the product or the bias keep one in float.
    """
    return (
        node.op_type == "Gemm"
        and not node.domain
        and len(node.input) == 3
        and all(name in stored and stored[name].data_type == TensorProto.FLOAT for name in node.input[1:])
        and node.input[0] not in stored
        and attribute(node, "transA", 0) == 0
        and attribute(node, "alpha", 1.0) == 1.0
        and attribute(node, "beta", 1.0) == 1.0
    )


def _split(node: NodeProto, taken: set[str]) -> tuple[NodeProto, NodeProto]:
    """A Gemm without its bias, and the Add behind it that makes the Gemm's output."""
    product = NodeProto.FromString(node.SerializeToString())
    product.output[0] = fresh(f"{node.output[0]}_without_bias", taken)
    del product.input[2]
    name = fresh(f"{node.name}_bias", taken)
    return product, helper.make_node("Add", [product.output[0], node.input[2]], list(node.output), name=name)


def _renamed(value: ValueInfoProto | None, name: str) -> Iterator[ValueInfoProto]:
    """What is known of one tensor, said of another that is of the same type and shape."""
    if value is None:
        yield helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
        return
    copy = ValueInfoProto.FromString(value.SerializeToString())
    copy.name = name
    yield copy
