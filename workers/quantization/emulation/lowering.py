"""Which operators the runtime runs an artifact as, and in which order to take them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto

from app.errors import StepError
from workers.formats.onnx.graph import bodies_of
from workers.quantization.emulation.kernels import KERNELS, OTHER_PRODUCTS
from workers.quantization.graph import captured, sort_nodes
from workers.runtimes.optimized import optimized


@dataclass(frozen=True, slots=True)
class Step:
    """Nodes to take together: one that is emulated, or some that the runtime takes care of."""

    nodes: tuple[NodeProto, ...]
    emulated: bool

    def reads(self) -> set[str]:
        """Names of what it needs from outside."""
        made = self.makes()
        return {name for node in self.nodes for name in needs(node)} - made

    def makes(self) -> set[str]:
        """Names of all that its nodes put out."""
        return {name for node in self.nodes for name in node.output if name}


def lower(path: Path, session_options: Mapping[str, str] | None = None) -> ModelProto:
    """The artifact as onnxruntime rewrites it: pairs of QDQ and what is between them have become integer operators.

    `session_options` are those that the artifact requires. The rewriting stops short of memory layouts, which change
    no integer. Nodes are in the order of computation. Raises StepError `model_does_not_load`, and `not_emulated` for
    products of integers that there is no emulation of.
    """
    model = optimized(path, "extended", session_options)
    for node in model.graph.node:
        _raise_if_not_emulated(node)
    sort_nodes(model.graph)
    return model


def steps(graph: GraphProto) -> list[Step]:
    """Emulated nodes one by one, and between them as much as can be run by then."""
    available = {tensor.name for tensor in graph.initializer} | {value.name for value in graph.input}
    waiting: list[NodeProto] = list(graph.node)
    found: list[Step] = []
    while waiting:
        for emulated in (False, True):
            taken, waiting = _runnable(waiting, available, emulated=emulated)
            found.extend(Step((node,), True) for node in taken) if emulated else found.append(Step(tuple(taken), False))
    return [step for step in found if step.nodes]


def needs(node: NodeProto) -> Iterator[str]:
    """Names of what a node reads, nested bodies included."""
    yield from (name for name in node.input if name)
    yield from captured(node)


def key(node: NodeProto) -> tuple[str, str]:
    """A node's domain and operator type."""
    return ("" if node.domain == "ai.onnx" else node.domain), node.op_type


def _runnable(
    nodes: Sequence[NodeProto], available: set[str], *, emulated: bool
) -> tuple[list[NodeProto], list[NodeProto]]:
    """Nodes of one kind that can be run, and the others; `available` gains what the former put out."""
    taken, left = [], []
    for node in nodes:
        if (key(node) in KERNELS) == emulated and available.issuperset(needs(node)):
            taken.append(node)
            available.update(name for name in node.output if name)
        else:
            left.append(node)
    return taken, left


def _raise_if_not_emulated(node: NodeProto) -> None:
    inner = [found for body in bodies_of(node.attribute) for found in body.node]
    for found in (node, *inner):
        if key(found) in OTHER_PRODUCTS or (found is not node and key(found) in KERNELS):
            raise StepError(
                f"The emulator has no {found.op_type}{'' if found is node else ' in a nested body'} "
                f"(node {found.name!r}): it is for static int8 artifacts. Measure on the target instead.",
                code="not_emulated",
            )
    for found in inner:
        _raise_if_not_emulated(found)
