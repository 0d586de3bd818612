"""Does a dataset fit a model? Answered from what inspection found, without opening a file."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from app.domain.dataset import GROUPS, LABELS, SLICES
from app.domain.metric import METRICS, MetricChoice, looked_at
from app.domain.model import UNKNOWN, Dimension, TensorSpec, is_cache, shape_text
from app.errors import FieldError


@dataclass(frozen=True, slots=True)
class Fit:
    """What is wrong with a pair of model and dataset, and what is merely worth knowing."""

    problems: tuple[FieldError, ...] = field(default=())
    notes: tuple[str, ...] = field(default=())


def fit(
    inputs: Sequence[TensorSpec],
    fields: Sequence[TensorSpec],
    label_ranges: Mapping[str, tuple[int, int]],
    outputs: Sequence[TensorSpec],
    *,
    metrics: Sequence[MetricChoice] = (),
    needs_labels: bool = False,
    pointer: str = "",
) -> Fit:
    """Compare a model's inputs and outputs (shapes with the batch axis) with a dataset's fields (without).

    `label_ranges` has the least and greatest label of arrays of whole numbers, where known. `metrics` say which
    arrays are labels, and of which output; `needs_labels`, that they are compared with these rows. Arrays called
    `groups` and `slices` are neither labels nor inputs. Problems come all at once, each at `pointer`, with the codes
    `dataset_input_missing`, `dataset_dtype_mismatch`, `dataset_shape_mismatch`, `dataset_labels_missing`,
    `dataset_labels_not_integers`, `labels_out_of_range`, `dataset_groups_not_by_row`.
    """
    given = {spec.name: spec for spec in fields}
    found: list[tuple[str, str]] = []
    for wanted in inputs:
        if (have := given.get(wanted.name)) is None:
            if is_cache(wanted.name, wanted.shape):
                continue
            found.append(("dataset_input_missing", _missing(wanted, inputs, fields)))
            continue
        if wanted.dtype not in (have.dtype, UNKNOWN):
            found.append(("dataset_dtype_mismatch", _other_dtype(wanted, have)))
        if (why := _shape_problem(wanted, have)) is not None:
            found.append(("dataset_shape_mismatch", why))
    names = {spec.name for spec in inputs}
    notes: list[str] = []
    asked = [choice for choice in metrics if choice.name in METRICS and METRICS[choice.name].needs_labels]
    judged = [(choice.labels, looked_at(outputs, choice), METRICS[choice.name].labels) for choice in asked]
    for name, output, kind in judged or [(LABELS, looked_at(outputs), "classes")]:
        labels = given.get(name) if name not in names else None
        if labels is None:
            if needs_labels:
                found.append(("dataset_labels_missing", _no_labels(name)))
        elif not _whole(labels.dtype) and kind not in ("numbers", "objects"):
            why = f"The array {name!r} is {labels.dtype}, and labels are whole numbers{_MEANT.get(kind or '', '')}."
            if needs_labels:
                found.append(
                    ("dataset_labels_not_integers", f"{why} Save it as int64, or ask for metrics that need no labels.")
                )
            else:
                notes.append(f"{why} No metric compares with it.")
        elif kind == "classes" and (why_not := _range_problem(labels, label_ranges.get(name), output)) is not None:
            found.append(("labels_out_of_range", why_not))
    for name in {GROUPS, SLICES} & given.keys() - names:
        shape = given[name].shape
        if (shape is not None and shape not in ((), (1,))) or given[name].dtype.startswith("float"):
            found.append(("dataset_groups_not_by_row", _not_by_row(given[name])))
    used = {*names, *(name for name, _, _ in judged), LABELS, GROUPS, SLICES}
    extra = [spec.name for spec in fields if spec.name not in used]
    if extra:
        notes.append(f"Not inputs of the model, so not used: {', '.join(extra)}.")
    # Two metrics may look at one array.
    problems = (FieldError(pointer, code, detail) for code, detail in dict.fromkeys(found))
    return Fit(tuple(problems), tuple(dict.fromkeys(notes)))


_MEANT = {"classes": ", the places of classes", "sequences": ", the places of classes", "keys": " that rows share"}


def _not_by_row(field: TensorSpec) -> str:
    return (
        f"The array {field.name!r} is {field.dtype}{shape_text(field.shape)} a row, and it holds one whole number or "
        "text a row: rows with the same one belong together. Save it so, or call it something else."
    )


def _no_labels(name: str) -> str:
    return (
        f"A metric compares with labels and the dataset has none: add an array {name!r}, one entry a row, or "
        "ask for metrics that need none."
    )


def _whole(dtype: str) -> bool:
    return dtype == "bool" or dtype.startswith(("int", "uint"))


def _missing(wanted: TensorSpec, inputs: Sequence[TensorSpec], fields: Sequence[TensorSpec]) -> str:
    taken = {spec.name for spec in inputs} | {LABELS, GROUPS, SLICES}
    free = [spec.name for spec in fields if spec.name not in taken]
    detail = (
        f"The model has an input {wanted.name!r} ({wanted.dtype}{shape_text(wanted.shape)}) and the dataset no array "
        "of that name."
    )
    near = difflib.get_close_matches(wanted.name, free, n=2)
    if not near and len(free) == 1:
        near = free
    if near:
        return f"{detail} Did you mean {' or '.join(map(repr, near))}? Rename it to {wanted.name!r}."
    return f"{detail} Add it: one array, its first axis the sample."


def _other_dtype(wanted: TensorSpec, have: TensorSpec) -> str:
    detail = f"Array {have.name!r} is {have.dtype} and the model's input is {wanted.dtype}."
    if wanted.dtype == "string":
        return f"{detail} Datasets cannot hold text: export the model with numbers there."
    return f"{detail} Save it as {wanted.dtype}, for example with .astype({wanted.dtype!r})."


def _shape_problem(wanted: TensorSpec, have: TensorSpec) -> str | None:
    """Why rows of `have` cannot be stacked into `wanted`, whose first axis is the batch."""
    if wanted.shape is None or have.shape is None:
        return None
    if not wanted.shape:
        return (
            f"The model's input {wanted.name!r} is a single number without a batch axis, and rows of a dataset have "
            "one. Export the model with a batch axis there, or with that number built in."
        )
    batch, *row = wanted.shape
    if isinstance(batch, int) and batch != 1:
        return (
            f"The model's input {wanted.name!r} has the shape {shape_text(wanted.shape)}: its first axis is fixed at "
            f"{batch}, and rows are fed one by one or in batches of any size. Export the model with a dynamic first "
            "axis, or with 1."
        )
    if len(row) == len(have.shape) and all(map(_same_size, row, have.shape)):
        return None
    detail = f"A row of {have.name!r} has the shape {shape_text(have.shape)}; the model takes {shape_text(tuple(row))}."
    if have.shape[:1] == (1,) and len(have.shape) == 1 + len(row) and all(map(_same_size, row, have.shape[1:])):
        return f"{detail} There is one axis too many: the first axis is the sample, so drop the 1 after it."
    if sorted(map(str, row)) == sorted(map(str, have.shape)):
        return f"{detail} The axes are in another order: transpose the array."
    return f"{detail} Shape the array as [rows, {', '.join('any' if not isinstance(s, int) else str(s) for s in row)}]."


def _same_size(wanted: Dimension, have: Dimension) -> bool:
    return not isinstance(wanted, int) or not isinstance(have, int) or wanted == have


def _range_problem(labels: TensorSpec, label_range: tuple[int, int] | None, output: TensorSpec | None) -> str | None:
    """Why labels cannot be indices into the last axis of the output that they are compared with."""
    shape = output.shape if output is not None else None
    classes = shape[-1] if shape is not None and len(shape) >= 2 else None
    # One value a row is no class axis: labels may then be what is predicted, whole numbers by chance.
    if label_range is None or output is None or not isinstance(classes, int) or classes < 2:
        return None
    # Labels of another rank than "one a vector of classes" mean something else; so do those of a picture's points,
    # whose classes seldom stand on the last axis.
    if shape is None or len(shape) > 3 or labels.shape is None:
        return None
    if len(labels.shape) != len(shape) - 2 and labels.shape != (1,):
        return None
    low, high = label_range
    if low >= 0 and high < classes:
        return None
    detail = (
        f"Labels run from {low} to {high}, and the model's output {output.name!r} has {classes} classes, 0 to "
        f"{classes - 1}."
    )
    if low == 1 and high == classes:
        return f"{detail} They seem to count from 1: subtract 1."
    return f"{detail} Map them to the positions of the classes in the output."
