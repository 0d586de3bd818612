"""Give every product weights and a bias of its own, where several nodes read one stored tensor."""

from collections import defaultdict

from onnx import GraphProto, NodeProto

from workers.quantization.graph import captured, defined, fresh

_OWN = {"Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (1,)}
"""Places of the operands that recovery steps change: what is one node's must not be another's."""


def untie(graph: GraphProto) -> int:
    """Copy shared tensors for products that read them; returns how many copies were made.

    The tensor itself stays with a reader that is no product, if there is one, and else with the first product.
    """
    stored = {tensor.name: tensor for tensor in graph.initializer}
    places: dict[str, list[tuple[NodeProto, int]]] = defaultdict(list)
    others = {value.name for value in graph.output}
    for node in graph.node:
        others |= captured(node)
        for index, name in enumerate(node.input):
            if name not in stored:
                continue
            if not node.domain and index in _OWN.get(node.op_type, ()):
                places[name].append((node, index))
            else:
                others.add(name)
    taken = defined(graph)
    made = 0
    for name, found in places.items():
        for node, index in found if name in others else found[1:]:
            copy = fresh(f"{name}_of_{node.name}", taken)
            tensor = graph.initializer.add()
            tensor.CopyFrom(stored[name])
            tensor.name = copy
            node.input[index] = copy
            made += 1
    return made
