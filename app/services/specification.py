"""A job's specification against what is there: every error of a request, found at once."""

import difflib
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session

from app.db.tables import Artifact, Dataset, Job, Model
from app.domain.dataset import ALL, LABELS, Split
from app.domain.fit import fit
from app.domain.goal import CEILINGS, Constraint
from app.domain.ids import is_id
from app.domain.job import JobSpec
from app.domain.measure import RUNTIMES_OF, USUAL_RUNTIME
from app.domain.measurement import UNITS
from app.domain.metric import METRICS, MetricChoice, choice_problems, lacks_classes, options_of
from app.domain.metric_options import MetricOptions
from app.domain.model import TORCH_TO_ONNX, Dimension, TensorSpec, shape_text
from app.domain.recipe import WeightOnly, fitted_algorithms, needs_calibration, placed_recipes, recipes_of
from app.domain.sample_size import USUAL_DISCORDANCE, rows_to_show
from app.domain.target import fp16_is_native, saturates_int8
from app.domain.uploads import UploadState
from app.errors import FieldError, InvalidRequest
from app.services.field_errors import field_error, places, pointer, schema_errors
from app.services.splits import doubts_of_made, meant_split, split_doubts, split_errors
from app.services.targets import Target, builtin_targets, kernel_features, known_targets, target_alive
from app.services.valid_parts import ValidParts, valid_parts


@dataclass(slots=True)
class Checked:
    """A specification with every default filled in, what is wrong with it, and what is doubtful.

    `model` is the one that the job is about: of an artifact, the one that it was made from. `split` is how the rows of
    a dataset for all roles are given to them.
    """

    spec: JobSpec | None
    model: Model | None = None
    artifact: Artifact | None = None
    datasets: dict[str, Dataset] = field(default_factory=dict)
    split: Split | None = None
    errors: list[FieldError] = field(default_factory=list)
    doubts: list[str] = field(default_factory=list)

    def raise_errors(self) -> None:
        """Raises `InvalidRequest` with all of them; its code is that of the first."""
        if self.errors:
            first = self.errors[0]
            detail = first.detail if len(self.errors) == 1 else f"{len(self.errors)} things are wrong: {first.detail}"
            raise InvalidRequest(detail, code=first.code, errors=self.errors)


def check(session: Session, body: Any) -> Checked:
    """Check a request body as far as it can be checked without opening a file."""
    checked = Checked(spec=None)
    if not isinstance(body, dict):
        checked.errors.append(FieldError("", "invalid_json", "The body must be a JSON object: a job's specification."))
        return checked
    if body.get("kind", "optimize") == "optimize" and body.get("recipe") is None:
        checked.errors.append(
            FieldError(
                "/recipe",
                "recipe_required",
                'Name a recipe, such as {"technique": "dynamic_int8"}; GET /v1/techniques lists them all. '
                "A goal alone does not choose one here. To measure without changing anything, say kind: evaluate.",
            )
        )
    try:
        checked.spec = JobSpec.model_validate(body)
        parts = ValidParts(checked.spec)
    except ValidationError as error:
        known = {found.pointer for found in checked.errors}
        checked.errors.extend(found for found in schema_errors(error, body) if found.pointer not in known)
        parts = valid_parts(body, checked.errors)
    _find_inputs(session, body, checked)
    if checked.spec is not None:
        checked.spec = _with_split(session, _with_runtime(checked.spec, checked.model), checked)
    if (spec := parts.spec) is not None:
        spec = _with_split(session, spec, checked)
        checked.split = spec.split
        before = list(checked.errors)
        _check_kind(spec, checked)
        _check_split(session, spec, checked)
        _check_runtime(spec, checked)
        _check_recipe(spec, checked)
        _check_target(session, spec, checked)
        _check_goal(spec, checked)
        _check_data(spec, checked)
        _check_shapes(spec, checked)
        later = [parts.in_body(found) for found in checked.errors[len(before) :]]
        checked.errors = before + [found for found in later if not any(_overlap(found, known) for known in before)]
    return checked


def _with_runtime(spec: JobSpec, model: Model | None) -> JobSpec:
    """The specification with the runtime that is meant where none is named."""
    if spec.measure.runtime is not None:
        return spec
    measure = spec.measure.model_copy(update={"runtime": USUAL_RUNTIME[_format(model)]})
    return spec.model_copy(update={"measure": measure})


def _with_split(session: Session, spec: JobSpec, checked: Checked) -> JobSpec:
    """The specification with the split that is meant where a dataset is for all roles and none is said."""
    if spec.split is not None or spec.datasets.all is None:
        return spec
    return spec.model_copy(update={"split": meant_split(spec, _made_by(session, checked))})


def _made_by(session: Session, checked: Checked) -> JobSpec | None:
    """The specification of the job that made the artifact; None for a model."""
    if checked.artifact is None:
        return None
    return JobSpec.model_validate(session.get_one(Job, checked.artifact.job_id).spec)


def _format(model: Model | None) -> str:
    return str(((model.inspection if model is not None else None) or {}).get("format") or "onnx")


def _overlap(one: FieldError, other: FieldError) -> bool:
    """Whether one error lies at or below the other's place."""
    return f"{one.pointer}/".startswith(f"{other.pointer}/") or f"{other.pointer}/".startswith(f"{one.pointer}/")


def _find_inputs(session: Session, body: dict[str, Any], checked: Checked) -> None:
    """Look up what the body names, even where the rest of it is not valid."""
    bad = {found.pointer for found in checked.errors}
    model_id = body.get("model")
    if isinstance(model_id, str) and "/model" not in bad and is_id(model_id, "art"):
        _find_artifact(session, model_id, body, checked)
    elif isinstance(model_id, str) and "/model" not in bad:
        checked.model = session.get(Model, model_id)
        checked.errors.extend(_not_ready(checked.model, "model", model_id, "/model"))
        recipe = body.get("recipe")
        requantize = isinstance(recipe, dict) and recipe.get("requantize") is True
        requantize |= body.get("kind") == "evaluate"
        if checked.model is not None and (checked.model.inspection or {}).get("quantized") and not requantize:
            checked.errors.append(
                FieldError(
                    "/model",
                    "already_quantized",
                    f"The model {model_id} is quantized already. Upload the float model it came from, and name "
                    "that; or set requantize in the recipe, if the model is in QDQ form.",
                )
            )
    roles = body.get("datasets")
    seen: dict[str, str] = {}
    for role, dataset_id in roles.items() if isinstance(roles, dict) else ():
        place = pointer(["datasets", role])
        if not isinstance(dataset_id, str) or place in bad:
            continue
        if dataset_id in seen and ALL not in (role, seen[dataset_id]):
            checked.errors.append(
                FieldError(
                    place,
                    "datasets_overlap",
                    f"The dataset is given as {seen[dataset_id]} too. Rows that set ranges or guide a search "
                    "cannot judge the result: give each role rows of its own.",
                )
            )
        seen.setdefault(dataset_id, role)
        dataset = session.get(Dataset, dataset_id)
        not_ready = _not_ready(dataset, "dataset", dataset_id, place)
        checked.errors.extend(not_ready)
        if dataset is not None and not not_ready:
            checked.datasets[role] = dataset


def _find_artifact(session: Session, artifact_id: str, body: dict[str, Any], checked: Checked) -> None:
    checked.artifact = session.get(Artifact, artifact_id)
    if checked.artifact is None:
        detail = f"There is no artifact {artifact_id}. A job that has succeeded lists its own."
        checked.errors.append(FieldError("/model", "artifact_not_found", detail))
        return
    source = session.get_one(Job, checked.artifact.job_id).model_id
    checked.model = session.get_one(Model, source)
    if body.get("kind", "optimize") == "optimize":
        detail = (
            f"Optimizing begins with an uploaded model: name {source}, from which {artifact_id} was made. To measure "
            "the artifact, say kind: evaluate."
        )
        checked.errors.append(FieldError("/model", "artifact_not_optimizable", detail))


def _not_ready(row: Model | Dataset | None, noun: str, row_id: str, place: str) -> list[FieldError]:
    if row is None:
        return [FieldError(place, f"{noun}_not_found", f"There is no {noun} {row_id}. Upload it first.")]
    if row.state == UploadState.REJECTED:
        why = (row.error or {}).get("detail", "")
        return [FieldError(place, f"{noun}_rejected", f"The {noun} {row_id} cannot be used: {why}")]
    if row.state != UploadState.READY:
        return [
            FieldError(
                place,
                f"{noun}_not_ready",
                f"The {noun} {row_id} is still being inspected. Poll GET /v1/{noun}s/{row_id} until its state is "
                "ready, then submit again.",
            )
        ]
    return []


def _check_kind(spec: JobSpec, checked: Checked) -> None:
    """What a job that only measures has no use for."""
    if spec.kind == "optimize":
        return
    if spec.recipe is not None:
        detail = "kind: evaluate changes nothing, so it has no recipe: leave the recipe out, or say kind: optimize."
        checked.errors.append(FieldError("/recipe", "recipe_not_used", detail))
    for role in spec.datasets.by_role():
        if role not in ("evaluation", ALL):
            detail = f"kind: evaluate makes nothing and uses no {role} rows: give its rows as datasets.evaluation."
            checked.errors.append(FieldError(f"/datasets/{role}", "dataset_not_used", detail))
    alone = "kind: evaluate measures one model alone, so there is no original to compare with"
    for index, asked in enumerate(spec.metrics):
        name = asked if isinstance(asked, str) else asked.name
        if name in METRICS and METRICS[name].relative_to_original:
            place = f"/metrics/{index}" if isinstance(asked, str) else f"/metrics/{index}/name"
            checked.errors.append(FieldError(place, "nothing_to_compare", f"{alone}: leave {name} out."))
    for index, constraint in enumerate(spec.goal.constraints if spec.goal is not None else ()):
        place = f"/goal/constraints/{index}"
        if constraint.max_drop is not None:
            checked.errors.append(FieldError(place, "nothing_to_compare", f"{alone}: give min or max."))
        elif constraint.metric in METRICS and METRICS[constraint.metric].relative_to_original:
            detail = f"{alone}: {constraint.metric} says how well an artifact follows it."
            checked.errors.append(FieldError(f"{place}/metric", "nothing_to_compare", detail))


def _check_split(session: Session, spec: JobSpec, checked: Checked) -> None:
    dataset = checked.datasets.get(ALL)
    rows = (dataset.inspection or {}).get("rows") if dataset is not None else None
    checked.errors.extend(split_errors(spec, rows))
    checked.doubts.extend(split_doubts(spec, rows))
    if (made := _made_by(session, checked)) is not None:
        checked.doubts.extend(doubts_of_made(spec, made))


def _check_runtime(spec: JobSpec, checked: Checked) -> None:
    """Whether the runtime that is named can run the format of the model, and the job can do anything with that."""
    known = _format(checked.model)
    if known != "onnx" and spec.kind == "optimize":
        how = f": {TORCH_TO_ONNX}" if "torch" in RUNTIMES_OF[known] else ""
        detail = (
            f"A {known} model can be measured (kind: evaluate) and not be optimized here: upload it as ONNX for that"
            f"{how}."
        )
        checked.errors.append(FieldError("/model", "format_not_optimizable", detail))
    runtime = spec.measure.runtime
    if runtime not in (None, "auto", *RUNTIMES_OF[known]):
        detail = (
            f"{runtime} runs no {known} models: leave measure.runtime out, or say {' or '.join(RUNTIMES_OF[known])}."
        )
        checked.errors.append(FieldError("/measure/runtime", "runtime_not_for_format", detail))


def _check_recipe(spec: JobSpec, checked: Checked) -> None:
    """What the schema names but no runtime can run, which the worker would find out only after the steps before."""
    if spec.recipe is None:
        return
    for place, recipe in placed_recipes(spec.recipe):
        if isinstance(recipe, WeightOnly) and recipe.bits == 3:
            checked.errors.append(
                FieldError(
                    pointer(["recipe", *place, "bits"]),
                    "bits_not_supported",
                    "ONNX Runtime has no kernel for 3-bit weights, in either form: take 4 bits, or 2.",
                )
            )


def _check_target(session: Session, spec: JobSpec, checked: Checked) -> None:
    targets = {target.id: target for target in known_targets(session)}
    profiles = builtin_targets()
    names = ", ".join(targets) or "none yet"
    target: Target | None = targets.get(spec.target) or profiles.get(spec.target)
    if target is None and spec.target == "local" and len(targets) > 1:
        checked.errors.append(
            FieldError("/target", "target_ambiguous", f"There is more than one target; name one of: {names}.")
        )
    elif target is None and targets and spec.target != "local":
        checked.errors.append(
            FieldError(
                "/target",
                "target_unknown",
                f"There is no target {spec.target!r}; known: {names}; built in: {', '.join(profiles)}.",
            )
        )
    elif not target_alive(session, spec.target):
        if spec.if_no_worker == "refuse":
            checked.errors.append(
                FieldError(
                    "/target",
                    "no_worker",
                    f"No worker of target {spec.target!r} is alive, and if_no_worker says to refuse. Start one, or "
                    "submit with if_no_worker: wait.",
                )
            )
        else:
            checked.doubts.append(f"No worker of target {spec.target!r} is alive: the job would wait for one.")
    if target is not None:
        _doubt_technique(spec, kernel_features(target), checked)
        _doubt_threads(spec, target, checked)


def _doubt_threads(spec: JobSpec, target: Target, checked: Checked) -> None:
    cores = target.fingerprint.get("cores")
    if cores and max(spec.measure.threads) > cores:
        checked.doubts.append(
            f"measure.threads asks for {max(spec.measure.threads)} threads, and this target has {cores} cores: they "
            "would wait for each other, and the times say little."
        )


def _doubt_technique(spec: JobSpec, features: tuple[str, ...], checked: Checked) -> None:
    for recipe in recipes_of(spec.recipe) if spec.recipe is not None else ():
        if recipe.technique == "float16" and not fp16_is_native(features):
            checked.doubts.append("This target has no native half precision: float16 saves bytes there, not time.")
        if recipe.technique == "static_int8" and recipe.reduce_range is False and saturates_int8(features):
            checked.doubts.append(
                "This target's int8 kernels saturate at 16 bits and reduce_range is false: accuracy may suffer. "
                "reduce_range: auto would use 7-bit weights where that helps."
            )
        if recipe.technique == "static_int16":
            checked.doubts.append(
                "No kernel here multiplies 16-bit by 8-bit integers: static_int16 saves bytes, not time."
            )
        if recipe.technique == "dynamic_int8" and "Conv" in recipe.op_types:
            checked.doubts.append("Dynamic int8 convolutions have slow kernels: expect a slower model.")


def _check_goal(spec: JobSpec, checked: Checked) -> None:
    known = sorted({*METRICS, *UNITS})
    for index, asked in enumerate(spec.metrics):
        checked.errors.extend(_metric_errors(asked, f"/metrics/{index}", checked))
    if spec.goal is None:
        return
    floors: dict[str, float] = {}
    ceilings: dict[str, float] = {}
    for index, constraint in enumerate(spec.goal.constraints):
        place = f"/goal/constraints/{index}"
        name = CEILINGS.get(constraint.metric, constraint.metric)
        if name not in known:
            checked.errors.append(FieldError(f"{place}/metric", "unknown_metric", _no_metric(name, known)))
            continue
        if name in METRICS:
            choice = next(choice for choice in spec.asked_metrics() if choice.name == name)
            checked.errors.extend(_unmeasurable(choice, f"{place}/metric", checked))
            _doubt_rows(constraint, spec.goal.confidence, checked)
        if constraint.min is not None:
            floors[name] = max(floors.get(name, constraint.min), constraint.min)
        if constraint.max is not None:
            ceilings[name] = min(ceilings.get(name, constraint.max), constraint.max)
        if name in floors and name in ceilings and floors[name] > ceilings[name]:
            checked.errors.append(
                FieldError(
                    place,
                    "contradiction",
                    f"{name} would have to be at least {floors[name]:g} and at most {ceilings[name]:g}: nothing can.",
                )
            )


def _doubt_rows(constraint: Constraint, confidence: float, checked: Checked) -> None:
    """Say so where an evaluation set is too small to show the drop that is asked about."""
    rows, described = _evaluation_rows(checked), METRICS[constraint.metric]
    if rows is None or not constraint.max_drop or constraint.relative or not described.share:
        return
    if described.relative_to_original:
        needed, condition = rows_to_show(constraint.max_drop, 0.0, confidence), "even without a row that differs"
    else:
        needed = rows_to_show(constraint.max_drop, USUAL_DISCORDANCE, confidence)
        condition = f"if {100 * USUAL_DISCORDANCE:g} % of the rows come out differently, which is assumed"
    if needed is None or rows < needed:
        enough = "no practical number" if needed is None else f"about {needed:,}"
        checked.doubts.append(
            f"{rows:,} rows cannot show {100 * constraint.max_drop:g} points of {constraint.metric}: {enough} would, "
            f"{condition}."
        )


def _evaluation(checked: Checked) -> Dataset | None:
    """The dataset that has the evaluation rows."""
    if checked.split is not None and checked.split.evaluation and (whole := checked.datasets.get(ALL)) is not None:
        return whole
    return checked.datasets.get("evaluation")


def _evaluation_rows(checked: Checked) -> int | None:
    """How many rows will judge, about, where that is known."""
    if (dataset := _evaluation(checked)) is None or (rows := (dataset.inspection or {}).get("rows")) is None:
        return None
    split = checked.split if dataset is checked.datasets.get(ALL) else None
    return int(rows) if split is None else round(rows * split.evaluation)


def _metric_errors(asked: str | MetricChoice, place: str, checked: Checked) -> list[FieldError]:
    """What is wrong with a metric that is named alone, or with what it looks at."""
    named, choice = (place, MetricChoice(name=asked)) if isinstance(asked, str) else (f"{place}/name", asked)
    if choice.name not in METRICS:
        return [FieldError(named, "unknown_metric", _no_metric(choice.name, sorted(METRICS)))]
    try:
        options_of(choice.name, choice.options)
    except ValidationError as error:
        if not choice.options:
            at = place if isinstance(asked, str) else f"{place}/options"
            return [FieldError(at, "metric_options_missing", _needs_options(choice))]
        options = [*places(place), "options"]
        return [field_error(finding, [*options, *finding["loc"]]) for finding in error.errors(include_url=False)]
    found = choice_problems(choice, outputs, place) if (outputs := _outputs(checked)) is not None else []
    if not found and METRICS[choice.name].needs_labels and _lacks_labels(checked, choice.labels):
        at = place if isinstance(asked, str) else f"{place}/labels"
        found.append(_labels_missing(at, choice, checked))
    return found


def _needs_options(choice: MetricChoice) -> str:
    needed = (METRICS[choice.name].options or MetricOptions).model_json_schema().get("required", [])
    return (
        f"{choice.name} cannot do without the options {', '.join(needed)}: name it in metrics as an object with "
        "options, whose schema GET /v1/metrics has."
    )


def _unmeasurable(choice: MetricChoice, place: str, checked: Checked) -> list[FieldError]:
    """Why it is sure that a constraint's metric cannot be measured."""
    try:
        options_of(choice.name, choice.options)
    except ValidationError:
        return [FieldError(place, "metric_options_missing", _needs_options(choice))]
    if METRICS[choice.name].needs_labels and _lacks_labels(checked, choice.labels):
        return [_labels_missing(place, choice, checked)]
    if not lacks_classes(choice, outputs := _outputs(checked) or []):
        return []
    whose = f"output {choice.output!r}" if choice.output is not None else "model"
    shapes = ", ".join(str(output) for output in outputs if choice.output in (None, output.name))
    return [
        FieldError(
            place,
            "no_class_axis",
            f"{choice.name} compares classes along the last axis, and the {whose} has none ({shapes}): constrain "
            "sqnr_db or cosine instead.",
        )
    ]


def _outputs(checked: Checked) -> list[TensorSpec] | None:
    """The outputs of the model; None where they are not known."""
    model = checked.model
    if model is None or model.state != UploadState.READY:
        return None
    return _tensors((model.inspection or {}).get("outputs"))


def _lacks_labels(checked: Checked, array: str) -> bool:
    """Whether no such labels are there to compare with; an evaluation set that cannot be used (yet) may have some.

    What the model takes in is no label.
    """
    if any(found.pointer in ("/datasets", "/datasets/evaluation", "/datasets/all") for found in checked.errors):
        return False
    dataset = _evaluation(checked)
    fields = (dataset.inspection or {}).get("fields", []) if dataset is not None else []
    inputs = (checked.model.inspection or {}).get("inputs", []) if checked.model is not None else []
    given = {found["name"] for found in fields} - {found["name"] for found in inputs}
    return array not in given


def _labels_missing(place: str, choice: MetricChoice, checked: Checked) -> FieldError:
    todo = f"give datasets.evaluation a dataset that has an array `{choice.labels}`"
    if ALL in checked.datasets:
        todo = f"give datasets.all a dataset that has an array `{choice.labels}`, and evaluation a share of it"
    return FieldError(place, "dataset_labels_missing", f"{choice.name} compares with labels: {todo}.")


def _no_metric(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2)
    hint = f" Did you mean {' or '.join(near)}?" if near else f" Known: {', '.join(known)}."
    return f"There is no metric {name!r}.{hint}"


def _check_data(spec: JobSpec, checked: Checked) -> None:
    whole = spec.datasets.all is not None
    shares = spec.split.shares if whole and spec.split is not None else {}
    if spec.datasets.calibration is None and "calibration" not in shares and (why := _why_calibrated(spec)):
        place = "/split/calibration" if whole else "/datasets/calibration"
        checked.errors.append(FieldError(place, "calibration_missing", why))
    if spec.datasets.evaluation is None and "evaluation" not in shares:
        checked.doubts.append("No evaluation dataset: nothing is held out, so no accuracy constraint can be met.")
    model = checked.model
    if model is None or model.state != UploadState.READY:
        return
    wanted = spec.asked_metrics()
    needs_labels = any(choice.name in METRICS and METRICS[choice.name].needs_labels for choice in wanted)
    found = model.inspection or {}
    for role, dataset in checked.datasets.items():
        seen = dataset.inspection or {}
        fitting = fit(
            _tensors(found.get("inputs")),
            _tensors(seen.get("fields")),
            {LABELS: tuple(seen["label_range"])} if seen.get("label_range") else {},
            _tensors(found.get("outputs")),
            metrics=wanted,
            needs_labels=needs_labels and role in ("evaluation", ALL),
            pointer=f"/datasets/{role}",
        )
        # Missing labels are said of already, at the metric that compares with them.
        checked.errors.extend(found for found in fitting.problems if found.code != "dataset_labels_missing")
        checked.doubts.extend(f"{role}: {note}" for note in fitting.notes)


def _why_calibrated(spec: JobSpec) -> str | None:
    """For what a recipe cannot do without calibration rows, and what to give; None where it can."""
    if spec.recipe is None:
        return None
    if needs_calibration(spec.recipe):
        return f"{spec.recipe.technique} finds ranges from data: give a calibration dataset of a few hundred rows."
    if algorithms := fitted_algorithms(spec.recipe):
        return (
            f"weight_only with {' and '.join(algorithms)} fits weights to data: give a calibration dataset of a few "
            "dozen rows, or take the algorithm mse, hqq or rtn."
        )
    return None


def _check_shapes(spec: JobSpec, checked: Checked) -> None:
    """`measure.shapes` and the cases against the model's inputs, as `workers.steps.rows` takes them."""
    if checked.model is None or checked.model.state != UploadState.READY:
        return
    inputs = {port.name: port for port in _tensors((checked.model.inspection or {}).get("inputs"))}
    for name, sizes in spec.measure.shapes.items():
        checked.errors.extend(_shape_errors(name, sizes, inputs, pointer(["measure", "shapes", name])))
        if sizes and sizes[0] not in spec.measure.batch:
            checked.doubts.append(
                f"measure.shapes gives {name} {sizes[0]} rows, and measure.batch says "
                f"{' and '.join(map(str, spec.measure.batch))}, which is what is measured: name the rows a call there."
            )
    for case, shapes in spec.measure.cases.items():
        for name, sizes in shapes.items():
            checked.errors.extend(_shape_errors(name, sizes, inputs, pointer(["measure", "cases", case, name])))
    if _format(checked.model) != "torchscript" or spec.kind == "optimize":
        return
    places = [(["measure", "cases", case], shapes) for case, shapes in spec.measure.cases.items()]
    if not spec.datasets.by_role():
        places.append((["measure", "shapes"], spec.measure.shapes))
    for place, shapes in places:
        if missing := [name for name in inputs if name not in shapes]:
            detail = (
                f"TorchScript does not say which shapes it takes: give one for {', '.join(map(repr, missing))}, the "
                "batch axis included, or a dataset."
            )
            checked.errors.append(FieldError(pointer(place), "shapes_missing", detail))


def _shape_errors(name: str, sizes: tuple[int, ...], inputs: dict[str, TensorSpec], place: str) -> list[FieldError]:
    if (port := inputs.get(name)) is None:
        near = difflib.get_close_matches(name, inputs, n=2)
        hint = f"Did you mean {' or '.join(map(repr, near))}?" if near else f"It has {', '.join(map(repr, inputs))}."
        return [FieldError(place, "shapes_do_not_fit", f"The model has no input {name!r}. {hint}")]
    if port.shape is None or _fills(sizes, port.shape):
        return []
    detail = (
        f"{shape_text(sizes)} is no shape of the input {name!r}, which is {shape_text(port.shape)}: give every axis a "
        "size, the batch axis included, and fixed axes their own."
    )
    return [FieldError(place, "shapes_do_not_fit", detail)]


def _fills(sizes: tuple[int, ...], shape: tuple[Dimension, ...]) -> bool:
    """Whether sizes are those of a shape; the batch axis, which `measure.batch` is about, may have any."""
    return len(sizes) == len(shape) and all(
        not isinstance(axis, int) or axis == size for axis, size in zip(shape[1:], sizes[1:], strict=True)
    )


def _tensors(found: list[dict[str, Any]] | None) -> list[TensorSpec]:
    return [TensorSpec.model_validate(spec) for spec in found or []]
