"""What each operator of a profile computes and moves at least, from the nodes that it stands for."""

import math
from collections import defaultdict
from collections.abc import Sequence

from onnx import NodeProto

from workers.evaluation.operation_counts import count
from workers.evaluation.operators import OperatorTime
from workers.evaluation.roofline import Kind, ModelWork, Work
from workers.formats.onnx.graph import all_graphs, all_nodes, bodies_of, is_quantized
from workers.runtimes.onnx_profile import Observed

_BITS = {"float64": 64, "int64": 64, "uint64": 64, "complex64": 64, "float32": 32, "int32": 32, "uint32": 32,
         "float16": 16, "bfloat16": 16, "int16": 16, "uint16": 16, "int4": 4, "uint4": 4, "int2": 2,
         "uint2": 2}  # fmt: skip

_INTEGER_CODE = ("_i8", "_u8")
"""How OpenVINO names code for integers of 8 bits, under an operator's usual name."""

# Those that read as many elements of their first input as they write, not all of it.
_READS_WHAT_IT_WRITES = frozenset({"Gather", "GatherND", "GatherElements", "GatherBlockQuantized", "Slice", "Split"})


def work_of(observed: Observed, operators: Sequence[OperatorTime]) -> ModelWork:
    """The work of operators in one inference.

    `observed` is the model that was profiled, run on rows of the same shapes.
    """
    graph = _Graph(observed)
    return ModelWork(tuple(graph.work(operator) for operator in operators), graph.weight_bytes)


class _Graph:
    """The nodes of a model with the work of each."""

    def __init__(self, observed: Observed) -> None:
        self._observed = observed
        self._nodes = {node.name: node for node in all_nodes(observed.model)}
        self._maker = {output: name for name, node in self._nodes.items() for output in node.output if output}
        self._readers: dict[str, set[str]] = defaultdict(set)
        for name, node in self._nodes.items():
            for tensor in _inputs(node):
                self._readers[tensor].add(name)
        graphs = list(all_graphs(observed.model))
        self._results = {value.name for graph in graphs for value in graph.output}
        self._stored = {tensor.name for graph in graphs for tensor in graph.initializer}
        self._stored |= {node.output[0] for node in self._nodes.values() if node.op_type == "Constant"}
        self.weight_bytes = sum(self._size(name) for name in self._stored)

    def work(self, operator: OperatorTime) -> Work:
        """All nodes that an operator stands for, as one: what stays inside of it is not moved."""
        names = [name for name in operator.nodes if name in self._nodes]
        integers = is_quantized(operator.op_type) or operator.kernel.lower().endswith(_INTEGER_CODE)
        if not names:  # the runtime's own, such as a change of layout: it reads and writes its result once
            moved = 2.0 * operator.calls * (operator.output_bytes or 0)
            return Work(0.0, 0.0, moved, frozenset({"movement"}), frozenset({operator.op_type}), integers)
        flops = 0.0
        kinds: set[Kind] = set()
        for name in names:
            if integers and self._is_stored_dequantized(name):
                continue  # the operator multiplies with the stored integers
            found = count(self._nodes[name], self._observed.shapes)
            flops += found.flops * self._calls(name)
            kinds.add(found.kind)
        reads, writes = self._traffic(names)
        weights = sum(size for tensor, size in reads.items() if tensor in self._stored)
        moved = sum(reads.values()) + sum(writes.values())
        if kinds <= {"view", "control"}:
            weights = moved = 0.0
        op_types = frozenset(self._nodes[name].op_type for name in names)
        return Work(flops, weights, moved - weights, frozenset(kinds), op_types, integers)

    def _is_stored_dequantized(self, name: str) -> bool:
        node = self._nodes[name]
        return node.op_type == "DequantizeLinear" and node.input[0] in self._stored

    def _traffic(self, names: Sequence[str]) -> tuple[dict[str, float], dict[str, float]]:
        """Bytes that are read from outside of some nodes, and written to it, by tensor."""
        inside = set(names)
        reads: dict[str, float] = {}
        writes: dict[str, float] = {}
        for name in names:
            node, calls = self._nodes[name], self._calls(name)
            made = sum(self._size(output) for output in node.output if output)
            for place, tensor in enumerate(_inputs(node)):
                if self._maker.get(tensor) in inside and tensor not in self._stored:
                    continue
                partly = place == 0 and node.op_type in _READS_WHAT_IT_WRITES
                size = min(self._size(tensor), made) if partly else self._size(tensor)
                reads[tensor] = max(reads.get(tensor, 0.0), size * calls)
            for output in filter(None, node.output):
                if output in self._results or self._readers[output] - inside:
                    writes[output] = self._size(output) * calls
        return reads, writes

    def _calls(self, name: str) -> int:
        return self._observed.calls.get(name, 0)

    def _size(self, tensor: str) -> float:
        shape = self._observed.shapes.get(tensor)
        return 0.0 if shape is None else math.prod(shape) * _BITS.get(self._observed.dtypes[tensor], 8) / 8


def _inputs(node: NodeProto) -> list[str]:
    """What a node reads, with what its bodies read from outside."""
    captured = [name for body in bodies_of(node.attribute) for inner in body.node for name in _inputs(inner)]
    return [name for name in dict.fromkeys((*node.input, *captured)) if name]
