"""Some rows of a dataset, read as if they were all of it."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.formats.datasets.interface import Batch, Dataset

RowNumbers = NDArray[np.signedinteger[Any]]


class SelectedRows(Dataset):
    """The rows of a dataset that have certain numbers, in the order of the file."""

    def __init__(self, dataset: Dataset, numbers: RowNumbers) -> None:
        """Take over `dataset`, which is closed with this; `numbers` [rows] ascend.

        Of the numbers only the ends are looked at, so that a file of them can be opened without being read. Raises
        ValueError where they cannot be rows of the dataset.
        """
        if numbers.ndim != 1 or numbers.dtype.kind != "i" or not len(numbers):
            raise ValueError("numbers of rows are a list of whole numbers that is not empty")
        if not 0 <= int(numbers[0]) <= int(numbers[-1]) < dataset.rows:
            raise ValueError(f"numbers of rows run from 0 to {dataset.rows - 1}")
        self._dataset = dataset
        self._numbers = numbers
        self.format = dataset.format
        self.rows = len(numbers)
        self.fields = dataset.fields
        self.notes = dataset.notes

    def close(self) -> None:
        self._dataset.close()

    def _read(self, size: int, names: Sequence[str], start: int, stop: int) -> Iterator[Batch]:
        return self._dataset.read_numbers(size, names, np.asarray(self._numbers[start:stop]))


def save_numbers(path: Path, numbers: RowNumbers) -> None:
    """Write numbers of rows to a file, as `load_numbers` reads it."""
    np.save(path, numbers.astype(np.int64), allow_pickle=False)


def load_numbers(path: Path) -> RowNumbers:
    """Open a file of numbers of rows; what is not looked at is not read."""
    numbers: RowNumbers = np.load(path, mmap_mode="r", allow_pickle=False)
    return numbers
