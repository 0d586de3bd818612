"""From a file to the dataset that reads it.

Each reader is imported when a file needs it: pyarrow alone takes more memory than many a model that is measured
beside it.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from app.domain.dataset import Preprocess
from app.errors import RejectedInput
from workers.formats.datasets.interface import Dataset
from workers.formats.datasets.selection import SelectedRows, load_numbers
from workers.formats.limits import InputLimits
from workers.formats.signatures import file_head, instead, signature
from workers.formats.zip_members import open_zip


def open_dataset(
    path: Path,
    file_name: str = "",
    preprocess: Preprocess | Mapping[str, Any] | None = None,
    limits: InputLimits | None = None,
    rows: Path | None = None,
) -> Dataset:
    """Open a dataset by its content, whatever it is called; only headers are read.

    `preprocess` says how pictures become arrays and is not looked at otherwise; `rows` is a file with the numbers of
    the rows that are wanted, as `selection.save_numbers` writes it. Raises RejectedInput `empty_file`,
    `dataset_format_unknown`, `dataset_pickled`, `preprocess_missing`, and what the formats raise; pydantic's
    ValidationError where `preprocess` is plain data and wrong.
    """
    if preprocess is not None and not isinstance(preprocess, Preprocess):
        preprocess = Preprocess.model_validate(preprocess)
    dataset = _open(path, file_name, preprocess, limits or InputLimits())
    if preprocess is not None and dataset.format != "images":
        dataset.notes += ("The preprocess object is for pictures and was not used.",)
    if rows is None:
        return dataset
    return SelectedRows(dataset, load_numbers(rows))


def _open(path: Path, file_name: str, preprocess: Preprocess | None, limits: InputLimits) -> Dataset:
    head = file_head(path)
    if not head:
        raise RejectedInput("The file is empty. Upload the whole dataset.", code="empty_file")
    kind = signature(head)
    if kind == "zip":
        return _open_zip(path, preprocess, limits)
    if kind == "parquet":
        from workers.formats.datasets.parquet import ParquetDataset

        return ParquetDataset(path, limits)
    if kind == "pickle":
        raise RejectedInput(
            "This is a Python pickle, which could run code when read. Save the arrays with np.savez('data.npz', "
            "input=…, labels=…).",
            code="dataset_pickled",
        )
    shown = f"{file_name[:100]!r}" if file_name else "This"
    raise RejectedInput(
        f"{shown} is not a dataset that can be read. {instead(head)}Upload a .npz (np.savez with an array for each "
        "input, labels under 'labels'), a .parquet, or a .zip of pictures with labels.csv.",
        code="dataset_format_unknown",
    )


def _open_zip(path: Path, preprocess: Preprocess | None, limits: InputLimits) -> Dataset:
    with open_zip(path, what="dataset") as archive:
        arrays = _has_arrays(archive)
    if arrays:
        from workers.formats.datasets.npz import NpzDataset

        return NpzDataset(path, limits)
    if preprocess is None:
        raise RejectedInput(
            "The archive holds pictures or other files and no arrays. Pictures need a `preprocess` object that says "
            "how they become the model's input: input, size, scale, mean, std, layout. Upload it with the file.",
            code="preprocess_missing",
        )
    from workers.formats.datasets.images import ImageDataset

    return ImageDataset(path, preprocess, limits)


def _has_arrays(archive: zipfile.ZipFile) -> bool:
    names = archive.namelist()
    return not names or any(name.endswith(".npy") for name in names)
