"""What every technique is given and gives back, and the way from a recipe to its technique."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from app.domain.recipe import AnyRecipe, DynamicInt8, Mixed, StaticInt8, WeightOnly
from app.domain.target import saturates_int8
from app.errors import StepError
from workers.quantization.calibration.collect import Feeds
from workers.quantization.recovery.ladder import Rung
from workers.quantization.sensitivity.result import Sensitivity
from workers.quantization.weight_only import choices

_SATURATES = (
    "This processor adds products of 8-bit numbers in 16 bits, where full-range weights saturate: accuracy may be "
    "better with reduce_range, and will be another on processors with VNNI or AMX."
)


@dataclass(frozen=True, slots=True)
class Context:
    """What a technique may need beside the model and its options.

    `features` are the target's instruction-set features, `statistics` the file that calibration wrote, `feeds` starts
    over the calibration rows (the model's inputs by name, and how many rows they are), `work` is an empty folder for
    what is only needed on the way, `threads` what may be used. `partly` says that the model is what other techniques
    have made of some of its nodes.
    """

    work: Path
    features: frozenset[str] = frozenset()
    statistics: Path | None = None
    feeds: Feeds | None = None
    threads: int = 1
    partly: bool = False


@dataclass(frozen=True, slots=True)
class Produced:
    """A quantized model: its file (external data lie beside it), the session options that it requires
    wherever it runs, and notes for the report."""

    file: Path
    session_options: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    recovery: tuple[Rung, ...] = ()
    """What each recovery step brought."""
    sensitivity: Sensitivity | None = None
    """What each layer and tensor costs the outputs, where it was asked for."""


def resolve(recipe: AnyRecipe, features: frozenset[str]) -> AnyRecipe:
    """Replace what `auto` stands for on a processor with these features.

    What only trying can tell (`calibration.method`, `recovery`) stays as it is.
    """
    if isinstance(recipe, Mixed):
        parts = [
            part.model_copy(update={"recipe": part.recipe and resolve(part.recipe, features)}) for part in recipe.parts
        ]
        found = recipe.by_sensitivity
        if found is not None and found.recipe is not None:
            found = found.model_copy(update={"recipe": resolve(found.recipe, features)})
        rest = recipe.rest and resolve(recipe.rest, features)
        return recipe.model_copy(update={"parts": tuple(parts), "rest": rest, "by_sensitivity": found})
    if isinstance(recipe, WeightOnly):
        return choices.resolve(recipe, features)
    if isinstance(recipe, DynamicInt8 | StaticInt8) and recipe.reduce_range == "auto":
        saturates = saturates_int8(features)
        by_layer = isinstance(recipe, StaticInt8) and recipe.recovery == "auto"
        return recipe.model_copy(update={"reduce_range": "by_layer" if saturates and by_layer else saturates})
    return recipe


def quantize(model_path: Path, out_path: Path, recipe: AnyRecipe, context: Context) -> Produced:
    """Make the artifact that a resolved recipe describes.

    Raises StepError; `quantization_failed` is what onnxruntime's tools did not foresee.
    """
    module = importlib.import_module(f"workers.quantization.techniques.{recipe.technique}")
    technique: Callable[[Path, Path, AnyRecipe, Context], Produced] = module.quantize
    produced = technique(model_path, out_path, recipe, context)
    if (
        isinstance(recipe, DynamicInt8 | StaticInt8)
        and recipe.reduce_range is False
        and saturates_int8(context.features)
    ):
        return replace(produced, notes=(*produced.notes, _SATURATES))
    return produced


def tool_failure(technique: str, error: Exception) -> StepError:
    """The failure of a library's quantizer as a step's: its class and its first 300 characters."""
    text = " ".join(str(error).split())[:300]
    return StepError(
        f"{technique} cannot quantize this model ({type(error).__name__}: {text}). "
        "Name the node or operator type at fault in keep_float, or choose another technique.",
        code="quantization_failed",
    )


def nothing_to_quantize(technique: str, wanted: str) -> StepError:
    """The error for a model, or a choice of nodes, in which a technique finds no work."""
    return StepError(
        f"{technique} finds nothing to quantize: {wanted}. Choose other op_types, keep less in float, "
        "or take another technique.",
        code="nothing_to_quantize",
    )
