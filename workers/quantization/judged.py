"""By which tensors a quantized model is compared with its original: its floating outputs, or what stands for them."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from workers.quantization.graph import captured

FLOATING = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
"""Floating types that the runtime gives as arrays: onnxruntime 1.32 hands no bfloat16 to NumPy."""

_OF_SHAPES = frozenset({"Shape", "Size"})


@dataclass(frozen=True, slots=True)
class Judged:
    """A tensor to compare: an output, or what a node reads at a place.

    `reader` is that node's name, null for outputs and for what a nested body takes from outside.
    """

    name: str
    reader: str | None = None
    index: int = 0

    def within(self, nodes: dict[str, NodeProto]) -> str:
        """Its name in a model that was made of this one's, by that one's nodes: quantization renames what is read."""
        return self.name if self.reader is None else nodes[self.reader].input[self.index]


def judged_tensors(model: ModelProto) -> list[Judged]:
    """The floating outputs; where there are none, the nearest floating tensors that the outputs are computed from.

    A class index, say, has no distance, but what it is the highest of has one. Empty where no output hangs on a
    floating tensor that is computed. Types are inferred and nodes named.
    """
    outputs = [value.name for value in model.graph.output if value.type.tensor_type.elem_type in FLOATING]
    return [Judged(name) for name in outputs] or list(_in_front_of_outputs(model.graph))


def names_within(model: ModelProto, judged: list[Judged]) -> list[str]:
    """The names of these tensors in a model that was made of theirs."""
    nodes = {node.name: node for node in model.graph.node}
    return [each.within(nodes) for each in judged]


def _in_front_of_outputs(graph: GraphProto) -> Iterator[Judged]:
    makers = {name: node for node in graph.node for name in node.output if name}
    types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
    waiting = deque(value.name for value in graph.output)
    met = set(waiting)
    while waiting:
        node = makers.get(waiting.popleft())
        if node is None or node.op_type in _OF_SHAPES:
            continue
        reads = [Judged(name, node.name, index) for index, name in enumerate(node.input)]
        reads += [Judged(name) for name in sorted(captured(node))]
        for each in reads:
            if each.name not in makers or each.name in met:
                continue
            met.add(each.name)
            if types.get(each.name) in FLOATING:
                yield each
            else:
                waiting.append(each.name)
