"""Exported programs of torch (`.pt2`): a graph of operators with the shapes and types of everything in it.

Source: torch 2.13, torch/export/exported_program.py and graph_signature.py.
"""

from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import ConstantArgument, InputKind, OutputKind, TensorArgument
from torch.export.pt2_archive._package import load_pt2
from torch.utils import _pytree as pytree

from app.domain.model import Dimension, Format, TensorSpec
from app.errors import BitpressError, StepError
from workers.formats.tflite.inspection import unique_names
from workers.formats.torch.program import clean_name, does_not_load, dtype_name, refuse_type

_EXPORTED_FOR = 2
"""torch exports for sizes of two and more, and what holds for them, for one."""


class Exported:
    """The one program of an archive, as the module that it is run as."""

    kind: Format = "pt2"

    def __init__(self, path: Path) -> None:
        self._program = _loaded(path)
        try:
            self._describe()
            self._module: torch.nn.Module = self._program.module()
        except BitpressError:
            raise
        except Exception as error:  # whatever a damaged graph makes of it
            raise does_not_load(error, path) from error
        # What runs inside of a branch or a loop has no place in the order of the nodes around it.
        nested = sum(isinstance(module, torch.fx.GraphModule) for module in self._program.graph_module.modules()) > 1
        self.nodes = () if nested else tuple(_called(self._module))
        self.notes = tuple(_notes(self._program))

    def _describe(self) -> None:
        values = {node.name: node.meta.get("val") for node in self._program.graph.nodes}
        signature, calls = self._program.graph_signature, self._program.call_spec
        # Where each leaf of a call comes from: the place of an input, or what the file fixes.
        self._leaves: list[tuple[int | None, object]] = []
        names: list[str] = []
        found: list[Any] = []
        for spec in signature.input_specs:
            if spec.kind is not InputKind.USER_INPUT:
                continue
            if isinstance(spec.arg, ConstantArgument):
                self._leaves.append((None, spec.arg.value))
                continue
            value = values.get(spec.arg.name)
            if not isinstance(spec.arg, TensorArgument) or not isinstance(value, torch.Tensor):
                raise refuse_type("input", spec.arg.name, "no tensor")
            self._leaves.append((len(names), None))
            names.append(clean_name(spec.arg.name))
            found.append(value)
        self.inputs = _specs(names, found, "input")
        self._in_spec = calls.in_spec
        # Taking tuples and dictionaries apart takes as long as a small model.
        plain = pytree.tree_unflatten(list(range(len(self._leaves))), calls.in_spec)
        self._in_order = plain == (tuple(range(len(self._leaves))), {})
        paths = _paths(calls.out_spec)
        names, found, self._kept = [], [], []
        outputs = [spec for spec in signature.output_specs if spec.kind is OutputKind.USER_OUTPUT]
        for place, spec in enumerate(outputs):
            if isinstance(spec.arg, ConstantArgument):
                continue
            value = values.get(spec.arg.name)
            if not isinstance(spec.arg, TensorArgument) or not isinstance(value, torch.Tensor):
                raise refuse_type("output", spec.arg.name, "no tensor")
            self._kept.append(place)
            names.append(clean_name(paths.get(place) or spec.arg.name))
            found.append(value)
        self.outputs = _specs(names, found, "output")

    def flat(self, values: Sequence[torch.Tensor]) -> list[object]:
        """What is passed in a call, in order: a tensor for each input, and what the file fixes between them."""
        return [fixed if place is None else values[place] for place, fixed in self._leaves]

    def call(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        if self._in_order:
            made = self._module(*self.flat(values))
        else:
            arguments, named = pytree.tree_unflatten(self.flat(values), self._in_spec)
            made = self._module(*arguments, **named)
        if isinstance(made, torch.Tensor):
            return [made]
        leaves = pytree.tree_leaves(made)
        return [leaves[place] for place in self._kept]

    def state(self) -> Iterator[torch.Tensor]:
        for value in (*self._program.state_dict.values(), *self._program.constants.values()):
            if isinstance(value, torch.Tensor):
                yield value

    def operators(self) -> Iterator[str]:
        for module in self._program.graph_module.modules():
            if isinstance(module, torch.fx.GraphModule):
                yield from (_operator(node.target) for node in module.graph.nodes if node.op == "call_function")

    @property
    def module(self) -> torch.fx.GraphModule:
        """The graph as it is run, for whoever looks at each of its nodes."""
        assert isinstance(self._module, torch.fx.GraphModule)
        return self._module


def _loaded(path: Path) -> ExportedProgram:
    try:
        with path.open("rb") as file:  # torch warns of names that do not end in .pt2
            found = load_pt2(file).exported_programs
    except MemoryError:
        raise
    except Exception as error:  # whatever a file of a stranger makes of it
        raise does_not_load(error, path) from error
    if len(found) != 1:
        raise StepError(f"The archive has {len(found)} exported programs, and one is run.", code="model_does_not_load")
    return next(iter(found.values()))


def _specs(names: Sequence[str], values: Sequence[torch.Tensor], role: str) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name=name, dtype=dtype_name(value.dtype), shape=tuple(map(_dimension, value.shape)))
        for name, value in zip(unique_names(names), values, strict=True)
    )


def _dimension(size: Any) -> Dimension:
    """A size, or the symbol or expression that stands for it."""
    return size if isinstance(size, int) else str(size)


def _paths(spec: Any) -> dict[int, str]:
    """Names of outputs that have keys, in a dictionary or a named tuple, by their place."""
    if spec is None:
        return {}
    leaves, _ = pytree.tree_flatten_with_path(pytree.tree_unflatten(list(range(spec.num_leaves)), spec))
    found = {}
    for path, place in leaves:
        keys = [getattr(key, "key", getattr(key, "name", getattr(key, "idx", "?"))) for key in path]
        if any(isinstance(key, str) for key in keys):
            found[place] = ".".join(map(str, keys))
    return found


def _called(module: torch.nn.Module) -> Iterator[tuple[str, str]]:
    assert isinstance(module, torch.fx.GraphModule)
    for node in module.graph.nodes:
        if node.op == "call_function":
            yield node.name, _operator(node.target)


def _operator(target: Any) -> str:
    """`aten::linear` for an operator of torch; others by the name of their function."""
    schema = getattr(target, "_schema", None)
    return clean_name(str(schema.name if schema is not None else getattr(target, "__name__", target)))


def _notes(program: ExportedProgram) -> Iterator[str]:
    for symbol, bounds in sorted(_bounds(program.range_constraints).items()):
        yield f"The size {symbol} may be {bounds}."
    signature = program.graph_signature
    if signature.buffers_to_mutate or _writes_to(program, signature.inputs_to_buffers):
        yield "It changes tensors of its own when it is called, so that a call may depend on those before."
    if signature.user_inputs_to_mutate or _writes_to(program, signature.user_inputs):
        yield "It writes to its inputs: each call is given a copy."


def _writes_to(program: ExportedProgram, names: Container[Any]) -> bool:
    """Whether an operator writes to one of these inputs of the graph itself."""
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema is not None and schema.is_mutable:
            written = (given for argument, given in zip(schema.arguments, node.args, strict=False) if argument.is_write)
            if any(getattr(given, "name", None) in names for given in written):
                return True
    return False


def _bounds(constraints: Mapping[Any, Any]) -> dict[str, str]:
    """The sizes that an axis may have, where not any will do."""
    found = {}
    for symbol, bounds in constraints.items():
        low, high = _whole(bounds.lower), _whole(bounds.upper)
        if high is not None:
            found[str(symbol)] = f"{low or 0} to {high}"
        elif low is not None and low > _EXPORTED_FOR:
            found[str(symbol)] = f"{low} or more"
    return found


def _whole(bound: Any) -> int | None:
    """A bound as a number; None for sympy's infinities, which do not become one."""
    text = str(bound)
    return int(text) if text.lstrip("-").isdigit() else None
