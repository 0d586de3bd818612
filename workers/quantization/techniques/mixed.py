"""Several techniques in one model, each for the nodes that it is given.

They work one after another, each on what the last one made, with all other nodes kept in float.
"""

from dataclasses import replace
from pathlib import Path

from app.domain.recipe import BySensitivity, Mixed, Static
from app.errors import StepError
from workers.quantization.assignment import Assigned, alone, assign, with_costly
from workers.quantization.recovery.ladder import Rung
from workers.quantization.sensitivity.choosing import keep_precise, predicted_db
from workers.quantization.sensitivity.result import Sensitivity
from workers.quantization.static import planned, sensitivity_of
from workers.quantization.technique import Context, Produced, nothing_to_quantize
from workers.quantization.technique import quantize as quantize_alone


def quantize(model_path: Path, out_path: Path, options: Mixed, context: Context) -> Produced:
    """Follow every part's recipe on its nodes, in the order of `workers.quantization.assignment.ORDER`.

    Parts' recipes are resolved; `context.statistics` are those of the static part's activations. Raises StepError as
    the parts' techniques do, with the part named; `nodes_match_nothing`, `keep_float_matches_nothing`,
    `nothing_to_quantize` (of the rest, that is a note), or `session_options_conflict` where two parts need the session
    otherwise.
    """
    current = model_path
    session_options: dict[str, str] = {}
    notes: list[str] = []
    sensitivity = None
    nothing: StepError | None = None
    if options.by_sensitivity is not None:
        options, sensitivity, note = _found(model_path, options, options.by_sensitivity, context)
        notes.append(note)
    recovery: list[Rung] = []
    for number, assigned in enumerate(assign(model_path, options)):
        folder = context.work / f"part-{number}"
        folder.mkdir()
        inner = replace(context, work=folder, partly=current != model_path)
        try:
            produced = _follow(assigned, current, folder / out_path.name, inner)
        except StepError as error:
            if assigned.place != "rest" or not options.parts or error.code != "nothing_to_quantize":
                raise
            nothing = error
            notes.append(error.detail)
            continue
        _merge(session_options, produced.session_options, assigned)
        notes += [f"{assigned.recipe.technique}: {note}" for note in produced.notes]
        recovery += produced.recovery
        current = produced.file
    if current == model_path:
        raise nothing or nothing_to_quantize("mixed", "no part is left with a node that it could work on")
    for file in (current, current.with_name(current.name + ".data")):
        target = out_path.with_name(file.name)
        target.unlink(missing_ok=True)
        if file.exists():
            file.rename(target)
    return Produced(
        out_path,
        session_options=session_options,
        notes=tuple(notes),
        recovery=tuple(recovery),
        sensitivity=sensitivity,
    )


def _found(model_path: Path, options: Mixed, wanted: BySensitivity, context: Context) -> tuple[Mixed, Sensitivity, str]:
    """The recipe with a part for the nodes of its rest that cost the outputs most, what they cost, and a note of it."""
    rest = next((each for each in assign(model_path, options) if each.recipe == options.rest), None)
    if rest is None:
        raise StepError(
            "The rest, in which by_sensitivity looks, has no nodes: the parts or keep_float name them all. Leave "
            "by_sensitivity out, or name fewer nodes.",
            code="nothing_to_quantize",
        )
    static = alone(rest, model_path)
    assert isinstance(static, Static)  # as the recipe has been checked
    # Recovery comes when it is known what is quantized.
    plain = planned(model_path, static.model_copy(update={"recovery": ()}), context)
    sensitivity = sensitivity_of(plain, context)
    chosen = keep_precise(sensitivity, count=wanted.layers, target_db=wanted.target_db)
    costly = [node for node in chosen if node in rest.nodes]
    told = f"{', '.join(costly[:5])}{' and others' if len(costly) > 5 else ''}" if costly else "no node"
    note = (
        f"Found by sensitivity: {told}; without them in 8 bits the SQNR of the outputs is predicted to go from "
        f"{sensitivity.total.sqnr_db:.1f} to {predicted_db(sensitivity, chosen):.1f} dB."
    )
    return with_costly(options, costly), sensitivity, note


def _follow(assigned: Assigned, model_path: Path, out_path: Path, context: Context) -> Produced:
    try:
        return quantize_alone(model_path, out_path, alone(assigned, model_path), context)
    except StepError as error:
        raise StepError(f"{assigned.place} of the mixed recipe: {error.detail}", code=error.code) from error


def _merge(all_options: dict[str, str], more: dict[str, str], assigned: Assigned) -> None:
    for name, value in more.items():
        if all_options.setdefault(name, value) != value:
            raise StepError(
                f"{assigned.place} ({assigned.recipe.technique}) needs the session option {name} = {value}, and a part "
                f"before it {all_options[name]}: a model runs with one. Give both the same options, or take the form "
                "that needs none (matmul_nbits, exact).",
                code="session_options_conflict",
            )
