"""Check that a job's data really fit its model, and that no row plays two parts."""

from collections.abc import Iterable
from itertools import combinations
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from app.domain.dataset import GROUPS, LABELS, Role
from app.domain.fit import fit
from app.domain.metric import METRICS, choice_problems
from app.domain.model import ModelInspection
from app.errors import StepError
from workers.formats.datasets.inspection import inspect_dataset
from workers.formats.datasets.interface import Dataset
from workers.formats.datasets.opening import open_dataset
from workers.formats.limits import InputLimits
from workers.formats.model_files import open_model
from workers.formats.onnx.inspection import inspect_onnx
from workers.formats.signatures import model_format
from workers.formats.tflite.inspection import inspect_tflite
from workers.formats.torch.inspection import inspect_torch
from workers.steps.inputs import DatasetFile, Progress
from workers.steps.requests import InspectRequest

_SHOWN = 5


class InspectResult(BaseModel):
    """Where the model's main file lies in scratch, and how many rows each role has."""

    model: str
    rows: dict[Role, int]
    notes: tuple[str, ...] = ()


def run(request: InspectRequest, scratch: Path, folder: Path, progress: Progress) -> InspectResult:
    """Open the model and read every row of every dataset.

    A model that came as an archive is unpacked into `folder/model`. Raises RejectedInput for what cannot
    be opened; StepError `dataset_input_missing`, `dataset_dtype_mismatch`, `dataset_shape_mismatch`,
    `dataset_labels_missing`, `dataset_labels_not_integers` or `labels_out_of_range` for data that do not fit;
    `datasets_overlap` for rows in two roles; `output_unknown`, `output_not_float` or `labels_not_used` for metrics
    that the model has not what they look at.
    """
    limits = InputLimits() if request.unpacked_bytes is None else InputLimits(unpacked_bytes=request.unpacked_bytes)
    files = open_model(scratch / request.model, folder / "model", limits)
    found_format = model_format(files.main)
    if found_format == "tflite":
        model = inspect_tflite(files.main, limits=limits)
    elif found_format != "onnx":
        model = inspect_torch(files.main, limits=limits)
    else:
        model = inspect_onnx(files.main, beside=files.beside, limits=limits)
    _refuse_metrics(request, model)
    inputs = [spec.name for spec in model.inputs]
    rows: dict[Role, int] = {}
    notes: list[str] = []
    groups: dict[Role, set[str]] = {}
    digests: dict[Role, dict[bytes, int]] = {}
    for index, (role, dataset) in enumerate(request.datasets.items()):
        progress(0.1 + 0.9 * index / len(request.datasets), f"reading the {role} rows")
        found, content, groups[role] = _read(role, dataset, model, request, scratch, limits, inputs)
        rows[role], digests[role] = found[0], content
        notes += [f"{role}: {note}" for note in found[1]]
    _refuse_overlaps(digests)
    notes += _shared_groups(groups)
    return InspectResult(model=files.main.relative_to(scratch).as_posix(), rows=rows, notes=tuple(notes))


def _read(
    role: Role,
    dataset: DatasetFile,
    model: ModelInspection,
    request: InspectRequest,
    scratch: Path,
    limits: InputLimits,
    inputs: list[str],
) -> tuple[tuple[int, tuple[str, ...]], dict[bytes, int], set[str]]:
    """Rows and notes of one role's dataset, the first row of each content, and the names of its groups."""
    with open_dataset(scratch / dataset.path, dataset.file_name, dataset.preprocess, limits) as opened:
        found = inspect_dataset(opened)
        metrics = request.spec.asked_metrics()
        labelled = [choice for choice in metrics if choice.name in METRICS and METRICS[choice.name].needs_labels]
        ranges = {} if found.label_range is None else {LABELS: found.label_range}
        ranges |= _ranges(opened, {choice.labels for choice in labelled} - {LABELS})
        result = fit(
            model.inputs,
            found.fields,
            ranges,
            model.outputs,
            metrics=metrics,
            needs_labels=role == "evaluation" and bool(labelled),
        )
        if result.problems:
            raise StepError(
                f"The {role} dataset does not fit the model. " + " ".join(entry.detail for entry in result.problems),
                code=result.problems[0].code,
                errors=result.problems,
            )
        content: dict[bytes, int] = {}
        # A decoder's cache need not be there.
        fed = [name for name in inputs if any(name == spec.name for spec in found.fields)]
        for row, digest in enumerate(opened.row_digests(fed) if fed else ()):
            content.setdefault(digest, row)
        groups: set[str] = set()
        if GROUPS not in inputs and any(spec.name == GROUPS for spec in found.fields):
            for block in opened.batches(opened.comfortable_size([GROUPS]), [GROUPS]):
                groups.update(map(str, np.unique(block[GROUPS])))
    return (found.rows, result.notes), content, groups


def _refuse_metrics(request: InspectRequest, model: ModelInspection) -> None:
    known = [choice for choice in request.spec.asked_metrics() if choice.name in METRICS]
    problems = [problem for choice in known for problem in choice_problems(choice, model.outputs, "")]
    if problems:
        detail = " ".join(problem.detail for problem in problems)
        raise StepError(detail, code=problems[0].code, errors=problems)


def _ranges(dataset: Dataset, names: Iterable[str]) -> dict[str, tuple[int, int]]:
    """The least and greatest value of arrays of whole numbers that are labels under another name."""
    found: dict[str, tuple[int, int]] = {}
    known = {spec.name for spec in dataset.fields if np.dtype(spec.dtype).kind in "iub"}
    for name in sorted(known.intersection(names)):
        blocks = [block[name] for block in dataset.batches(dataset.comfortable_size([name]), [name])]
        sized = [block for block in blocks if block.size]
        if sized:
            found[name] = (min(int(block.min()) for block in sized), max(int(block.max()) for block in sized))
    return found


def _shared_groups(groups: dict[Role, set[str]]) -> list[str]:
    """Rows of one group in two roles are not held out of each other, though none is the same.

    That is a note and no refusal: numbers of groups may have been given anew for each dataset.
    """
    notes = []
    for first, second in combinations(groups, 2):
        shared = sorted(groups[first] & groups[second])
        if shared:
            listed = ", ".join([*shared[:_SHOWN], *(["…"] if len(shared) > _SHOWN else [])])
            notes.append(
                f"{first} and {second} have {len(shared)} groups of the same name ({listed}): if they are the same, "
                f"{second} is not held out of {first}. Split the data by group."
            )
    return notes


def _refuse_overlaps(digests: dict[Role, dict[bytes, int]]) -> None:
    """Rows that guided a choice cannot judge it. Compared by content, labels left out."""
    found: list[str] = []
    for first, second in combinations(digests, 2):
        shared = [digest for digest in digests[first] if digest in digests[second]]
        if not shared:
            continue
        pairs = [f"{digests[first][digest]} and {digests[second][digest]}" for digest in shared[:_SHOWN]]
        listed = ", ".join([*pairs, "…"] if len(shared) > _SHOWN else pairs)
        count = "1 row" if len(shared) == 1 else f"{len(shared)} rows"
        found.append(f"{count} of {first} in {second} too (by number: {listed})")
    if found:
        raise StepError(
            f"The datasets of a job must not share rows: {'; '.join(found)}. "
            "Split the data so that each row has one role.",
            code="datasets_overlap",
        )
