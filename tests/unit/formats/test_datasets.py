"""Datasets that can be used read the same in every format."""

import io
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from app.domain.dataset import Preprocess
from app.domain.model import TensorSpec
from app.errors import RejectedInput
from tests.unit.formats.rejections import rejected
from workers.formats.datasets.inspection import inspect_dataset
from workers.formats.datasets.interface import Dataset
from workers.formats.datasets.opening import open_dataset

Arrays = dict[str, NDArray[Any]]


def some_arrays(rows: int = 23) -> Arrays:
    rng = np.random.default_rng(7)
    return {
        "image": rng.normal(size=(rows, 3, 4)).astype(np.float32),
        "ids": rng.integers(0, 50, (rows, 5)),
        "flag": rng.random(rows) > 0.5,
        "labels": rng.integers(0, 10, rows),
    }


def as_npz(path: Path, arrays: Arrays) -> Path:
    with path.open("wb") as file:
        np.savez(file, allow_pickle=True, **arrays)
    return path


def as_packed_npz(path: Path, arrays: Arrays) -> Path:
    with path.open("wb") as file:
        np.savez_compressed(file, allow_pickle=True, **arrays)
    return path


def fixed_lists(array: NDArray[Any]) -> pa.Array:
    column = pa.array(array.reshape(-1))
    for size in reversed(array.shape[1:]):
        column = pa.FixedSizeListArray.from_arrays(column, size)
    return column


def as_parquet(path: Path, arrays: Arrays) -> Path:
    pq.write_table(pa.table({name: fixed_lists(array) for name, array in arrays.items()}), path, row_group_size=7)
    return path


def as_lists_parquet(path: Path, arrays: Arrays) -> Path:
    """As pandas and others write them: lists that could be of any length."""
    pq.write_table(pa.table({name: pa.array(array.tolist()) for name, array in arrays.items()}), path)
    return path


FORMATS = pytest.mark.parametrize("save", [as_npz, as_packed_npz, as_parquet], ids=["npz", "packed npz", "parquet"])
Save = Callable[[Path, Arrays], Path]


def joined(
    dataset: Dataset, size: int, names: Sequence[str] | None = None, start: int = 0, stop: int | None = None
) -> Arrays:
    batches = list(dataset.batches(size, names, start, stop))
    assert all(len(next(iter(batch.values()))) == size for batch in batches[:-1])
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]} if batches else {}


@FORMATS
def test_a_dataset_is_described(save: Save, tmp_path: Path) -> None:
    with open_dataset(save(tmp_path / "data", some_arrays())) as dataset:
        found = inspect_dataset(dataset)
    assert found.rows == 23
    assert found.fields == (
        TensorSpec(name="image", dtype="float32", shape=(3, 4)),
        TensorSpec(name="ids", dtype="int64", shape=(5,)),
        TensorSpec(name="flag", dtype="bool", shape=()),
        TensorSpec(name="labels", dtype="int64", shape=()),
    )
    assert found.format == ("parquet" if save is as_parquet else "npz")
    labels = some_arrays()["labels"]
    assert found.label_range == (labels.min(), labels.max())
    assert found.notes == ()


@FORMATS
@pytest.mark.parametrize("size", [1, 4, 7, 23, 100])
def test_batches_are_the_rows_in_their_order(save: Save, size: int, tmp_path: Path) -> None:
    arrays = some_arrays()
    with open_dataset(save(tmp_path / "data", arrays)) as dataset:
        for _ in range(2):  # as often as asked for
            read = joined(dataset, size)
            assert list(read) == list(arrays)
            for name, array in arrays.items():
                np.testing.assert_array_equal(read[name], array)
                assert read[name].dtype == array.dtype


@FORMATS
@given(st.integers(0, 25), st.integers(0, 25), st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_any_stretch_of_rows(save: Save, start: int, stop: int, size: int) -> None:
    arrays = some_arrays()
    with tempfile.TemporaryDirectory() as folder, open_dataset(save(Path(folder) / "data", arrays)) as dataset:
        read = joined(dataset, size, ["ids"], start, stop)
        assert list(read) == (["ids"] if arrays["ids"][start:stop].size else [])
        if read:
            np.testing.assert_array_equal(read["ids"], arrays["ids"][start:stop])


@FORMATS
def test_batches_belong_to_the_reader(save: Save, tmp_path: Path) -> None:
    with open_dataset(save(tmp_path / "data", some_arrays())) as dataset:
        for array in next(dataset.batches(4)).values():
            assert array.flags.writeable
            assert array.flags.c_contiguous
            array[...] = 0


@FORMATS
def test_digests_follow_the_content_alone(save: Save, tmp_path: Path) -> None:
    arrays = some_arrays()
    arrays["image"][5], arrays["ids"][5], arrays["flag"][5] = arrays["image"][2], arrays["ids"][2], arrays["flag"][2]
    with open_dataset(as_npz(tmp_path / "reference", arrays)) as dataset:
        reference = list(dataset.row_digests())
    with open_dataset(save(tmp_path / "data", arrays | {"labels": arrays["labels"] + 1})) as dataset:
        assert list(dataset.row_digests()) == reference
        assert len(set(reference)) == 22
        assert reference[2] == reference[5]
        by_ids = list(dataset.row_digests(["ids"]))
    arrays["image"] += 1
    with open_dataset(save(tmp_path / "other", arrays)) as dataset:
        assert set(dataset.row_digests()).isdisjoint(reference)
        assert list(dataset.row_digests(["ids"])) == by_ids


def test_rows_that_only_run_together_to_the_same_bytes_differ(tmp_path: Path) -> None:
    one = {"a": np.array([[1, 2]]), "b": np.array([[3]])}
    other = {"a": np.array([[1]]), "b": np.array([[2, 3]])}
    digests = [list(open_dataset(as_npz(tmp_path / "data", arrays)).row_digests()) for arrays in (one, other, one)]
    assert digests[0] == digests[2] != digests[1]


@FORMATS
def test_names_that_are_no_fields(save: Save, tmp_path: Path) -> None:
    with open_dataset(save(tmp_path / "data", some_arrays())) as dataset:
        with pytest.raises(KeyError):
            dataset.batches(4, ["imgae"])
        assert dataset.has_labels


def test_lists_of_one_length_are_arrays(tmp_path: Path) -> None:
    arrays = some_arrays()
    with open_dataset(as_lists_parquet(tmp_path / "data", arrays)) as dataset:
        assert dataset.field("image") == TensorSpec(name="image", dtype="float64", shape=(3, 4))
        np.testing.assert_array_equal(joined(dataset, 6)["image"], arrays["image"].astype(np.float64))


def test_tensors_of_a_fixed_shape(tmp_path: Path) -> None:
    values = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    table = pa.table({"x": pa.FixedShapeTensorArray.from_numpy_ndarray(values)})
    pq.write_table(table, tmp_path / "data")
    with open_dataset(tmp_path / "data") as dataset:
        assert dataset.fields == (TensorSpec(name="x", dtype="float32", shape=(2, 3)),)
        np.testing.assert_array_equal(joined(dataset, 3)["x"], values)


@pytest.mark.parametrize("save", [as_npz, as_packed_npz])
def test_arrays_in_fortran_order(save: Save, tmp_path: Path) -> None:
    values = np.asfortranarray(np.arange(60, dtype=np.float32).reshape(5, 4, 3))
    with open_dataset(save(tmp_path / "data", {"x": values})) as dataset:
        np.testing.assert_array_equal(joined(dataset, 2)["x"], values)
        np.testing.assert_array_equal(joined(dataset, 2, ["x"], 3)["x"], values[3:])


@pytest.mark.parametrize("dtype", [">f4", ">i8", "<f2", "u1", "<u4", "?"])
def test_every_type_comes_in_native_order(dtype: str, tmp_path: Path) -> None:
    values = np.arange(6).reshape(3, 2).astype(dtype)
    with open_dataset(as_npz(tmp_path / "data", {"x": values})) as dataset:
        read = joined(dataset, 2)["x"]
    np.testing.assert_array_equal(read, values)
    assert read.dtype.isnative
    assert dataset.fields[0].dtype == values.dtype.name


def test_bytes_that_are_no_bools_become_bools(tmp_path: Path) -> None:
    path = as_npz(tmp_path / "data", {"x": np.array([0, 2, 255], np.uint8)})
    content = path.read_bytes().replace(b"'|u1'", b"'|b1'")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        member = archive.infolist()[0]
        start = content.index(b"\x93NUMPY")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", content[start : start + member.file_size])
    with open_dataset(path) as dataset:
        assert joined(dataset, 3)["x"].view(np.uint8).tolist() == [0, 1, 1]


def test_names_of_inputs_may_have_slashes(tmp_path: Path) -> None:
    with open_dataset(as_npz(tmp_path / "data", {"/encoder/input.1": np.ones((2, 3), np.float32)})) as dataset:
        assert dataset.fields[0].name == "/encoder/input.1"


def test_members_that_are_no_arrays_are_noted(tmp_path: Path) -> None:
    path = as_npz(tmp_path / "data", some_arrays())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("readme.txt", "hello")
    with open_dataset(path, preprocess=Preprocess(input="x", size=(2, 2))) as dataset:
        assert "readme.txt" in dataset.notes[0]
        assert "preprocess" in dataset.notes[1]


def test_notes_about_labels(tmp_path: Path) -> None:
    for arrays, words in (
        ({"x": np.ones((2, 1), np.float32)}, "no 'labels'"),
        ({"x": np.ones(2, np.float32), "labels": np.ones(2)}, "floating point"),
        ({"labels": np.array([-3, 5])}, "labels only"),
    ):
        with open_dataset(as_npz(tmp_path / "data", arrays)) as dataset:
            assert words in " ".join(inspect_dataset(dataset).notes)
    assert inspect_dataset(open_dataset(as_npz(tmp_path / "data", arrays))).label_range == (-3, 5)


READ_IN_LITTLE_MEMORY = r"""
import re, sys
from pathlib import Path
from tests.unit.formats.rejections import rejected
from workers.formats.datasets.inspection import inspect_dataset
from workers.formats.datasets.opening import open_dataset
def peak():
    return int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
with open_dataset(Path(sys.argv[1])) as warm:
    inspect_dataset(warm)
before = peak()
with open_dataset(Path(sys.argv[2])) as dataset:
    assert inspect_dataset(dataset).rows == 1500
    assert sum(1 for _ in dataset.row_digests()) == 1500
print(peak() - before)
"""


@FORMATS
def test_memory_does_not_grow_with_the_rows(save: Save, tmp_path: Path) -> None:
    values = np.random.default_rng(1).random((1500, 8, 1024), dtype=np.float32)  # 49 MB
    save(tmp_path / "small", {"x": values[:200]})
    if save is as_parquet:
        pq.write_table(pa.table({"x": fixed_lists(values)}), tmp_path / "large", use_dictionary=False)
    else:
        save(tmp_path / "large", {"x": values})
    code = [sys.executable, "-c", READ_IN_LITTLE_MEMORY, str(tmp_path / "small"), str(tmp_path / "large")]
    grown_kib = int(subprocess.run(code, check=True, capture_output=True, text=True).stdout)
    assert grown_kib < 32 * 1024


# Pictures


def picture(
    colour: tuple[int, int, int] | int, size: tuple[int, int] = (8, 6), kind: str = "PNG", mode: str = "RGB"
) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, kind)
    return buffer.getvalue()


def as_images(path: Path, files: dict[str, bytes], table: str | None) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        if table is not None:
            archive.writestr("labels.csv", table)
    return path


def test_pictures_become_rows_in_the_table_s_order(tmp_path: Path) -> None:
    files = {
        "b.png": picture((255, 0, 0)),
        "a.jpg": picture((0, 255, 0), kind="JPEG"),
        "c.webp": picture((0, 0, 255), kind="WEBP"),
    }
    path = as_images(tmp_path / "data", files, "\ufefffile,label,note\nc.webp,2,x\nb.png,0,y\n./a.jpg,1,z\n")
    how = {"input": "image", "size": [4, 5], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    with open_dataset(path, "pictures.zip", how) as dataset:
        found = inspect_dataset(dataset)
        read = joined(dataset, 2)
        digests = list(dataset.row_digests())
    assert found.format == "images"
    assert found.label_range == (0, 2)
    assert found.fields[0] == TensorSpec(name="image", dtype="float32", shape=(3, 4, 5))
    assert read["labels"].tolist() == [2, 0, 1]
    expected = np.array([[-1, -1, 1], [1, -1, -1], [-1, 1, -1]], np.float32)
    np.testing.assert_allclose(read["image"].mean(axis=(2, 3)), expected, atol=0.02)
    assert len(set(digests)) == 3


@pytest.mark.parametrize(
    ("how", "shape", "first"),
    [
        ({"colour": "RGB"}, (3, 2, 2), [10, 20, 30]),
        ({"colour": "BGR"}, (3, 2, 2), [30, 20, 10]),
        ({"colour": "L"}, (1, 2, 2), [18]),
        ({"layout": "NHWC"}, (2, 2, 3), [10, 20, 30]),
        ({"layout": "NHWC", "colour": "L"}, (2, 2, 1), [18]),
    ],
)
def test_colour_and_layout(how: dict[str, Any], shape: tuple[int, ...], first: list[int], tmp_path: Path) -> None:
    path = as_images(tmp_path / "data", {"a.png": picture((10, 20, 30))}, "file,label\na.png,0\n")
    with open_dataset(path, preprocess={"input": "x", "size": [2, 2], "dtype": "uint8", **how}) as dataset:
        row = next(dataset.batches(1))["x"][0]
    assert (row.shape, row.dtype) == (shape, np.uint8)
    channels = row[:, 0, 0] if how.get("layout", "NCHW") == "NCHW" else row[0, 0]
    assert channels.tolist() == first


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic"])
@pytest.mark.parametrize("size", [(67, 40), (40, 67), (50, 50), (31, 90)])
def test_cropping_is_resizing_and_then_cutting(size: tuple[int, int], interpolation: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(3).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    path = as_images(tmp_path / "data", {"a.png": buffer.getvalue()}, None)
    how = {
        "input": "x", "size": [24, 20], "resize": "crop", "shorter_side": 28, "interpolation": interpolation,
        "layout": "NHWC", "dtype": "uint8",
    }  # fmt: skip
    with open_dataset(path, preprocess=how) as dataset:
        row = next(dataset.batches(1))["x"][0]
    short = min(size)
    whole = (28 * size[0] // short, 28 * size[1] // short)
    filters = {
        "nearest": Image.Resampling.NEAREST,
        "bilinear": Image.Resampling.BILINEAR,
        "bicubic": Image.Resampling.BICUBIC,
    }
    resized = np.asarray(image.resize(whole, filters[interpolation]))
    top, left = round((whole[1] - 24) / 2), round((whole[0] - 20) / 2)
    cut = resized[top : top + 24, left : left + 20]
    assert np.abs(row.astype(int) - cut).max() == 0


def test_a_strip_is_not_made_a_giant_to_cut_from(tmp_path: Path) -> None:
    path = as_images(tmp_path / "data", {"a.png": picture((9, 9, 9), size=(60_000, 1))}, None)
    how = Preprocess(input="x", size=(64, 64), resize="crop", dtype="uint8")
    with open_dataset(path, preprocess=how) as dataset, rejected("dataset_image_too_large", "3840000"):
        next(dataset.batches(1))


def test_pictures_without_a_table_go_by_name(tmp_path: Path) -> None:
    files = {"b.png": picture((2, 2, 2)), "a.png": picture((1, 1, 1)), "notes.txt": b"x", "__MACOSX/._a.png": b"x"}
    path = as_images(tmp_path / "data", files, None)
    with open_dataset(path, preprocess={"input": "x", "size": [2, 2], "dtype": "uint8"}) as dataset:
        assert dataset.rows == 2
        assert joined(dataset, 9)["x"][:, 0, 0, 0].tolist() == [1, 2]
        assert "without labels" in dataset.notes[0]


def test_a_table_in_a_folder_names_files_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "data"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("set/labels.csv", "file,label\nx/a.png,3\n")
        archive.writestr("set/x/a.png", picture((1, 2, 3)))
        archive.writestr("set/x/b.png", picture((1, 2, 3)))
    with open_dataset(path, preprocess={"input": "x", "size": [2, 2]}) as dataset:
        assert (dataset.rows, inspect_dataset(dataset).label_range) == (1, (3, 3))
        assert "1 pictures are not in labels.csv" in dataset.notes[0]


@pytest.mark.parametrize(
    "wrong",
    [
        {"size": [0, 4]}, {"mean": [0.5, 0.5]}, {"std": [0.0]}, {"shorter_side": 30}, {"colour": "CMYK"},
        {"resize": "crop", "shorter_side": 3}, {"dtype": "uint8", "mean": [1.0]}, {"scale": float("nan")},
        {"sizes": [1, 2]},
    ],
)  # fmt: skip
def test_a_preprocess_object_that_contradicts_itself(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Preprocess.model_validate({"input": "x", "size": [4, 4], **wrong})


@pytest.mark.parametrize("order", ["<", ">"])
def test_groups_and_slices_may_be_texts(tmp_path: Path, order: str) -> None:
    names = np.array(["dåg", "cat", "dåg"]).astype(f"{order}U5")
    np.savez(tmp_path / "data.npz", x=np.zeros((3, 2), np.float32), groups=names)
    with open_dataset(tmp_path / "data.npz") as dataset:
        assert dataset.field("groups").shape == ()
        assert np.dtype(dataset.field("groups").dtype) == np.dtype("=U5")
        blocks = [block["groups"] for block in dataset.batches(2, ["groups"])]
    assert np.concatenate(blocks).tolist() == ["dåg", "cat", "dåg"]


def test_other_texts_and_what_is_no_text_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros(3), words=np.array(["a", "b", "c"]))
    with pytest.raises(RejectedInput) as refused:
        open_dataset(tmp_path / "data.npz")
    assert refused.value.code == "dataset_dtype_unsupported"
    broken = np.full(3, 0x7FFFFFFF, np.uint32).view("<U1")
    np.savez(tmp_path / "data.npz", x=np.zeros(3), groups=broken)
    with open_dataset(tmp_path / "data.npz") as dataset, pytest.raises(RejectedInput) as refused:
        list(dataset.batches(3))
    assert refused.value.code == "truncated"
