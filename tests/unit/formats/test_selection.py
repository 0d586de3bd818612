"""Some rows of a dataset read like a dataset of their own, and nothing else of the file is taken out of it."""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.formats.test_datasets import FORMATS, Save, as_images, as_npz, joined, picture, some_arrays
from workers.formats.datasets import interface
from workers.formats.datasets.images import ImageDataset
from workers.formats.datasets.inspection import inspect_dataset
from workers.formats.datasets.interface import Dataset
from workers.formats.datasets.opening import open_dataset
from workers.formats.datasets.selection import SelectedRows, load_numbers, save_numbers

PREPROCESS = {"input": "x", "size": [2, 2], "dtype": "uint8"}


def numbers_in(folder: Path, numbers: list[int]) -> Path:
    save_numbers(folder / "rows.npy", np.array(numbers))
    return folder / "rows.npy"


@FORMATS
@given(
    st.sets(st.integers(0, 22), min_size=1),
    st.integers(1, 9),
    st.integers(-3, 25),
    st.none() | st.integers(-3, 25),
    st.sampled_from([1, 300, 1 << 20]),
)
@settings(max_examples=60, deadline=None)
def test_chosen_rows_read_as_a_dataset_of_their_own(
    save: Save, numbers: set[int], size: int, start: int, stop: int | None, at_once: int
) -> None:
    """However many rows are asked for, and however many bytes are read of the file at once."""
    chosen, arrays = sorted(numbers), some_arrays()
    with tempfile.TemporaryDirectory() as folder, patch.object(interface, "_READ_BYTES", at_once):
        path = save(Path(folder) / "data", arrays)
        with open_dataset(path, rows=numbers_in(Path(folder), chosen)) as dataset:
            read = joined(dataset, size, ["ids", "image", "flag"], start, stop)
            assert dataset.rows == len(chosen)
            assert inspect_dataset(dataset).rows == len(chosen)
            digests = list(dataset.row_digests())
        with open_dataset(path) as whole:
            every = list(whole.row_digests())
    assert digests == [every[number] for number in chosen]
    if not read:
        assert chosen[start:stop] == []
        return
    for name, values in read.items():
        np.testing.assert_array_equal(values, arrays[name][chosen][start:stop])
        assert values.dtype == arrays[name].dtype
        assert values.flags.c_contiguous
        values[...] = 0  # the reader's own to change


@FORMATS
def test_what_was_read_belongs_to_the_reader(save: Save, tmp_path: Path) -> None:
    path = save(tmp_path / "data", some_arrays())
    with open_dataset(path, rows=numbers_in(tmp_path, [1, 2, 5, 20])) as dataset:
        for batch in dataset.batches(1):
            for values in batch.values():
                values[...] = 0
        np.testing.assert_array_equal(joined(dataset, 3)["ids"], some_arrays()["ids"][[1, 2, 5, 20]])


def test_no_picture_is_decoded_but_those_chosen(tmp_path: Path) -> None:
    files = {f"{number:02}.png": picture((number, 0, 0)) for number in range(20)}
    table = "file,label\n" + "".join(f"{name},{number}\n" for number, name in enumerate(files))
    path = as_images(tmp_path / "data", files, table)
    decoded = []
    before = ImageDataset._picture

    def seen(self: ImageDataset, member: object) -> object:
        decoded.append(member.filename)  # type: ignore[attr-defined]
        return before(self, member)  # type: ignore[arg-type]

    with (
        open_dataset(path, preprocess=PREPROCESS, rows=numbers_in(tmp_path, [3, 4, 11, 19])) as dataset,
        patch.object(ImageDataset, "_picture", seen),
    ):
        read = joined(dataset, 2, None, 1, 4)
        assert decoded == ["04.png", "11.png", "19.png"]
        assert read["labels"].tolist() == [4, 11, 19]
        assert read["x"][:, 0, 0, 0].tolist() == [4, 11, 19]
        assert joined(dataset, 9, ["labels"])["labels"].tolist() == [3, 4, 11, 19]
        assert len(decoded) == 3, "labels need no picture"


def test_a_stretch_is_read_no_further_than_its_last_row(tmp_path: Path) -> None:
    """The few rows that a latency is measured with cost no reading of the whole file."""
    arrays = {"x": np.arange(100_000 * 16, dtype=np.float32).reshape(-1, 16)}
    path = as_npz(tmp_path / "data", arrays)
    asked: list[tuple[int, int]] = []

    class Watched(SelectedRows):
        def __init__(self, dataset: Dataset) -> None:
            super().__init__(dataset, np.arange(7, 100_000, 5))
            plain = dataset._read

            def seen(size: int, names: list[str], start: int, stop: int) -> Iterator[dict[str, object]]:
                asked.append((start, stop))
                return plain(size, names, start, stop)

            dataset._read = seen  # type: ignore[method-assign, assignment]

    with Watched(open_dataset(path)) as dataset:
        np.testing.assert_array_equal(joined(dataset, 32, None, 0, 32)["x"], arrays["x"][7:167:5][:32])
    assert asked == [(7, 7 + 31 * 5 + 1)]


def test_a_file_of_numbers_is_opened_without_being_read(tmp_path: Path) -> None:
    numbers = load_numbers(numbers_in(tmp_path, [1, 5]))
    assert isinstance(numbers, np.memmap)
    assert (numbers.tolist(), numbers.dtype) == ([1, 5], np.int64)


@pytest.mark.parametrize(
    "numbers",
    [np.array([], np.int64), np.array([0.5]), np.array([[1, 2]]), np.array([-1, 2]), np.array([3, 23]), np.array(3)],
)
def test_numbers_that_no_row_has_are_refused(tmp_path: Path, numbers: np.ndarray) -> None:  # type: ignore[type-arg]
    with open_dataset(as_npz(tmp_path / "data", some_arrays())) as dataset, pytest.raises(ValueError, match="numbers"):
        SelectedRows(dataset, numbers)
