"""Bring a graph from float32 to float16, type by type: which nodes compute in it follows from their schemas.

A node computes in half precision where the type variables of its float operands allow it, and it is not kept. Casts
stand where the two meet, one a tensor and direction; a weight that only half-precision nodes read is stored in
float16, once.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from workers.formats.onnx.graph import bodies_of, graphs, is_quantized
from workers.quantization.graph import captured, defined, fresh, sort_nodes

LARGEST = float(np.finfo(np.float16).max)
_SMALLEST = 2.0**-25  # is rounded to zero, and what is smaller

_FEW = 8
"""So few stored numbers are constants and not weights: one that became zero would change what is computed."""

IN_FLOAT = frozenset(
    {
        "CumSum", "Pow", "Range", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceProd", "ReduceSumSquare",
        "NonMaxSuppression", "RoiAlign",
    }
)  # fmt: skip
"""Operators whose results outgrow half precision soon: squares of 256 do, and sums of long rows."""

_CHOOSE_THEIR_TYPE = frozenset(
    {"to", "dtype", "value", "value_float", "value_floats", "output_dtype", "output_datatype"}
)
"""Attributes by which a node's output has a type of its own: such nodes stay, and a Cast follows."""

_FLOAT, _HALF, _OTHER = "float", "half", "other"


@dataclass(slots=True)
class Halved:
    """The weights that are stored in float16 now, and those of them that were clipped to the largest number."""

    stored: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)


def convert(model: ModelProto, kept: Collection[str], *, keep_io_types: bool) -> Halved:
    """Convert a prepared model in place; nodes in `kept` stay in float32, and inputs and outputs as they are if asked.

    What is of half precision already stays so.
    """
    done = Halved()
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    _Graph(model.graph, None, frozenset(kept), opsets, done, half_ends=not keep_io_types).convert()
    for graph in graphs(model.graph):
        del graph.value_info[:]
    sort_nodes(model.graph)
    return done


class _Graph:
    """One graph on the way; bodies of control flow have it as their parent, and at their ends the types they had."""

    def __init__(
        self,
        graph: GraphProto,
        parent: "_Graph | None",
        kept: frozenset[str],
        opsets: Mapping[str, int],
        done: Halved,
        *,
        half_ends: bool,
    ) -> None:
        self._graph, self._parent, self._kept, self._opsets, self._done = graph, parent, kept, opsets, done
        self._half_ends = half_ends
        self._known = {
            value.name: value.type.tensor_type.elem_type
            for value in (*graph.value_info, *graph.output)
            if value.type.HasField("tensor_type") and value.type.tensor_type.elem_type
        }
        self._stored = {tensor.name: tensor for tensor in graph.initializer}
        self._kinds = {name: _kind(tensor.data_type) for name, tensor in self._stored.items()}
        self._as_given = {value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._as_given |= self._known | {name: tensor.data_type for name, tensor in self._stored.items()}
        self._casts: dict[tuple[str, str], str] = {}
        self._taken: set[str] = parent._taken if parent is not None else set()
        self._taken |= {name for each in graphs(graph) for name in defined(each)}

    def convert(self) -> None:
        self._set_inputs()
        for node in list(self._graph.node):
            self._convert_node(node)
        self._set_outputs()
        self._store_weights()

    def _set_inputs(self) -> None:
        for value in self._graph.input:
            if value.name in self._stored:
                continue
            kind = _kind(value.type.tensor_type.elem_type) if value.type.HasField("tensor_type") else _OTHER
            if kind == _FLOAT and self._half_ends:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
                kind = _HALF
            self._kinds[value.name] = kind

    def _convert_node(self, node: NodeProto) -> None:
        halved = self._halved_variables(node)
        for index, (name, variable) in enumerate(self._inputs(node)):
            if not name:
                continue
            kind, wanted = self._kind(name), _HALF if variable in halved or self._was_half(name) else _FLOAT
            if kind in (_FLOAT, _HALF) and kind != wanted:
                node.input[index] = self._cast(name, wanted)
        for body in bodies_of(node.attribute):
            _Graph(body, self, self._kept, self._opsets, self._done, half_ends=False).convert()
        self._kinds.update(self._output_kinds(node, halved))

    def _halved_variables(self, node: NodeProto) -> frozenset[str]:
        """The type variables of a node's schema that become float16."""
        schema = _schema(node.op_type, node.domain, self._opsets.get(node.domain or "ai.onnx", 1))
        if (
            schema is None
            or node.name in self._kept
            or node.op_type in IN_FLOAT
            or is_quantized(node.op_type)
            or any(True for _ in bodies_of(node.attribute))
            or any(entry.name in _CHOOSE_THEIR_TYPE for entry in node.attribute)
            or any(self._vanishes(name) for name in node.input)
        ):
            return frozenset()
        kinds: dict[str, set[str | None]] = {}
        for name, variable in self._inputs(node):
            if name:
                kinds.setdefault(variable, set()).add(self._kind(name))
        return frozenset(
            variable
            for variable, found in kinds.items()
            if found <= {_FLOAT, _HALF} and "tensor(float16)" in schema.allowed.get(variable, ())
        )

    def _vanishes(self, name: str) -> bool:
        """Whether a stored constant would become zero, such as the small addend of a divisor."""
        tensor = self._stored.get(name)
        if tensor is None or tensor.data_type != TensorProto.FLOAT or int(np.prod(tensor.dims)) > _FEW:
            return False
        values = np.abs(numpy_helper.to_array(tensor))
        return bool(np.any((values > 0) & (values <= _SMALLEST)))

    def _inputs(self, node: NodeProto) -> Iterator[tuple[str, str]]:
        """Each input's name, and the type variable of its schema; empty where it has none."""
        schema = _schema(node.op_type, node.domain, self._opsets.get(node.domain or "ai.onnx", 1))
        for index, name in enumerate(node.input):
            yield name, schema.variable(schema.inputs, index) if schema is not None else ""

    def _output_kinds(self, node: NodeProto, halved: frozenset[str]) -> dict[str, str]:
        schema = _schema(node.op_type, node.domain, self._opsets.get(node.domain or "ai.onnx", 1))
        bound = {variable: self._kind(name) for name, variable in self._inputs(node) if name and variable}
        found = {}
        for index, name in enumerate(node.output):
            variable = schema.variable(schema.outputs, index) if schema is not None else ""
            if variable in halved:
                found[name] = _HALF
            elif name in self._known:
                found[name] = _kind(self._known[name])
            elif bound.get(variable) is not None:
                found[name] = _FLOAT if bound[variable] == _HALF else str(bound[variable])
        return found

    def _kind(self, name: str) -> str | None:
        """What a tensor is now; null where nothing tells its type."""
        if name in self._kinds or self._parent is None:
            return self._kinds.get(name)
        return self._parent._kind(name)

    def _was_half(self, name: str) -> bool:
        """Whether a tensor is of half precision in the model as it was given: who reads it wants it so."""
        if name in self._as_given or self._parent is None:
            return self._as_given.get(name) == TensorProto.FLOAT16
        return self._parent._was_half(name)

    def _cast(self, name: str, kind: str) -> str:
        """A tensor of that kind, made in the graph that the name is of."""
        if name not in self._kinds and self._parent is not None:
            return self._parent._cast(name, kind)
        if (name, kind) not in self._casts:
            made = self._casts[name, kind] = fresh(f"{name}_{'float16' if kind == _HALF else 'float32'}", self._taken)
            self._kinds[made] = kind
            if name not in self._stored:
                self._graph.node.append(_cast_node(name, made, kind))
        return self._casts[name, kind]

    def _set_outputs(self) -> None:
        """Let each output have its declared type, or half precision where the graph's ends have it, by its own name."""
        renamed: dict[str, str] = {}
        for value in self._graph.output:
            kind = self._kinds.get(value.name)
            if kind not in (_FLOAT, _HALF) or value.name in renamed:
                continue
            if self._half_ends:
                value.type.tensor_type.elem_type = TensorProto.FLOAT16
            if kind != _end_kind(value):
                renamed[value.name] = fresh(f"{value.name}_{'float16' if kind == _HALF else 'float32'}", self._taken)
        ends = {value.name: _end_kind(value) for value in self._graph.output}
        _rename_inside(self._graph, renamed)
        for name, inner in renamed.items():
            if name in self._stored:
                self._stored[name].name = inner
            self._graph.node.append(_cast_node(inner, name, ends[name]))

    def _store_weights(self) -> None:
        """Store in float16 what only half-precision nodes read; what others read too is cast for those."""
        read = {name for node in self._graph.node for name in (*node.input, *captured(node))}
        read.update(value.name for value in self._graph.output)
        in_place: dict[str, str] = {}
        for (name, _), made in self._casts.items():
            if name not in self._stored or made not in read:
                continue
            tensor = self._stored[name]
            if tensor.name in read:
                self._graph.node.append(_cast_node(tensor.name, made, _HALF))
                continue
            values = numpy_helper.to_array(tensor)
            if np.any(np.isfinite(values) & (np.abs(values) > LARGEST)):
                self._done.clipped.append(name)
                values = np.where(np.isfinite(values), np.clip(values, -LARGEST, LARGEST), values)
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), tensor.name))
            in_place[made] = tensor.name
            self._done.stored.append(name)
        _rename_inside(self._graph, in_place)


def _cast_node(name: str, made: str, kind: str) -> NodeProto:
    to = TensorProto.FLOAT16 if kind == _HALF else TensorProto.FLOAT
    return helper.make_node("Cast", [name], [made], name=f"{made}_Cast", to=to)


def _rename_inside(graph: GraphProto, renamed: Mapping[str, str]) -> None:
    """Give tensors other names wherever nodes make or read them, in bodies too."""
    if not renamed:
        return
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
        for body in bodies_of(node.attribute):
            own = defined(body)
            inner = {name: new for name, new in renamed.items() if name not in own}
            _rename_inside(body, inner)
            for value in body.output:
                value.name = inner.get(value.name, value.name)


def _end_kind(value: ValueInfoProto) -> str:
    """What a floating output is declared as; float32 where nothing is said."""
    return _HALF if value.type.tensor_type.elem_type == TensorProto.FLOAT16 else _FLOAT


def _kind(data_type: int) -> str:
    if data_type == TensorProto.FLOAT:
        return _FLOAT
    return _HALF if data_type == TensorProto.FLOAT16 else _OTHER


@dataclass(frozen=True, slots=True)
class _Schema:
    """Type variables of an operator's inputs and outputs, and the types that each may be."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    allowed: Mapping[str, Collection[str]]

    def variable(self, formal: tuple[str, ...], index: int) -> str:
        """The variable of an input or output; the last one repeats."""
        return formal[min(index, len(formal) - 1)] if formal else ""


@cache
def _schema(op_type: str, domain: str, version: int) -> _Schema | None:
    """The schema of an operator of the standard, or of onnxruntime's own; null for others, and where kinds may mix."""
    if domain in ("", "ai.onnx"):
        if not onnx.defs.has(op_type, version, ""):
            return None
        found: Any = onnx.defs.get_schema(op_type, version, "")
    else:
        found = _own_schemas().get((domain, op_type))
    if found is None:
        return None
    # onnxruntime's schemas have the fields of onnx's by other names.
    formal = [
        [
            (getattr(each, "type_str", None) or each.typeStr, getattr(each, "is_homogeneous", None) is not False)
            for each in side
        ]
        for side in (found.inputs, found.outputs)
    ]
    if not all(homogeneous for side in formal for _, homogeneous in side):
        return None
    inputs, outputs = (tuple("" if "(" in of else of for of, _ in side) for side in formal)
    allowed = {each.type_param_str: frozenset(each.allowed_type_strs) for each in found.type_constraints}
    return _Schema(inputs, outputs, allowed)


@cache
def _own_schemas() -> Mapping[tuple[str, str], Any]:
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime

    return {(each.domain, each.name): each for each in runtime.get_all_operator_schema() if each.domain}
