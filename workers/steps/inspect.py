"""Check that a job's data really fit its model, and that no row plays two parts."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from app.domain.dataset import ALL, GROUPS, LABELS, Role
from app.domain.fit import fit
from app.domain.metric import METRICS, choice_problems
from app.domain.model import ModelInspection
from app.errors import StepError
from workers.formats.datasets.inspection import inspect_dataset
from workers.formats.datasets.interface import Dataset
from workers.formats.datasets.opening import open_dataset
from workers.formats.datasets.splitting import read_groups
from workers.formats.limits import InputLimits
from workers.formats.model_files import open_model
from workers.formats.onnx.inspection import inspect_onnx
from workers.formats.signatures import model_format
from workers.formats.tflite.inspection import inspect_tflite
from workers.formats.torch.inspection import inspect_torch
from workers.steps.inputs import DatasetFile, Progress
from workers.steps.requests import InspectRequest
from workers.steps.roles import RoleRows, RowsRead, refuse_overlaps, shared_groups, split_by_role


class InspectResult(BaseModel):
    """Where the model's main file lies in scratch, how many rows each role has, and which, where they were split."""

    model: str
    rows: dict[Role, int]
    split: dict[Role, RoleRows] = {}
    notes: tuple[str, ...] = ()


def run(request: InspectRequest, scratch: Path, folder: Path, progress: Progress) -> InspectResult:
    """Open the model and read every row of every dataset; give the rows of one that is for all roles to them.

    A model that came as an archive is unpacked into `folder/model`. Raises RejectedInput for what cannot
    be opened; StepError `dataset_input_missing`, `dataset_dtype_mismatch`, `dataset_shape_mismatch`,
    `dataset_labels_missing`, `dataset_labels_not_integers` or `labels_out_of_range` for data that do not fit;
    `datasets_overlap` for rows or groups in two roles, `split_too_small` for a role that is given too few;
    `output_unknown`, `output_not_float` or `labels_not_used` for metrics that the model has not what they look at.
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
    main = files.main.relative_to(scratch).as_posix()
    if request.whole is not None:
        progress(0.1, "reading the rows")
        found = _read(ALL, request.whole, model, request, scratch, limits)
        notes = [f"{ALL}: {note}" for note in found.notes]
        rows, split, told = split_by_role(found, request.spec, folder)
        return InspectResult(model=main, rows=rows, split=split, notes=(*notes, *told))
    by_role: dict[Role, RowsRead] = {}
    for index, (role, dataset) in enumerate(request.datasets.items()):
        progress(0.1 + 0.9 * index / len(request.datasets), f"reading the {role} rows")
        by_role[role] = _read(role, dataset, model, request, scratch, limits)
    refuse_overlaps({role: found.digests for role, found in by_role.items()})
    notes = [f"{role}: {note}" for role, found in by_role.items() for note in found.notes]
    notes += shared_groups({role: found.groups for role, found in by_role.items() if found.groups is not None})
    return InspectResult(model=main, rows={role: found.rows for role, found in by_role.items()}, notes=tuple(notes))


def _read(
    name: str,
    dataset: DatasetFile,
    model: ModelInspection,
    request: InspectRequest,
    scratch: Path,
    limits: InputLimits,
) -> RowsRead:
    """Read the dataset of one role, or the one that is for all."""
    inputs = [spec.name for spec in model.inputs]
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
            needs_labels=name in ("evaluation", ALL) and bool(labelled),
        )
        if result.problems:
            whose = "dataset" if name == ALL else f"{name} dataset"
            raise StepError(
                f"The {whose} does not fit the model. " + " ".join(entry.detail for entry in result.problems),
                code=result.problems[0].code,
                errors=result.problems,
            )
        # A decoder's cache need not be there.
        fed = [name for name in inputs if any(name == spec.name for spec in found.fields)]
        compared = bool(fed) and (request.whole is not None or len(request.datasets) > 1)
        grouped = GROUPS not in inputs and any(spec.name == GROUPS for spec in found.fields)
        return RowsRead(
            rows=found.rows,
            notes=result.notes,
            digests=list(opened.row_digests(fed)) if compared else [],
            groups=read_groups(opened) if grouped else None,
        )


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
