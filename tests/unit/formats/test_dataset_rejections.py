"""Every way in which a dataset cannot be used has a code of its own and a sentence that helps."""

import io
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from app.errors import RejectedInput
from tests.unit.formats.rejections import rejected
from workers.formats.datasets.inspection import inspect_dataset
from workers.formats.datasets.opening import open_dataset
from workers.formats.limits import InputLimits

HOW = {"input": "x", "size": [4, 4]}


def inspect(path: Path, preprocess: dict[str, Any] | None = None, **limits: float) -> None:
    with open_dataset(path, "data", preprocess, InputLimits.model_validate(limits)) as dataset:
        inspect_dataset(dataset)


def npz(path: Path, *, packed: bool = False, **arrays: Any) -> Path:
    with path.open("wb") as file:
        (np.savez_compressed if packed else np.savez)(file, allow_pickle=True, **arrays)
    return path


def npz_of(path: Path, members: dict[str, bytes], *, packed: bool = False) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return path


def npy(header: str, content: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    length = struct.pack("<H" if version[0] == 1 else "<L", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header.encode() + content


def header(shape: str, descr: str = "'<f4'") -> str:
    return f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}\n"


def table(path: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


# What it is


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "data").touch()
    with rejected("empty_file"):
        inspect(tmp_path / "data")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a,b\n1,2\n", "np.savez"),
        (npy(header("(2,)"), bytes(8)), "single NumPy array"),
        (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5"),
        (b'{"rows": []}', "JSON"),
    ],
)
def test_something_else(content: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(content)
    with rejected("dataset_format_unknown", words, "'data'"):
        inspect(tmp_path / "data")


def test_a_pickle(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(pickle.dumps({"x": [1, 2]}))
    with rejected("dataset_pickled", "np.savez"):
        inspect(tmp_path / "data")


def test_pictures_without_a_preprocess_object(tmp_path: Path) -> None:
    with rejected("preprocess_missing", "preprocess"):
        inspect(npz_of(tmp_path / "data", {"a.png": b"x"}))


# NumPy


class Trap:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("packed", [False, True])
def test_pickled_arrays_are_refused_and_never_unpickled(packed: bool, tmp_path: Path) -> None:
    trap = np.array([Trap(tmp_path / "sprung")], dtype=object)
    path = npz(tmp_path / "data", packed=packed, x=np.ones(1, np.float32), labels=trap)
    with rejected("dataset_pickled", "'labels'"):
        inspect(path)
    assert not (tmp_path / "sprung").exists()
    with np.load(path, allow_pickle=True) as loaded:  # the trap works where pickles are read
        loaded["labels"]
    assert (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "array",
    [
        np.array(["a", "b"]),
        np.array([b"a", b"b"]),
        np.array([1j, 2j]),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(2, [("a", "f4"), ("b", "i4")]),
        np.zeros(2, np.longdouble),
    ],
)
def test_types_that_no_model_takes(array: Any, tmp_path: Path) -> None:
    with rejected("dataset_dtype_unsupported", "'x'"):
        inspect(npz(tmp_path / "data", x=array))


def test_labels_that_are_text_hear_what_to_do(tmp_path: Path) -> None:
    with rejected("dataset_dtype_unsupported", "Map labels to whole numbers"):
        inspect(npz(tmp_path / "data", labels=np.array(["cat", "dog"])))


def test_arrays_with_different_numbers_of_rows(tmp_path: Path) -> None:
    with rejected("dataset_rows_differ", "'x' 3", "'labels' 4"):
        inspect(npz(tmp_path / "data", x=np.ones((3, 2)), labels=np.ones(4)))


def test_an_array_without_a_sample_axis(tmp_path: Path) -> None:
    with rejected("dataset_rows_differ", "'k'", "sample axis"):
        inspect(npz(tmp_path / "data", x=np.ones((3, 2)), k=np.float32(1)))


@pytest.mark.parametrize("arrays", [{"x": np.ones((0, 3))}, {}])
def test_no_rows(arrays: dict[str, Any], tmp_path: Path) -> None:
    with rejected("dataset_empty"):
        inspect(npz(tmp_path / "data", **arrays))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("value", "words"),
    [(np.nan, "NaN in row 4321"), (np.inf, "infinity in row 4321"), (-np.inf, "infinity in row 4321")],
)
def test_values_that_are_no_numbers(value: float, words: str, packed: bool, tmp_path: Path) -> None:
    x = np.zeros((5000, 600), np.float32)
    x[4321, 599] = x[4500, 0] = value
    with rejected("dataset_not_finite", "'x'", words):
        inspect(npz(tmp_path / "data", packed=packed, x=x, y=np.ones(5000)))


@pytest.mark.parametrize(
    "content",
    [
        npy(header("(2, 3)"), bytes(23)),
        npy(header("(2, 3)"), bytes(25)),
        npy(header("(-2, 3)"), bytes(24)),
        npy(header("(2.5,)"), bytes(8)),
        npy("{'descr': '<f4'}\n", bytes(8)),
        npy("__import__('os').abort()\n"),
        npy("(" * 9000 + "\n"),
        npy(header("(2,)"), bytes(8))[:9],
        b"not an array",
        b"",
    ],
)
def test_arrays_that_do_not_agree_with_their_headers(content: bytes, tmp_path: Path) -> None:
    with rejected("truncated", "'x'"):
        inspect(npz_of(tmp_path / "data", {"x.npy": content}))


def test_a_header_that_would_fill_the_memory(tmp_path: Path) -> None:
    content = npy("{" + " " * (100 << 20), version=(2, 0))
    with rejected("truncated", "'x'"):
        inspect(npz_of(tmp_path / "data", {"x.npy": content}, packed=True))


@pytest.mark.parametrize("kept", [0.2, 0.7, 0.98])
def test_a_dataset_that_was_cut_off(kept: float, tmp_path: Path) -> None:
    path = npz(tmp_path / "data", x=np.random.default_rng(0).normal(size=(100, 50)))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with rejected("truncated", "cut off"):
        inspect(path)


@pytest.mark.parametrize("packed", [False, True])
def test_a_byte_that_was_altered(packed: bool, tmp_path: Path) -> None:
    path = npz(tmp_path / "data", packed=packed, x=np.random.default_rng(0).integers(0, 99, (100, 50)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)
    with rejected("truncated", "'x'"):
        inspect(path)


def test_members_that_climb(tmp_path: Path) -> None:
    with rejected("archive_unsafe", "climbs"):
        inspect(npz_of(tmp_path / "data", {"../x.npy": npy(header("(2,)"), bytes(8))}))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_two_arrays_of_one_name(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "data", "w") as archive:
        for _ in range(2):
            archive.writestr("x.npy", npy(header("(2,)"), bytes(8)))
    with rejected("archive_unsafe", "'x'"):
        inspect(tmp_path / "data")


# Bombs


def test_a_bomb_by_ratio(tmp_path: Path) -> None:
    path = npz(tmp_path / "data", packed=True, x=np.zeros((1100, 1 << 16), np.uint8))
    assert path.stat().st_size < 100_000
    with rejected("archive_too_large", "68.8 MiB"):
        inspect(path)


def test_more_than_is_taken(tmp_path: Path) -> None:
    with rejected("archive_too_large", "1.0 MiB"):
        inspect(npz(tmp_path / "data", x=np.ones((100, 10_000), np.float32)), unpacked_bytes=1 << 20)


@pytest.mark.parametrize("shape", ["(1000000000000,)", "(2, 1000000000000000000000)", "(10, 1000000000)"])
def test_a_shape_that_promises_too_much(shape: str, tmp_path: Path) -> None:
    with pytest.raises(RejectedInput) as caught:
        inspect(npz_of(tmp_path / "data", {"x.npy": npy(header(shape), bytes(64))}))
    assert caught.value.code in ("archive_too_large", "dataset_row_too_large")


def test_a_row_that_is_a_whole_dataset(tmp_path: Path) -> None:
    with rejected("dataset_row_too_large", "first axis"):
        inspect(npz(tmp_path / "data", x=np.ones((1, 100_000))), row_bytes=1000)


def test_fortran_order_that_would_fill_the_memory(tmp_path: Path) -> None:
    with rejected("dataset_fortran_order", "ascontiguousarray"):
        inspect(npz(tmp_path / "data", x=np.asfortranarray(np.ones((100, 100)))), whole_array_bytes=1000)


# Parquet


@pytest.mark.parametrize(
    "column",
    [pa.array(["a", "b"]), pa.array([[["a"]], [["b"]]]), pa.array([{"a": 1}, {"a": 2}]), pa.array([b"x", b"y"]),
     pa.array(["a", "b"]).dictionary_encode(), pa.array([1, 2], pa.timestamp("s"))],
)  # fmt: skip
def test_columns_that_no_model_takes(column: pa.Array, tmp_path: Path) -> None:
    with rejected("dataset_dtype_unsupported", "'x'"):
        inspect(table(tmp_path / "data", y=[1, 2], x=column))


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.0] * 99 + [None]),
        pa.array([[1.0, 2.0]] * 99 + [None]),
        pa.array([[1.0, 2.0]] * 99 + [[3.0, None]]),
        pa.array([[1, 2]] * 99 + [None], pa.list_(pa.int64(), 2)),
    ],
)
def test_missing_values(column: pa.Array, tmp_path: Path) -> None:
    with rejected("dataset_missing_values", "'x'", "row 99"):
        inspect(table(tmp_path / "data", x=column))


@pytest.mark.parametrize("column", [[[1, 2], [1, 2, 3]], [[1, 2]] * 70_000 + [[1]], [[[1], [2]], [[1, 2], [3]]]])
def test_lists_of_different_lengths(column: list[Any], tmp_path: Path) -> None:
    with rejected("dataset_rows_differ", "'x'"):
        inspect(table(tmp_path / "data", x=column))


def test_no_rows_of_a_table(tmp_path: Path) -> None:
    with rejected("dataset_empty"):
        inspect(table(tmp_path / "data", x=pa.array([], pa.float32())))


def test_values_of_a_table_that_are_no_numbers(tmp_path: Path) -> None:
    with rejected("dataset_not_finite", "'x'", "row 1"):
        inspect(table(tmp_path / "data", x=[[1.0], [float("nan")]]))


def test_a_table_that_repeats_one_value_beyond_measure(tmp_path: Path) -> None:
    path = table(tmp_path / "data", x=pa.array(np.zeros(20_000_000)))
    assert path.stat().st_size < 1_000_000
    with rejected("archive_too_large", "152.6 MiB"):
        inspect(path)


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_a_table_that_was_cut_off(kept: float, tmp_path: Path) -> None:
    path = table(tmp_path / "data", x=np.random.default_rng(0).normal(size=1000))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with rejected("truncated", "Parquet"):
        inspect(path)


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["x", "x"]), tmp_path / "data")
    with rejected("dataset_rows_differ", "'x'"):
        inspect(tmp_path / "data")


# Pictures


def picture(kind: str = "PNG", mode: str = "RGB", size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size).save(buffer, kind)
    return buffer.getvalue()


def images(path: Path, text: str | bytes | None = "file,label\na.png,0\n", **files: bytes) -> Path:
    members = {name.replace("_", "."): content for name, content in files.items()}
    if text is not None:
        members["labels.csv"] = text if isinstance(text, bytes) else text.encode()
    return npz_of(path, members)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"no picture", "dataset_image_damaged"),
        (picture()[:45], "dataset_image_damaged"),
        (picture("GIF"), "dataset_image_damaged"),
        (picture(mode="I;16"), "dataset_image_damaged"),
        (picture(size=(300, 300)), "dataset_image_too_large"),
        (bytes(3000), "archive_too_large"),
    ],
)
def test_pictures_that_cannot_be_read(content: bytes, code: str, tmp_path: Path) -> None:
    with rejected(code, "'a.png'"):
        inspect(images(tmp_path / "data", a_png=content), HOW, image_pixels=10_000, image_bytes=2000)


@pytest.mark.parametrize(
    "text",
    [
        "name,class\na.png,0\n", "", "file,label\na.png,cat\n", "file,label\na.png\n", "file,label\na.png,1.5\n",
        "file,label\na.png,99999999999999999999\n", b"file,label\na.png,\xff\n", 'file,label\n"a.png,0\n',
    ],
)  # fmt: skip
def test_a_table_of_labels_that_cannot_be_read(text: str | bytes, tmp_path: Path) -> None:
    with rejected("dataset_labels_invalid", "labels.csv", "file,label"):
        inspect(images(tmp_path / "data", text, a_png=picture()), HOW)


def test_a_picture_that_is_not_there(tmp_path: Path) -> None:
    with rejected("dataset_file_missing", "'b.png'", "row 1"):
        inspect(images(tmp_path / "data", "file,label\na.png,0\nb.png,1\n", a_png=picture()), HOW)


def test_no_pictures(tmp_path: Path) -> None:
    for text in ("file,label\n", None):
        with rejected("dataset_empty"):
            inspect(images(tmp_path / "data", text, readme_txt=b"x"), HOW)


def test_more_pictures_than_are_taken(tmp_path: Path) -> None:
    with rejected("archive_too_large", "at most 5"):
        inspect(images(tmp_path / "data", "file,label\n" + "a.png,0\n" * 10, a_png=picture()), HOW, rows=5)


def test_pictures_that_climb(tmp_path: Path) -> None:
    with rejected("archive_unsafe", "climbs"):
        inspect(npz_of(tmp_path / "data", {"../a.png": picture()}), HOW)


# Anything at all


def seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        made: list[Callable[[], Path]] = [
            lambda: npz(path, x=np.ones((3, 2), np.float32), labels=np.arange(3)),
            lambda: npz(path, packed=True, x=np.ones((3, 2), np.float32)),
            lambda: table(path, x=[[1.0, 2.0], [3.0, 4.0]], labels=[0, 1]),
            lambda: images(path, a_png=picture()),
        ]
        return [make().read_bytes() for make in made]


SEEDS = seeds()


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_altered_datasets_raise_nothing_but_rejections(data: st.DataObject) -> None:
    content = bytearray(data.draw(st.sampled_from(SEEDS)))
    for _ in range(data.draw(st.integers(0, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(1, len(content))) :]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data"
        path.write_bytes(content)
        with suppress(RejectedInput):
            inspect(path, HOW)
