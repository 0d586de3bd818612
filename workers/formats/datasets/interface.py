"""What every dataset is to those who read it: named fields of rows, in batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from hashlib import blake2b
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from app.domain.dataset import GROUPS, LABELS, SLICES
from app.domain.model import TensorSpec
from app.errors import RejectedInput
from workers.formats.limits import InputLimits, human_bytes

Array = NDArray[Any]
Batch = dict[str, Array]

# What is read at once where nobody says how much: enough to be fast, little enough to forget.
_READ_BYTES = 4 << 20
_DIGEST_BYTES = 16


class Dataset(ABC):
    """Rows of named arrays, read in order and never all at once.

    `fields` have shapes without the sample axis; all fields have `rows` rows. Every array that comes out is
    C-contiguous, in native byte order, and the reader's own to change.
    """

    format: Literal["npz", "parquet", "images"]
    rows: int
    fields: tuple[TensorSpec, ...]
    notes: tuple[str, ...] = ()

    @abstractmethod
    def close(self) -> None:
        """Let go of the file."""

    @abstractmethod
    def _read(self, size: int, names: Sequence[str], start: int, stop: int) -> Iterator[Batch]:
        """Rows `start` to `stop` of the named fields, `size` at a time; the last batch may be smaller."""

    def batches(
        self, size: int, names: Iterable[str] | None = None, start: int = 0, stop: int | None = None
    ) -> Iterator[Batch]:
        """Arrays by name, `size` rows at a time (first axis), from row `start` up to, not with, row `stop`.

        Without `names`, every field. Raises RejectedInput where the file turns out to be damaged, and
        KeyError for a name that is no field.
        """
        if size < 1:
            raise ValueError("a batch has at least one row")
        wanted = [self.field(name).name for name in names] if names is not None else [spec.name for spec in self.fields]
        start, stop, _ = slice(start, stop).indices(self.rows)
        return self._read(size, wanted, start, stop) if wanted and start < stop else iter(())

    def read_numbers(self, size: int, names: Sequence[str], numbers: Array) -> Iterator[Batch]:
        """The rows with these numbers, which ascend, `size` at a time.

        Read in one go from the first to the last and picked out: what is packed cannot be skipped without being read.
        """
        return regrouped(self._picked(names, numbers), size)

    def _picked(self, names: Sequence[str], numbers: Array) -> Iterator[Batch]:
        place = int(numbers[0])
        for batch in self._read(self.comfortable_size(names), names, place, int(numbers[-1]) + 1):
            count = len(next(iter(batch.values())))
            low, high = np.searchsorted(numbers, (place, place + count))
            if low < high:
                within = numbers[low:high] - place
                yield {name: array[within] for name, array in batch.items()}
            place += count

    def field(self, name: str) -> TensorSpec:
        """The field of that name. Raises KeyError."""
        for spec in self.fields:
            if spec.name == name:
                return spec
        raise KeyError(name)

    @property
    def has_labels(self) -> bool:
        return any(spec.name == LABELS for spec in self.fields)

    def row_digests(self, names: Iterable[str] | None = None) -> Iterator[bytes]:
        """A digest of each row's content, to find rows that two datasets share.

        Over the named fields, without `names` over all but the labels; the same row has the same digest in
        every format. Name the model's inputs, so that an extra array of row numbers hides no overlap.
        """
        chosen = sorted(names if names is not None else (spec.name for spec in self.fields if spec.name != LABELS))
        headings = {name: f"{name}\0{self.field(name).dtype}{self.field(name).shape}\0".encode() for name in chosen}
        for batch in self.batches(self.comfortable_size(chosen), chosen):
            # Of one byte order on every machine.
            stored = {name: array.astype(array.dtype.newbyteorder("<"), copy=False) for name, array in batch.items()}
            for row in range(len(next(iter(stored.values())))):
                digest = blake2b(digest_size=_DIGEST_BYTES)
                for name in chosen:
                    digest.update(headings[name])
                    digest.update(stored[name][row].tobytes())
                yield digest.digest()

    def row_bytes(self, names: Iterable[str] | None = None) -> int:
        """Bytes of one row of the named fields, or of all."""
        chosen = self.fields if names is None else [self.field(name) for name in names]
        return sum(spec_bytes(spec) for spec in chosen)

    def comfortable_size(self, names: Iterable[str] | None = None) -> int:
        """Rows to read at once where only reading matters."""
        return max(1, min(_READ_BYTES // max(1, self.row_bytes(names)), 65_536))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def spec_bytes(spec: TensorSpec) -> int:
    """Bytes of one row of a field."""
    size = np.dtype(spec.dtype).itemsize
    for length in spec.shape or ():
        size *= length if isinstance(length, int) else 1
    return size


def supported_dtype(dtype: np.dtype[Any], name: str) -> np.dtype[Any]:
    """The native form of a dtype that a field may have.

    Groups and slices may be text. Raises RejectedInput `dataset_pickled` for objects and `dataset_dtype_unsupported`
    for the rest.
    """
    if dtype.hasobject:
        raise RejectedInput(
            f"Array {name!r} holds Python objects, which are stored as pickles that could run code. Save it with a "
            "number type, for example np.stack(rows).astype(np.float32).",
            code="dataset_pickled",
        )
    if dtype.kind == "U" and name in (GROUPS, SLICES) and dtype.itemsize:
        return dtype.newbyteorder("=")
    # No float128: it means another thing on every platform, and no model takes it.
    if dtype.kind not in "fiub" or dtype.itemsize > 8:
        hint = " Map labels to whole numbers first." if name == LABELS else ""
        raise RejectedInput(
            f"Array {name!r} has the type {dtype}, which no model input has. Save it as a float, an integer or "
            f"bool.{hint}",
            code="dataset_dtype_unsupported",
        )
    return dtype.newbyteorder("=")


def check_size(fields: Iterable[TensorSpec], rows: int, packed_bytes: int, limits: InputLimits) -> None:
    """Refuse more than the limits allow, by shapes alone and before anything is read.

    Raises RejectedInput `dataset_empty`, `archive_too_large` or `dataset_row_too_large`.
    """
    if rows == 0:
        raise RejectedInput("The dataset has no rows. Save at least one.", code="dataset_empty")
    row = sum(spec_bytes(spec) for spec in fields)
    if row > limits.row_bytes:
        raise RejectedInput(
            f"One row takes {human_bytes(row)}, and at most {human_bytes(limits.row_bytes)} are taken. Is the first "
            "axis of every array the sample?",
            code="dataset_row_too_large",
        )
    total = row * rows
    most = min(limits.unpacked_bytes, max(limits.ratio_from_bytes, int(limits.ratio * packed_bytes)))
    if total > most:
        raise RejectedInput(
            f"The arrays take {human_bytes(total)} once read, and at most {human_bytes(most)} are taken of a file with "
            f"{human_bytes(packed_bytes)}. Use fewer rows, or save them uncompressed (np.savez).",
            code="archive_too_large",
        )


def regrouped(parts: Iterable[Mapping[str, Array]], size: int) -> Iterator[Batch]:
    """The same rows in batches of exactly `size`, the last one excepted."""
    held: list[Mapping[str, Array]] = []
    count = 0
    for part in parts:
        held.append(part)
        count += len(next(iter(part.values())))
        while count >= size:
            whole = _joined(held)
            yield {name: np.ascontiguousarray(array[:size]) for name, array in whole.items()}
            count -= size
            held = [{name: array[size:] for name, array in whole.items()}] if count else []
    if count:
        yield {name: np.ascontiguousarray(array) for name, array in _joined(held).items()}


def _joined(parts: Sequence[Mapping[str, Array]]) -> Mapping[str, Array]:
    if len(parts) == 1:
        return parts[0]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


Progress = Callable[[float, str], None]
"""Told how far something is, from 0 to 1, and what it does."""
