"""Read a model without its weights, in the form that `weight_only` starts from.

`workers.quantization.preparation` brings whole models into memory; a weight-only technique needs each tensor once.
"""

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, inliner

from app.domain.recipe import KeepFloat
from workers.formats.onnx.graph import graphs
from workers.quantization.graph import put_weights_back, set_weights_aside, sort_nodes
from workers.quantization.preparation import reading
from workers.quantization.preparation.constants import (
    initializers_are_constants,
    store_constants,
    write_out_sparse,
)
from workers.quantization.preparation.dead_parts import drop_dead_parts
from workers.quantization.preparation.naming import make_names_unique, name_nodes
from workers.quantization.preparation.opsets import convert, opset_of
from workers.quantization.preparation.quantized import quantized_operators, refuse_quantized, to_float
from workers.quantization.selection import resolve_keep_float


@dataclass(frozen=True, slots=True)
class Light:
    """A model whose external data were left where they are, in `folder`; `kept` are nodes that stay in float."""

    model: ModelProto
    kept: frozenset[str]
    folder: Path
    external: bool
    notes: tuple[str, ...]


def read(
    path: Path, *, least_opset: int, keep_float: KeepFloat, partly: bool = False, requantize: bool = False
) -> Light:
    """Read a model's graph, with named nodes, constants as initializers, functions written out and dead parts gone.

    With `partly`, a part of the model may be quantized, and stays as it is; else with `requantize`, a model in QDQ form
    is turned back into float first, for which its weights are read. Raises StepError `already_quantized`,
    `keep_float_matches_nothing`, `opset_conversion_failed`, or as `workers.quantization.preparation.reading.read` does.
    """
    model, external = reading.read(path, weights=False)
    back = requantize and not partly and bool(quantized_operators(model))
    if back:
        model, _ = reading.read(path)
    elif not partly:
        refuse_quantized(model)
    if model.functions:
        model = inliner.inline_local_functions(model)
    name_nodes(model)
    kept = resolve_keep_float(model, keep_float)
    notes = initializers_are_constants(model)
    write_out_sparse(model)
    if opset_of(model) < least_opset:
        model, told = _converted(model, least_opset, folder=path.parent if external and not back else None)
        notes += told
    for graph in graphs(model.graph):
        store_constants(graph)
    make_names_unique(model)
    sort_nodes(model.graph)
    if back:
        notes += (to_float(model),)
    drop_dead_parts(model.graph)
    return Light(model, frozenset(kept), path.parent, external, notes)


def _converted(model: ModelProto, least_opset: int, *, folder: Path | None) -> tuple[ModelProto, tuple[str, ...]]:
    before = opset_of(model)
    # onnx's converter passes references to outside by; what lies inside is set aside unless it is little anyway.
    aside = set_weights_aside(model) if folder is None else {}
    model = convert(model, least_opset, aside, folder)
    if folder is None:
        put_weights_back(model, aside)
    name_nodes(model)
    return model, (f"Converted from opset {before} to {opset_of(model)}.",)
