"""How a quantized model is compared with its original: by its floating outputs, or by what stands for them."""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from workers.quantization.affine import Array
from workers.quantization.graph import captured

FLOATING = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE})
"""Floating types that the runtime gives as arrays: onnxruntime 1.32 hands no bfloat16 to NumPy."""

FLOATING_DTYPES = frozenset({"float16", "float32", "float64"})
"""The same by NumPy's names."""

_LEAST_POWER = 1e-20
"""Sums of squares below it are not taken in float32, whose squares of small numbers vanish."""

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


def power(exact: Array, found: Array) -> tuple[float, float]:
    """Sums of squares of the finite numbers of a tensor, and of how far another one is from them.

    What has another shape, as detections have whose number depends on the numbers, is as far as if it were all zeros.
    """
    if exact.shape != found.shape:
        found = np.zeros_like(exact)
    if exact.dtype.itemsize < 4:  # sums of squares soon outgrow half precision
        exact, found = exact.astype(np.float32), found.astype(np.float32)
    with np.errstate(invalid="ignore", over="ignore"):
        difference = (found - exact).reshape(-1)
        flat = np.ascontiguousarray(exact).reshape(-1)
        signal, noise = float(np.dot(flat, flat)), float(np.dot(difference, difference))
    if _LEAST_POWER < signal < np.inf and noise < np.inf:
        return signal, noise
    # Too large or too small for float32, or not finite.
    defined = np.isfinite(flat)
    wide, difference = flat[defined].astype(np.float64), difference[defined].astype(np.float64)
    return float(np.dot(wide, wide)), float(np.dot(difference, difference))


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
