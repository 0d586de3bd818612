"""Several techniques in one model, each for the nodes that it is given.

They work one after another, each on what the last one made, with all other nodes kept in float.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from app.domain.recipe import BySensitivity, Mixed, Static
from app.errors import StepError
from workers.quantization.assignment import Assigned, alone, assign, with_costly
from workers.quantization.judged import FLOATING_DTYPES
from workers.quantization.recovery.ladder import JUDGING_FEEDS, Rung, divided
from workers.quantization.recovery.measuring import level_db, outputs_db
from workers.quantization.sensitivity.choosing import keep_precise, predicted_db
from workers.quantization.sensitivity.result import Sensitivity
from workers.quantization.static import planned, sensitivity_of
from workers.quantization.technique import Context, Produced, nothing_to_quantize
from workers.quantization.technique import quantize as quantize_alone
from workers.runtimes.session import load


def quantize(model_path: Path, out_path: Path, options: Mixed, context: Context) -> Produced:
    """Follow every part's recipe on its nodes, in the order of `workers.quantization.assignment.ORDER`.

    Parts' recipes are resolved; `context.statistics` are those of the static part's activations. What is found by
    sensitivity gets its recipe only where that makes the model better: else the rest's technique has those nodes too.
    Raises StepError as the parts' techniques do, with the part named; `nodes_match_nothing`,
    `keep_float_matches_nothing`, `nothing_to_quantize` (of the rest, that is a note), or `session_options_conflict`
    where two parts need the session otherwise.
    """
    if options.by_sensitivity is None:
        return _mix(model_path, out_path, options, context)
    found = _found(model_path, options, options.by_sensitivity, context)
    if not found.costly:
        produced = _mix(model_path, out_path, with_costly(options, ()), context)
        return _told(produced, found, found.note + ".")
    made = []
    for name, costly in (("mixed", found.costly), ("alone", ())):
        inside = replace(context, work=context.work / name)
        inside.work.mkdir()
        made.append(_mix(model_path, inside.work / out_path.name, with_costly(options, costly), inside, found=costly))
    mixed, unmixed = made
    measured = _measured(model_path, (mixed, unmixed), context)
    if measured is None:
        note = f"{found.note}. The model has no output of floats, by which this could be measured."
        return _told(_moved(mixed, out_path), found, note)
    mixed_db, unmixed_db = measured
    note = f"{found.note}; measured, with recovery: {unmixed_db:.1f} → {mixed_db:.1f} dB."
    if mixed_db >= unmixed_db:
        return _told(_moved(mixed, out_path), found, note)
    finer = options.by_sensitivity.recipe
    if finer is None:
        note += " Keeping them in float makes the outputs worse, so the rest's technique has them too."
    else:
        note += (
            f" {finer.technique} makes the outputs worse there, so the rest's technique has them too. Give "
            "by_sensitivity a recipe that is nearer to float, or none."
        )
    return _told(_moved(unmixed, out_path), found, note)


def _mix(model_path: Path, out_path: Path, options: Mixed, context: Context, *, found: Sequence[str] = ()) -> Produced:
    """Make the artifact of a mixed recipe whose parts are all known; `found` are the nodes of the first one, where that
    is what sensitivity found."""
    current = model_path
    session_options: dict[str, str] = {}
    notes: list[str] = []
    nothing: StepError | None = None
    recovery: list[Rung] = []
    for number, assigned in enumerate(assign(model_path, options, found=bool(found))):
        folder = context.work / f"part-{number}"
        folder.mkdir()
        inner = replace(context, work=folder, partly=current != model_path)
        try:
            produced = _follow(assigned, current, folder / out_path.name, inner)
        except StepError as error:
            if error.code != "nothing_to_quantize":
                raise
            if found and assigned.recipe == options.rest:
                nothing = _all_found(assigned, found)
            elif assigned.place == "rest" and options.parts:
                nothing = error
            else:
                raise
            notes.append(nothing.detail)
            continue
        _merge(session_options, produced.session_options, assigned)
        notes += [f"{assigned.recipe.technique}: {note}" for note in produced.notes]
        recovery += produced.recovery
        current = produced.file
    if current == model_path:
        raise nothing or nothing_to_quantize("mixed", "no part is left with a node that it could work on")
    made = Produced(current, session_options=session_options, notes=tuple(notes), recovery=tuple(recovery))
    return _moved(made, out_path)


def _moved(produced: Produced, out_path: Path) -> Produced:
    """The same artifact at another place, external data beside it; they go by its name, which it keeps."""
    for file in (produced.file, produced.file.with_name(produced.file.name + ".data")):
        target = out_path.with_name(file.name)
        target.unlink(missing_ok=True)
        if file.exists():
            file.rename(target)
    return replace(produced, file=out_path)


def _all_found(assigned: Assigned, found: Sequence[str]) -> StepError:
    return StepError(
        f"by_sensitivity finds {len(found)} layers, which leaves nothing to {assigned.recipe.technique}. Ask it for "
        "fewer layers, or for a lower target_db.",
        code="nothing_to_quantize",
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """The nodes of the rest that cost the outputs most, what all cost, and what is predicted without those found."""

    costly: tuple[str, ...]
    sensitivity: Sensitivity
    note: str


def _found(model_path: Path, options: Mixed, wanted: BySensitivity, context: Context) -> _Found:
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
    costly = tuple(node for node in chosen if node in rest.nodes)
    told = f"{', '.join(costly[:5])}{' and others' if len(costly) > 5 else ''}" if costly else "no node"
    note = (
        f"Found by sensitivity: {told}; the SQNR of the outputs predicted as if in float, before recovery: "
        f"{sensitivity.total.sqnr_db:.1f} → {predicted_db(sensitivity, chosen):.1f} dB"
    )
    return _Found(costly, sensitivity, note)


def _told(produced: Produced, found: _Found, note: str) -> Produced:
    return replace(produced, notes=(note, *produced.notes), sensitivity=found.sensitivity)


def _measured(model_path: Path, artifacts: Sequence[Produced], context: Context) -> list[float] | None:
    """SQNR of each artifact against the original, in dB, one figure for its outputs of floats; None without any.

    The rows are those that judge recovery steps, as none was fitted to them.
    """
    assert context.feeds is not None  # as sensitivities have been found on them
    rows = (feed for feed, _ in islice(divided(context.feeds)[1](), JUDGING_FEEDS))
    original = load(model_path, threads=context.threads)
    names = [port.name for port in original.outputs if port.dtype in FLOATING_DTYPES]
    if not names:
        return None
    made = [load(each.file, threads=context.threads, session_options=each.session_options) for each in artifacts]
    return [level_db(of) for of in outputs_db(original, made, names, rows)]


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
