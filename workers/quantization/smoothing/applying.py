"""Change a model by what was found for an activation: what its products make is the same as before in float."""

from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from workers.quantization.affine import Array
from workers.quantization.graph import attribute, fresh, reads, store, stored
from workers.quantization.smoothing.search import Choice
from workers.quantization.smoothing.shared import Shared, folding


@dataclass(frozen=True, slots=True)
class Applied:
    """What the products read now, and the names of nodes that were added and have to stay in float."""

    read: str
    in_float: tuple[str, ...] = ()


def apply(model: ModelProto, each: Shared, choice: Choice, taken: set[str]) -> Applied:
    """Divide an activation's channels and multiply what reads them; `taken` are names that are not free.

    The division is folded into a LayerNormalization where only these products read what it makes, else it is a
    multiplication. Nodes may be left out of order.
    """
    if not len(choice.apart):
        _multiply_weights(model, each, choice.divisor, taken)
        producer = folding(model.graph, each)
        if producer is not None:
            _divide(model, producer, choice.divisor, taken)
            return Applied(each.tensor)
        read = _multiply(model, each, 1 / choice.divisor, taken)
        return Applied(read, (read,))
    inside = np.ones(len(choice.divisor))
    inside[choice.apart] = 0.0
    _multiply_weights(model, each, choice.divisor * inside, taken)
    read = _multiply(model, each, inside / choice.divisor, taken)
    return Applied(read, (read, *_multiply_apart(model, each, choice.apart, taken)))


def _multiply_weights(model: ModelProto, each: Shared, factors: Array, taken: set[str]) -> None:
    """Multiply the rows of the products' weights, which become their own where others read them too."""
    kinds: dict[tuple[str, bool], list[NodeProto]] = {}
    weights = {}
    for node, weight in zip(each.readers, each.weights, strict=True):
        kind = (node.input[1], bool(attribute(node, "transB", 0)))
        kinds.setdefault(kind, []).append(node)
        weights[kind] = (weight * factors[:, np.newaxis]).astype(np.float32)
    for (name, flipped), nodes in kinds.items():
        harder = weights[name, flipped]
        store(model, _own(model, name, nodes, 1, taken), harder.T if flipped else harder)


def _divide(model: ModelProto, producer: NodeProto, divisor: Array, taken: set[str]) -> None:
    """Divide what a LayerNormalization makes by its own scale and bias."""
    for place in (1, 2):
        if len(producer.input) > place and producer.input[place]:
            name = _own(model, producer.input[place], [producer], place, taken)
            store(model, name, stored(model, name) / divisor)


def _multiply(model: ModelProto, each: Shared, factors: Array, taken: set[str]) -> str:
    """Multiply an activation's channels in a node of its own; returns the one name of it and of what it makes."""
    graph = model.graph
    smooth, factor = (fresh(f"{each.tensor}_{part}", taken) for part in ("smooth", "smoothing"))
    graph.initializer.append(numpy_helper.from_array(factors.astype(np.float32), factor))
    graph.node.append(helper.make_node("Mul", [each.tensor, factor], [smooth], name=smooth))
    graph.value_info.append(helper.make_tensor_value_info(smooth, TensorProto.FLOAT, None))
    for node in each.readers:
        node.input[0] = smooth
    return smooth


def _multiply_apart(model: ModelProto, each: Shared, channels: Array, taken: set[str]) -> tuple[str, str]:
    """Add what some channels give to a product that has lost them; returns the names of their product and the sum.

    Behind the bias, where a node of its own adds it: so the runtime still finds one node of both, and so does the
    correction of biases.
    """
    graph, (node,), (weight,) = model.graph, each.readers, each.weights
    names = ("places", "x", "weight", "y")
    places, few, rows, part = (fresh(f"{node.name}_apart_{name}", taken) for name in names)
    whole, rest = fresh(f"{node.name}_whole", taken), fresh(f"{node.name}_rest", taken)
    end = _biased(graph, node) or node
    last = end.output[0]
    factor = attribute(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0
    graph.initializer.append(numpy_helper.from_array(channels.astype(np.int64), places))
    graph.initializer.append(numpy_helper.from_array((weight[channels] * np.float32(factor)).astype(np.float32), rows))
    end.output[0] = rest
    graph.node.extend(
        [
            helper.make_node("Gather", [each.tensor, places], [few], name=few, axis=-1),
            helper.make_node("MatMul", [few, rows], [part], name=part),
            helper.make_node("Add", [rest, part], [last], name=whole),
        ]
    )
    return part, whole


def _biased(graph: GraphProto, product: NodeProto) -> NodeProto | None:
    """The node that adds a stored bias to what a product makes and nothing else reads; None where there is none."""
    name = product.output[0]
    fixed = {tensor.name for tensor in graph.initializer}
    if reads(graph)[name] != 1:
        return None
    adding = (node for node in graph.node if node.op_type == "Add" and name in node.input)
    found: NodeProto | None = next((node for node in adding if fixed.intersection(node.input)), None)
    return found


def _own(model: ModelProto, name: str, nodes: list[NodeProto], place: int, taken: set[str]) -> str:
    """Let these nodes read a stored tensor that nothing else reads, a copy if need be; returns its name."""
    if reads(model.graph)[name] == len(nodes):
        return name
    copy: str = fresh(f"{name}_own", taken)
    model.graph.initializer.append(numpy_helper.from_array(stored(model, name), copy))
    for node in nodes:
        node.input[place] = copy
    return copy
