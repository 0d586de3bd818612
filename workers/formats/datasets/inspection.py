"""Read a dataset once from end to end, and say what is in it."""

import numpy as np

from app.domain.dataset import LABELS, DatasetInspection
from app.errors import RejectedInput
from workers.formats.datasets.interface import Array, Dataset, Progress


def inspect_dataset(dataset: Dataset, progress: Progress = lambda share, message: None) -> DatasetInspection:
    """Describe a dataset after reading every value of it.

    Raises RejectedInput `dataset_not_finite` for NaN or infinity, and what reading raises where the file is
    damaged further in.
    """
    low: int | None = None
    high: int | None = None
    size = dataset.comfortable_size()
    done = 0
    for batch in dataset.batches(size):
        for name, array in batch.items():
            if array.dtype.kind == "f":
                _check_finite(name, array, done)
        labels = batch.get(LABELS)
        if labels is not None and labels.dtype.kind in "iub" and labels.size:
            low = min(int(labels.min()), int(labels.min()) if low is None else low)
            high = max(int(labels.max()), int(labels.max()) if high is None else high)
        done += len(next(iter(batch.values())))
        progress(done / dataset.rows, f"read {done} of {dataset.rows} rows")
    return DatasetInspection(
        format=dataset.format,
        rows=dataset.rows,
        fields=dataset.fields,
        label_range=None if low is None or high is None else (low, high),
        notes=(*dataset.notes, *_notes(dataset)),
    )


def _check_finite(name: str, array: Array, first_row: int) -> None:
    finite = np.isfinite(array)
    if finite.all():
        return
    row = int(np.flatnonzero(~finite.reshape(len(array), -1).all(axis=1))[0])
    what = "NaN" if np.isnan(array[row]).any() else "infinity"
    raise RejectedInput(
        f"Array {name!r} has {what} in row {first_row + row}. Replace it, or leave the row out: ranges and metrics "
        "mean nothing with it.",
        code="dataset_not_finite",
    )


def _notes(dataset: Dataset) -> list[str]:
    notes = []
    if not dataset.has_labels:
        notes.append(f"Has no {LABELS!r}: metrics that need labels cannot be computed on it.")
    elif np.dtype(dataset.field(LABELS).dtype).kind == "f":
        notes.append("Labels are floating point: top1 needs whole numbers.")
    if all(spec.name == LABELS for spec in dataset.fields):
        notes.append("Has labels only, and no input of a model.")
    return notes
