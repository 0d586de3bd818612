"""Read a model without its weights, in the form that `weight_only` starts from.

`workers.quantization.preparation` brings whole models into memory; a weight-only technique needs each tensor once.
"""

from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import ModelProto, inliner

from app.domain.recipe import KeepFloat
from app.errors import StepError
from workers.formats.onnx.graph import graphs
from workers.quantization import preparation
from workers.quantization.graph import put_weights_back, set_weights_aside, uses_external_data
from workers.quantization.selection import resolve_keep_float


@dataclass(frozen=True, slots=True)
class Light:
    """A model whose external data were left where they are, in `folder`; `kept` are nodes that stay in float."""

    model: ModelProto
    kept: frozenset[str]
    folder: Path
    external: bool
    notes: tuple[str, ...]


def read(path: Path, *, least_opset: int, keep_float: KeepFloat, partly: bool = False) -> Light:
    """Read a model's graph, with named nodes, constants as initializers and functions written out.

    With `partly`, a part of the model may be quantized.

    Raises StepError `already_quantized`, `keep_float_matches_nothing` or `opset_conversion_failed`.
    """
    model = onnx.load(path, load_external_data=False)
    found = preparation.quantized_operators(model)
    if found and not partly:
        raise StepError(
            f"The model is quantized already (it has {', '.join(found[:4])}); upload the float model it came from.",
            code="already_quantized",
        )
    if model.functions:
        model = inliner.inline_local_functions(model)
    preparation._name_nodes(model)
    kept = resolve_keep_float(model, keep_float)
    notes: tuple[str, ...] = ()
    external = uses_external_data(path)
    if preparation._opset(model) < least_opset:
        model, notes = _converted(model, least_opset, external=external)
    preparation._initializers_are_constants(model)
    for graph in graphs(model.graph):
        preparation._store_constants(graph)
    preparation._make_names_unique(model)
    return Light(model, frozenset(kept), path.parent, external, notes)


def _converted(model: ModelProto, least_opset: int, *, external: bool) -> tuple[ModelProto, tuple[str, ...]]:
    before = preparation._opset(model)
    # onnx's converter passes references to outside by; what lies inside is set aside unless it is little anyway.
    aside = {} if external else set_weights_aside(model)
    model = preparation._convert(model, least_opset)
    if not external:
        put_weights_back(model, aside)
    preparation._name_nodes(model)
    return model, (f"Converted from opset {before} to {preparation._opset(model)}.",)
