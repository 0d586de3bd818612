"""The smallest program of torch, in each of its formats: one operator on a few floats, the zero of what a model costs.

It is put together by hand: exporting or compiling a module would import much that running one never does.
"""

import io
from typing import Any

import torch

from app.domain.model import Format

INPUT = "x"
_EXAMPLE = 3


def smallest(kind: Format) -> bytes:
    """A file whose program takes `x`, a float32 array of one axis of any size, and puts out its negative."""
    file = io.BytesIO()
    if kind == "pt2":
        torch.export.save(_exported(), file)
    else:
        _script(file)
    return file.getvalue()


def _script(file: io.BytesIO) -> None:
    module = torch.jit.ScriptModule()
    module.define(f"def forward(self, {INPUT}: Tensor) -> Tensor:\n    return -{INPUT}\n")
    torch.jit.save(module, file)


def _exported() -> torch.export.ExportedProgram:
    from torch._dynamo.source import ConstantSource
    from torch._export.verifier import TrainingIRVerifier
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
    from torch.export.graph_signature import (
        ExportGraphSignature,
        InputKind,
        InputSpec,
        OutputKind,
        OutputSpec,
        TensorArgument,
    )
    from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
    from torch.utils import _pytree as pytree
    from torch.utils._sympy.numbers import int_oo
    from torch.utils._sympy.value_ranges import ValueRanges

    graph = torch.fx.Graph()
    given = graph.placeholder(INPUT)
    made = graph.call_function(torch.ops.aten.neg.default, (given,))
    graph.output((made,))
    # With a size that varies: reading those has its own imports.
    mode = FakeTensorMode(shape_env=ShapeEnv())
    axes: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
    value: Any = mode.from_tensor(torch.zeros(_EXAMPLE), source=ConstantSource(INPUT), symbolic_context=axes)
    given.meta["val"], made.meta["val"] = value, torch.neg(value)
    size = value.shape[0].node.expr
    inputs, outputs = TensorArgument(name=given.name), TensorArgument(name=made.name)
    call: Any = ModuleCallSignature(
        inputs=[inputs],
        outputs=[outputs],
        in_spec=pytree.tree_structure(((0,), {})),
        out_spec=pytree.tree_structure(0),
        forward_arg_names=[INPUT],
    )
    return torch.export.ExportedProgram(
        root=torch.nn.Module(),
        graph=graph,
        graph_signature=ExportGraphSignature(
            input_specs=[InputSpec(kind=InputKind.USER_INPUT, arg=inputs, target=None)],
            output_specs=[OutputSpec(kind=OutputKind.USER_OUTPUT, arg=outputs, target=None)],
        ),
        state_dict={},
        range_constraints={size: ValueRanges(0, int_oo)},
        module_call_graph=[ModuleCallEntry(fqn="", signature=call)],
        example_inputs=((torch.zeros(_EXAMPLE),), {}),
        verifiers=[TrainingIRVerifier],
    )
