"""Which nodes of a mixed recipe get which technique."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

from app.domain.recipe import AnyRecipe, Mixed, Part, Plain, Static
from app.errors import StepError
from workers.formats.onnx.graph import all_nodes
from workers.quantization.qdq.placement import Placement
from workers.quantization.qdq.wide_ranges import probes
from workers.quantization.selection import resolve_keep_float, resolve_nodes
from workers.quantization.weight_only.light import read

ORDER = ("dynamic_int8", "static_int8", "static_int16", "weight_only", "float16", "bfloat16")
"""Techniques in the order in which they work on one model.

onnxruntime's dynamic quantizer, which some types are left to, gives tensors names without asking which are taken, so
it comes first. Static techniques see activations while nothing but it has changed them. What stores floats in fewer
bytes comes last.
"""


@dataclass(frozen=True, slots=True)
class Assigned:
    """The nodes, by name, that a recipe is for, and where in the mixed recipe that is said."""

    recipe: Plain
    nodes: frozenset[str]
    place: str


def assign(model_path: Path, mixed: Mixed, *, found: bool = False) -> list[Assigned]:
    """Every recipe of a mixed one with its nodes, in the order in which they are followed.

    A node belongs to the first part that names it; parts with equal recipes are one. With `found` the first part is
    what sensitivity found, and no part of the recipe that was given. Raises StepError `nodes_match_nothing` and
    `keep_float_matches_nothing`, with near matches, or `nothing_to_quantize` for a part whose nodes all belong to
    others.
    """
    model = read(model_path, least_opset=1, keep_float=()).model
    left = {node.name for node in all_nodes(model)} - resolve_keep_float(model, mixed.keep_float)
    by_recipe: dict[Plain, Assigned] = {}
    for index, part in enumerate(mixed.parts, start=-1 if found else 0):
        place = f"parts[{index}]" if index >= 0 else "by_sensitivity"
        nodes = set().union(*resolve_nodes(model, part.nodes, f"{place}.nodes")) & left
        left -= nodes
        if not nodes and found:
            continue  # all of them, which had the rest's recipe, were found
        if not nodes:
            raise StepError(
                f"{place} has no nodes of its own: keep_float or parts before it name them all. Leave it out, or put "
                "it further to the front.",
                code="nothing_to_quantize",
            )
        _add(by_recipe, part.recipe, nodes, place, model)
    _add(by_recipe, mixed.rest, left, "rest", model)
    return sorted(by_recipe.values(), key=lambda each: ORDER.index(each.recipe.technique))


def alone(assigned: Assigned, model_path: Path) -> Plain:
    """A recipe that keeps all nodes of a model but those assigned in float."""
    names = {node.name for node in all_nodes(read(model_path, least_opset=1, keep_float=(), partly=True).model)}
    return assigned.recipe.model_copy(update={"keep_float": tuple(sorted(names - assigned.nodes))})


def static_recipe(model_path: Path, recipe: AnyRecipe) -> Static | None:
    """The static recipe that ranges are to be found for: itself, or a mixed recipe's one, on its nodes alone.

    None where there is none, or where other parts name all nodes.
    """
    if isinstance(recipe, Static):
        return recipe
    if isinstance(recipe, Mixed):
        for assigned in assign(model_path, recipe):
            static = alone(assigned, model_path)
            if isinstance(static, Static):
                return static
    return None


def observed_for(recipe: AnyRecipe, model: ModelProto, placement: Placement) -> list[str]:
    """Tensors that calibration observes for a recipe with a static part, whose placement in the model is given."""
    own = placement.observed()
    if isinstance(recipe, Mixed) and recipe.by_sensitivity is not None:
        # Which nodes stay is not known yet: what has its scale from another tensor may need a range of its own.
        own = placement.activations
    return [*own, *(name for name in probes(model, placement) if name not in set(own))]


def with_costly(mixed: Mixed, costly: Sequence[str]) -> Mixed:
    """A mixed recipe by sensitivity as one with given parts, now that the nodes that cost most are known."""
    finer = mixed.by_sensitivity.recipe if mixed.by_sensitivity else None
    # In front, since a part with the rest's own recipe may name some of them too.
    parts = (Part(nodes=tuple(costly), recipe=finer), *mixed.parts) if costly else mixed.parts
    return mixed.model_copy(update={"parts": parts, "by_sensitivity": None})


def _add(found: dict[Plain, Assigned], recipe: Plain | None, nodes: set[str], place: str, model: ModelProto) -> None:
    if recipe is None or not nodes:
        return
    nodes = nodes - resolve_keep_float(model, recipe.keep_float)
    before = found.get(recipe)
    if before is not None:
        nodes, place = nodes | before.nodes, f"{before.place} and {place}"
    found[recipe] = Assigned(recipe, frozenset(nodes), place)
