"""TorchScript modules (`.pt`): names of what goes in, and little else.

Outputs have no names: one is `output`, several are `output_0` and so on, unless they are a named tuple. Shapes and
types are not written down, except for example inputs that `torch.jit.trace` kept.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from app.domain.model import UNKNOWN, Format, TensorSpec
from app.errors import BitpressError
from workers.formats.tflite.inspection import unique_names
from workers.formats.torch.archive import member_names
from workers.formats.torch.program import clean_name, does_not_load, dtype_name, refuse_type

_STRUCTURE = frozenset(
    f"prim::{name}"
    for name in (
        "Constant", "GetAttr", "ListConstruct", "ListUnpack", "TupleConstruct", "TupleUnpack", "device", "dtype",
    )
)  # fmt: skip
"""Nodes that hold values together and compute nothing."""

_EXAMPLE = "traced_inputs.pkl"


class Script:
    """A module's `forward`."""

    kind: Format = "torchscript"
    nodes: tuple[tuple[str, str], ...] = ()

    def __init__(self, path: Path) -> None:
        try:
            self._module: Any = _loaded(path)
            method = self._module._c._get_method("forward")
        except MemoryError:
            raise
        except Exception as error:  # whatever a file of a stranger makes of it
            raise does_not_load(error, path) from error
        try:
            self.inputs, left_out = _inputs(method.schema)
            self.outputs = tuple(_unknown(name) for name in unique_names(_output_names(method.schema.returns)))
        except BitpressError:
            raise
        except Exception as error:
            raise does_not_load(error, path) from error
        self.notes = tuple(_notes(left_out, training=bool(self._module.training)))

    def call(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        named = {spec.name: value for spec, value in zip(self.inputs, values, strict=True)}
        return list(_flat(self._module(**named)))

    def state(self) -> Iterator[torch.Tensor]:
        yield from self._module.parameters()
        yield from self._module.buffers()
        for node in _nodes(self._module.inlined_graph):
            if node.kind() == "prim::Constant" and node.hasAttribute("value") and node.kindOf("value") == "t":
                yield node.t("value")

    def operators(self) -> Iterator[str]:
        for node in _nodes(self._module.inlined_graph):
            if node.kind() not in _STRUCTURE:
                yield clean_name(node.kind())


def traced_inputs(path: Path, inputs: Sequence[TensorSpec]) -> tuple[TensorSpec, ...]:
    """Inputs with the types and numbers of axes of the example that a traced module keeps; as they are without one.

    Which of its sizes are fixed a trace does not tell.
    """
    if _EXAMPLE not in member_names(path):
        return tuple(inputs)
    try:
        given = list(_loaded(path, _restore_shapes=True).forward.graph.inputs())[1:]
        types = [value.type() for value in given]
        if len(types) != len(inputs) or any(kind.kind() != "TensorType" for kind in types):
            return tuple(inputs)
        told = [(kind.dtype(), kind.sizes()) for kind in types]
    except Exception:  # the example is an extra
        return tuple(inputs)
    return tuple(
        spec
        if dtype is None or sizes is None
        else TensorSpec(name=spec.name, dtype=dtype_name(dtype), shape=(None,) * len(sizes))
        for spec, (dtype, sizes) in zip(inputs, told, strict=True)
    )


def _loaded(path: Path, **options: bool) -> Any:
    return torch.jit.load(str(path), map_location="cpu", **options)  # type: ignore[no-untyped-call]


def _inputs(schema: Any) -> tuple[tuple[TensorSpec, ...], tuple[str, ...]]:
    """A tensor for each argument that must be given, and the names of those that have a default."""
    found, left_out = [], []
    for argument in schema.arguments[1:]:
        if argument.has_default_value():
            left_out.append(clean_name(argument.name))
        elif argument.type.kind() == "TensorType":
            found.append(_unknown(clean_name(argument.name)))
        else:
            raise refuse_type("input", argument.name, argument.type.annotation_str)
    return tuple(found), tuple(left_out)


def _unknown(name: str) -> TensorSpec:
    return TensorSpec(name=name, dtype=UNKNOWN, shape=None)


def _output_names(returns: Sequence[Any]) -> list[str]:
    [returned] = returns
    kind = returned.type
    if kind.kind() == "TensorType":
        return ["output"]
    if kind.kind() != "TupleType":
        raise refuse_type("output", "output", kind.annotation_str)
    elements = kind.elements()
    if not elements or any(element.kind() != "TensorType" for element in elements):
        raise refuse_type("output", "output", kind.annotation_str)
    fields = re.findall(r"(\w+) : ", found[1]) if (found := re.match(r"NamedTuple\((.*)\)$", kind.str())) else []
    if len(fields) == len(elements):
        return [clean_name(name) for name in fields]
    return [f"output_{place}" for place in range(len(elements))]


def _flat(made: Any) -> Iterator[torch.Tensor]:
    if isinstance(made, tuple):
        yield from made
    else:
        yield made


def _nodes(block: Any) -> Iterator[Any]:
    """Every node, those of nested blocks included."""
    waiting = [block]
    while waiting:
        for node in waiting.pop().nodes():
            yield node
            waiting.extend(node.blocks())


def _notes(left_out: Sequence[str], *, training: bool) -> Iterator[str]:
    yield "TorchScript does not say which shapes and types it takes: data, or measure.shapes, tell them."
    if left_out:
        yield f"Left at their defaults, not fed: {', '.join(left_out)}."
    if training:
        yield "It was saved in training mode and is run so, dropout and batch norms included: call .eval() before."
