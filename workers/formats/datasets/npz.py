"""NumPy's .npz: one array a member, read row by row straight out of the archive.

Source of the format: numpy.lib.format of NumPy 2. Nothing is ever unpickled.
"""

import io
import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from app.domain.model import TensorSpec
from app.errors import RejectedInput
from workers.formats.archives import CHUNK, unsafe
from workers.formats.datasets.interface import Array, Batch, Dataset, check_size, supported_dtype
from workers.formats.limits import InputLimits, human_bytes
from workers.formats.zip_members import DAMAGE, forbidden, open_zip

_SUFFIX = ".npy"
_MOST_ARRAYS = 1024
_LONGEST_NAME = 1024
_LONGEST_HEADER = 16_384
_LAST_SIGN = 0x10FFFF
"""Of Unicode; what lies beyond is no text, and NumPy would find out when somebody reads it."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """One array as its header describes it; `shape` has the sample axis, `stored` the byte order of the file."""

    member: zipfile.ZipInfo
    stored: np.dtype[Any]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    header_bytes: int

    @property
    def row_bytes(self) -> int:
        return self.stored.itemsize * math.prod(self.shape[1:])


class NpzDataset(Dataset):
    """Arrays named after a model's inputs, first axis the sample; labels under `labels`."""

    format = "npz"

    def __init__(self, path: Path, limits: InputLimits) -> None:
        """Read the headers only.

        Raises RejectedInput `truncated`, `archive_unsafe`, `archive_too_large`, `dataset_pickled`,
        `dataset_dtype_unsupported`, `dataset_rows_differ`, `dataset_empty`, `dataset_row_too_large` or
        `dataset_fortran_order`.
        """
        self._zip = open_zip(path, what="dataset")
        try:
            self._arrays, others = _headers(self._zip)
            self.rows = _common_rows(self._arrays)
            self.fields = tuple(
                TensorSpec(name=name, dtype=_name_of(array.dtype), shape=array.shape[1:])
                for name, array in self._arrays.items()
            )
            check_size(self.fields, self.rows, path.stat().st_size, limits)
            for name, array in self._arrays.items():
                _check_stored(name, array, limits)
        except BaseException:
            self.close()
            raise
        self.notes = (f"Members that are no arrays were passed over: {', '.join(others[:5])}.",) if others else ()

    def close(self) -> None:
        self._zip.close()

    def _read(self, size: int, names: Sequence[str], start: int, stop: int) -> Iterator[Batch]:
        with ExitStack() as stack:
            readers = {name: stack.enter_context(_Rows(self._zip, name, self._arrays[name], start)) for name in names}
            for first in range(start, stop, size):
                count = min(size, stop - first)
                yield {name: reader.next(count) for name, reader in readers.items()}


class _Rows:
    """The rows of one array, in order."""

    def __init__(self, archive: zipfile.ZipFile, name: str, array: _Stored, start: int) -> None:
        self._name = name
        self._array = array
        self._position = start
        self._stream = _opened(archive, name, array.member)
        self._whole = self._read_whole() if array.fortran else None
        if self._whole is None:
            self._skip(array.header_bytes + start * array.row_bytes)

    def next(self, count: int) -> Array:
        """The next `count` rows."""
        if self._whole is not None:
            rows: Array = np.ascontiguousarray(self._whole[self._position : self._position + count])
        else:
            rows = self._decoded(self._taken(count * self._array.row_bytes), (count, *self._array.shape[1:]))
        self._position += count
        if self._position == self._array.shape[0]:
            self._finish()
        return rows

    def __enter__(self) -> "_Rows":
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def _read_whole(self) -> Array:
        """All rows of an array whose first axis runs fastest; `next` then takes slices."""
        self._skip(self._array.header_bytes)
        content = self._taken(self._array.row_bytes * self._array.shape[0])
        return self._decoded(content, self._array.shape[::-1]).T

    def _decoded(self, content: bytearray, shape: tuple[int, ...]) -> Array:
        stored = self._array.stored
        if stored.kind == "b":
            # A byte that is neither 0 nor 1 is no bool to NumPy, and undefined behaviour to others.
            return np.not_equal(np.frombuffer(content, np.uint8), 0).reshape(shape)
        signs = np.dtype(np.uint32).newbyteorder(stored.byteorder)
        if stored.kind == "U" and (np.frombuffer(content, signs) > _LAST_SIGN).any():
            raise _short(self._name)
        return np.frombuffer(content, stored).reshape(shape).astype(self._array.dtype, copy=False)

    def _taken(self, count: int) -> bytearray:
        content = bytearray(count)
        done = 0
        try:
            while done < count:
                block = self._stream.read(min(CHUNK, count - done))
                if not block:
                    raise _short(self._name)
                content[done : done + len(block)] = block
                done += len(block)
        except DAMAGE as error:
            raise _short(self._name) from error
        return content

    def _skip(self, count: int) -> None:
        try:
            reached = self._stream.seek(count)
        except DAMAGE as error:
            raise _short(self._name) from error
        if reached != count:
            raise _short(self._name)

    def _finish(self) -> None:
        """Read past the last row: the checksum is compared only at the end."""
        try:
            self._stream.read(1)
        except DAMAGE as error:
            raise _short(self._name) from error


def _name_of(dtype: np.dtype[Any]) -> str:
    """As NumPy reads it again; the name of text has no length that it would take."""
    return dtype.str if dtype.kind == "U" else dtype.name


def _headers(archive: zipfile.ZipFile) -> tuple[dict[str, _Stored], list[str]]:
    """Every array's header by its name, and the members that are no arrays."""
    arrays: dict[str, _Stored] = {}
    others: list[str] = []
    for member in archive.infolist():
        name = member.filename.removesuffix(_SUFFIX)
        if (why := forbidden(member)) is not None:
            raise unsafe(f"The dataset's member {member.filename[:200]!r} is {why}.")
        if ".." in member.filename.split("/"):
            raise unsafe(f"The dataset has a member that climbs out of its folder, {member.filename[:200]!r}.")
        if name == member.filename or not name:
            others.append(member.filename[:200])
            continue
        if name in arrays:
            raise unsafe(f"The dataset has two arrays called {name[:200]!r}.")
        if len(name) > _LONGEST_NAME or any(ord(character) < 32 for character in name):
            raise unsafe(f"The dataset has an array with an unusable name, {name[:200]!r}.")
        if len(arrays) == _MOST_ARRAYS:
            raise RejectedInput(
                f"The dataset has more than {_MOST_ARRAYS} arrays. Save one array for each input of the model.",
                code="archive_too_large",
            )
        arrays[name] = _header(archive, name, member)
    if not arrays:
        raise RejectedInput(
            "The dataset holds no arrays. Save them with np.savez('data.npz', input=…, labels=…).", code="dataset_empty"
        )
    return arrays, others


def _header(archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> _Stored:
    with _opened(archive, name, member) as stream:
        try:
            major, _ = npy.read_magic(stream)
            # NumPy reads a header of any length that the file claims, and looks at it afterwards.
            length = stream.read(2 if major == 1 else 4)
            header_bytes = stream.tell() + int.from_bytes(length, "little")
            if header_bytes > _LONGEST_HEADER:
                raise _short(name)
            header = io.BytesIO(length + stream.read(header_bytes - stream.tell()))
            # Version 3 differs in the names of record fields alone, which no array here has.
            shape, fortran, stored = (npy.read_array_header_1_0 if major == 1 else npy.read_array_header_2_0)(header)
        except Exception as error:  # NumPy parses the header as Python: tokens, syntax, types, depth …
            raise _short(name) from error
    if any(size < 0 for size in shape):
        raise _short(name)
    dtype = supported_dtype(stored, name)
    return _Stored(member, stored, dtype, shape, fortran and len(shape) > 1, header_bytes)


def _common_rows(arrays: dict[str, _Stored]) -> int:
    """The length of the first axis, which all arrays share. Raises RejectedInput `dataset_rows_differ`."""
    flat = [name for name, array in arrays.items() if not array.shape]
    if flat:
        raise RejectedInput(
            f"Array {flat[0]!r} is a single number without a sample axis. Repeat it for every row, or leave it out.",
            code="dataset_rows_differ",
        )
    rows = {name: array.shape[0] for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        listed = ", ".join(f"{name!r} {count}" for name, count in list(rows.items())[:8])
        raise RejectedInput(
            f"The arrays have different numbers of rows: {listed}. The first axis is the sample and must be as long "
            "everywhere.",
            code="dataset_rows_differ",
        )
    return next(iter(rows.values()))


def _check_stored(name: str, array: _Stored, limits: InputLimits) -> None:
    needed = array.row_bytes * array.shape[0]
    if array.member.file_size != array.header_bytes + needed:
        raise _short(name)
    if array.fortran and needed > limits.whole_array_bytes:
        raise RejectedInput(
            f"Array {name!r} is in Fortran order, so its rows are not stored one after the other, and with "
            f"{human_bytes(needed)} it is too large to be read whole. Save np.ascontiguousarray(array).",
            code="dataset_fortran_order",
        )


def _opened(archive: zipfile.ZipFile, name: str, member: zipfile.ZipInfo) -> IO[bytes]:
    try:
        return archive.open(member)
    except (*DAMAGE, NotImplementedError, RuntimeError) as error:
        raise _short(name) from error


def _short(name: str) -> RejectedInput:
    return RejectedInput(
        f"Array {name[:200]!r} is damaged or was cut off: what is stored does not agree with its header or checksum. "
        "Save the dataset again and upload the whole file.",
        code="truncated",
    )
