"""A torch module that computes what an ONNX model's main graph does, node by node."""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from torch import Tensor, nn

from app.errors import StepError
from workers.autodiff.node import DOMAINS, Node
from workers.autodiff.operators import OPERATORS
from workers.autodiff.operators.values import DTYPES


class Graph(nn.Module):
    """An ONNX graph in torch: float initializers are parameters, the others buffers, found by their ONNX names.

    Nodes must stand in the order of computation. Raises StepError `operator_not_differentiable`, which names the
    node, where one has no form in torch (nested bodies among them).
    """

    def __init__(self, model: ModelProto) -> None:
        super().__init__()
        self.inputs = tuple(value.name for value in model.graph.input)
        self.outputs = tuple(value.name for value in model.graph.output)
        self.nodes = tuple(Node.read(node) for node in model.graph.node)
        _raise_if_unsupported(self.nodes)
        self._members: dict[str, str] = {}
        for index, tensor in enumerate(model.graph.initializer):
            self._add(f"stored_{index}", tensor)  # torch allows no dots in names
        self._producers = {name: index for index, node in enumerate(self.nodes) for name in node.outputs if name}
        self._needed = lru_cache(maxsize=256)(self._find_needed)

    def stored(self, name: str) -> Tensor:
        """The initializer of this name, as a parameter or buffer."""
        found: Tensor = getattr(self, self._members[name])
        return found

    def forward(self, feeds: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All outputs by name, for inputs by name."""
        return dict(zip(self.outputs, self.run(feeds, self.outputs), strict=True))

    def run(self, given: Mapping[str, Tensor], wanted: Sequence[str]) -> list[Tensor]:
        """Any tensors of the graph, computed from any others.

        `given` may hold inputs, tensors in the middle, and initializers in place of those stored; only the nodes
        between them and what is wanted run, and what nobody reads any more is let go of. Raises StepError
        `operator_not_differentiable`, which names the node, where torch refuses what it is given or an output is not
        computed here, ValueError where an input is missing.
        """
        indexes, last = self._needed(frozenset(given), tuple(wanted))
        values: dict[str, Tensor] = dict(given)
        for index in indexes:
            node = self.nodes[index]
            found = _computed(node, [self._operand(name, values) for name in node.inputs])
            values.update(zip(node.outputs, [found] if isinstance(found, Tensor) else found, strict=False))
            for name in last.get(index, ()):
                values.pop(name, None)
        return [self._wanted(name, values) for name in wanted]

    def _operand(self, name: str, values: Mapping[str, Tensor]) -> Tensor | None:
        return None if not name else self._wanted(name, values)

    def _wanted(self, name: str, values: Mapping[str, Tensor]) -> Tensor:
        if name in values:
            return values[name]
        if name in self._members:
            return self.stored(name)
        if name in self._producers:
            node = self.nodes[self._producers[name]]
            raise StepError(
                f"Output {name!r} of node {node.name!r} ({node.op_type}) has no form in torch here.",
                code="operator_not_differentiable",
            )
        raise ValueError(f"nothing gives a value to {name!r}")

    def _find_needed(
        self, given: frozenset[str], wanted: tuple[str, ...]
    ) -> tuple[tuple[int, ...], dict[int, tuple[str, ...]]]:
        """The nodes to run, in order, and the tensors that each of them is the last to read."""
        needed: set[int] = set()
        waiting = [name for name in wanted if name not in given]
        while waiting:
            index = self._producers.get(waiting.pop())
            if index is None or index in needed:
                continue
            needed.add(index)
            waiting += [name for name in self.nodes[index].inputs if name and name not in given]
        readers: dict[str, int] = {}
        for index in sorted(needed):
            readers.update(dict.fromkeys(self.nodes[index].inputs, index))
        last: dict[int, tuple[str, ...]] = {}
        for name, index in readers.items():
            if name not in wanted:
                last[index] = (*last.get(index, ()), name)
        return tuple(sorted(needed)), last

    def _add(self, member: str, tensor: TensorProto) -> None:
        values = as_tensor(tensor)
        if values.is_floating_point():
            self.register_parameter(member, nn.Parameter(values))
        else:
            self.register_buffer(member, values)
        self._members[tensor.name] = member


def _computed(node: Node, operands: Sequence[Tensor | None]) -> Tensor | Sequence[Tensor]:
    """What a node makes of its operands.

    What torch says against them is a StepError: such a model is quantized well without gradients.
    """
    try:
        found: Tensor | Sequence[Tensor] = OPERATORS[node.op_type](node, *operands)
    except (StepError, MemoryError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:300]
        raise StepError(
            f"Node {node.name!r} ({node.op_type}) does not run in torch ({type(error).__name__}: {text}); leave out "
            "the steps that need gradients.",
            code="operator_not_differentiable",
        ) from error
    return found


def as_tensor(tensor: TensorProto) -> Tensor:
    """An ONNX tensor in torch. Raises StepError `operator_not_differentiable` for a type that torch has not."""
    dtype = DTYPES.get(tensor.data_type)
    if dtype is None:
        kind = TensorProto.DataType.Name(tensor.data_type)
        raise StepError(
            f"Tensor {tensor.name!r} is of type {kind}, which torch does not compute with.",
            code="operator_not_differentiable",
        )
    values: Any = numpy_helper.to_array(tensor)
    if dtype is torch.bfloat16:  # NumPy has it only by an extension that torch does not know
        return torch.from_numpy(values.astype(np.float32)).to(dtype)
    return torch.from_numpy(np.array(values))


def _raise_if_unsupported(nodes: Iterable[Node]) -> None:
    for node in nodes:
        if node.op_type not in OPERATORS or node.domain not in DOMAINS:
            known = f"{node.domain}:{node.op_type}" if node.domain else node.op_type
            raise StepError(
                f"Node {node.name!r} is a {known}, which has no form in torch here, so there are no gradients "
                "through this model; leave out the steps that need them.",
                code="operator_not_differentiable",
            )
