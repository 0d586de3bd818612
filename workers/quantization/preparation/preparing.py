"""The steps of preparation, in their order."""

from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto, inliner

from app.domain.recipe import KeepFloat
from workers.formats.onnx.graph import graphs
from workers.quantization.graph import put_weights_back, set_weights_aside, sort_nodes
from workers.quantization.preparation.batch_norms import fold_batch_norms
from workers.quantization.preparation.constants import (
    fold_stored,
    initializers_are_constants,
    store_constants,
    write_out_sparse,
)
from workers.quantization.preparation.dead_parts import drop_dead_parts
from workers.quantization.preparation.finite import check_finite
from workers.quantization.preparation.gemm_biases import make_biases_plain
from workers.quantization.preparation.inference import infer
from workers.quantization.preparation.naming import give_outputs_their_names, make_names_unique, name_nodes
from workers.quantization.preparation.opsets import convert, opset_of
from workers.quantization.preparation.quantized import QDQ_OPSET, quantized_operators, refuse_quantized, to_float
from workers.quantization.preparation.reading import read
from workers.quantization.preparation.untying import untie
from workers.quantization.selection import resolve_keep_float


@dataclass(frozen=True, slots=True)
class Prepared:
    """A model ready to be quantized.

    `kept` are the names of nodes that stay in float. `external` says whether the original keeps its
    weights in files of their own, as the artifact then does too.
    """

    model: ModelProto
    kept: frozenset[str]
    external: bool
    notes: tuple[str, ...]


def prepare(
    path: Path,
    *,
    least_opset: int,
    keep_float: KeepFloat,
    fold: bool,
    batch_norms: bool = False,
    partly: bool = False,
    requantize: bool = False,
) -> Prepared:
    """Read a model and bring it into the form that techniques start from, with types and shapes inferred.

    `fold` computes beforehand what is made of weights alone; `batch_norms` folds those too, into the products before
    them, each of which gets weights of its own, and Gemms biases of a number a column: it is for techniques that change
    weights. `requantize` turns a model in QDQ form back into float first; with `partly` a part of the model may be
    quantized, and stays as it is.
    Raises StepError `already_quantized`, `keep_float_matches_nothing`, `opset_conversion_failed`, `weights_not_finite`,
    or as `workers.quantization.preparation.reading.read` does.
    """
    model, external = read(path)
    back = requantize and not partly and bool(quantized_operators(model))
    if back:
        least_opset = max(least_opset, QDQ_OPSET)
    elif not partly:
        refuse_quantized(model)
    notes: list[str] = []
    if model.functions:
        model = inliner.inline_local_functions(model)
    name_nodes(model)
    kept = frozenset(resolve_keep_float(model, keep_float))
    notes += initializers_are_constants(model)
    write_out_sparse(model)

    aside = set_weights_aside(model)
    converted = convert(model, least_opset, aside)
    if converted is not model:
        notes.append(f"Converted from opset {opset_of(model)} to {opset_of(converted)}.")
        model = converted
        name_nodes(model)
    sort_nodes(model.graph)
    model, unknown = infer(model)
    notes += unknown
    put_weights_back(model, aside)

    for graph in graphs(model.graph):
        store_constants(graph)
    make_names_unique(model)
    if back:
        notes.append(to_float(model))
    if fold:
        for graph in graphs(model.graph):
            fold_stored(graph, model, kept)
    give_outputs_their_names(model.graph)
    if batch_norms:
        # First, since a batch norm can be folded into a Gemm whose bias is a number for each column.
        split = make_biases_plain(model.graph, kept)
        if split:
            notes.append(
                f"Moved the biases of {split} Gemms, which differ from row to row, to an Add behind each."
                if split > 1
                else "Moved the bias of 1 Gemm, which differs from row to row, to an Add behind it."
            )
        folded = fold_batch_norms(model.graph, kept)
        if folded:
            notes.append(
                f"Folded {folded} batch normalizations into the products before them."
                if folded > 1
                else "Folded 1 batch normalization into the product before it."
            )
        untie(model.graph)
    dead, _ = drop_dead_parts(model.graph)
    if dead:
        notes.append(f"Dropped {dead} node{'s' if dead > 1 else ''} that no output depends on.")
    check_finite(model.graph, kept)
    sort_nodes(model.graph)
    return Prepared(model=model, kept=kept, external=external, notes=tuple(notes))
