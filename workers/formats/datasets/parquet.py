"""Parquet: one column a field, numbers or lists of numbers of one length, read in batches.

Read through a small buffer and page by page, so that memory holds what is decoded at once and not a row
group: pyarrow's own default took 340 MB for one of 130 MB (measured, pyarrow 26).
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from app.domain.dataset import LABELS
from app.domain.model import TensorSpec
from app.errors import RejectedInput
from workers.formats.datasets.interface import Array, Batch, Dataset, check_size, regrouped, supported_dtype
from workers.formats.limits import InputLimits

_MOST_COLUMNS = 1024
_MOST_AXES = 8
_BUFFER_BYTES = 1 << 20
# Decoding lists takes some nine times the memory of their values (measured).
_DECODE_BYTES = 1 << 20
_FOOTER_BYTES = 64 << 20
_INDEX = "__index_level_"

_DAMAGE = (pa.ArrowException, OSError, ValueError, TypeError, KeyError, IndexError, OverflowError, NotImplementedError)


class ParquetDataset(Dataset):
    """A table: columns named after a model's inputs, labels under `labels`.

    Scalar columns give rows of shape (), fixed-size lists and tensors their shape, and lists of any length
    the shape of the first row, which all others must share.
    """

    format = "parquet"

    def __init__(self, path: Path, limits: InputLimits) -> None:
        """Read the footer and the first row.

        Raises RejectedInput `truncated`, `dataset_empty`, `dataset_dtype_unsupported`,
        `dataset_missing_values`, `dataset_rows_differ`, `archive_too_large` or `dataset_row_too_large`.
        """
        _check_footer(path)
        try:
            self._file = pq.ParquetFile(
                path,
                memory_map=False,
                pre_buffer=False,
                buffer_size=_BUFFER_BYTES,
                page_checksum_verification=True,
                thrift_string_size_limit=_FOOTER_BYTES,
                thrift_container_size_limit=1_000_000,
            )
        except _DAMAGE as error:
            raise _damaged() from error
        try:
            self.rows = self._file.metadata.num_rows
            self.notes = self._choose_columns()
            if self.rows < 1:
                raise RejectedInput("The dataset has no rows. Save at least one.", code="dataset_empty")
            self._shapes: dict[str, tuple[int, ...]] = {}
            self.fields = tuple(self._field(name) for name in self._columns)
            check_size(self.fields, self.rows, path.stat().st_size, limits)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def _choose_columns(self) -> tuple[str, ...]:
        names = self._schema().names
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise RejectedInput(
                f"The table has two columns called {twice!r}. Rename one of them.", code="dataset_rows_differ"
            )
        self._columns = [name for name in names if not name.startswith(_INDEX)]
        if not self._columns or len(self._columns) > _MOST_COLUMNS:
            raise RejectedInput(
                f"The table has {len(self._columns)} columns; it needs one for each input of the model, and at most "
                f"{_MOST_COLUMNS} are taken. Put what belongs together into one list column.",
                code="dataset_empty" if not self._columns else "archive_too_large",
            )
        return ("The index that pandas saved is not used.",) if len(self._columns) < len(names) else ()

    def _schema(self) -> pa.Schema:
        try:
            return self._file.schema_arrow
        except _DAMAGE as error:
            raise _damaged() from error

    def _field(self, name: str) -> TensorSpec:
        kind = self._schema().field(name).type
        element, shape = _described(kind)
        if not (pa.types.is_integer(element) or pa.types.is_floating(element) or pa.types.is_boolean(element)):
            hint = " Map labels to whole numbers first." if name == LABELS else ""
            raise RejectedInput(
                f"Column {name!r} has the type {kind}, and fields are numbers or lists of numbers.{hint} Convert it, "
                "or leave the column out.",
                code="dataset_dtype_unsupported",
            )
        dtype = supported_dtype(np.dtype(element.to_pandas_dtype()), name)
        if shape is None:
            shape = next(self._decoded([name], 0, 1, 1))[name].shape[1:]
        self._shapes[name] = shape
        return TensorSpec(name=name, dtype=dtype.name, shape=shape)

    def _read(self, size: int, names: Sequence[str], start: int, stop: int) -> Iterator[Batch]:
        at_once = max(1, min(size, _DECODE_BYTES // max(1, self.row_bytes(names)), 65_536))
        yield from regrouped(self._decoded(names, start, stop, at_once), size)

    def _decoded(self, names: Sequence[str], start: int, stop: int, size: int) -> Iterator[Batch]:
        """Rows in the batches that the file gives, in the shapes that are known by now."""
        groups, row = self._groups_from(start)
        try:
            for record in self._file.iter_batches(size, row_groups=groups, columns=list(names), use_threads=False):
                low, high = max(start - row, 0), min(stop - row, record.num_rows)
                if high > low:
                    part = record.slice(low, high - low)
                    batch = {name: _array(part.column(name), name, row + low) for name in names}
                    for name in names:
                        if batch[name].shape[1:] != self._shapes.get(name, batch[name].shape[1:]):
                            raise _ragged(name)
                    yield batch
                row += record.num_rows
                if row >= stop:
                    return
        except _DAMAGE as error:
            raise _damaged() from error
        raise _damaged()  # fewer rows than the footer promised

    def _groups_from(self, start: int) -> tuple[list[int], int]:
        """The row groups from the one with row `start` on, and the first row of that."""
        metadata, first = self._file.metadata, 0
        for group in range(metadata.num_row_groups):
            count = metadata.row_group(group).num_rows
            if start < first + count:
                return list(range(group, metadata.num_row_groups)), first
            first += count
        raise _damaged()


def _described(kind: pa.DataType) -> tuple[pa.DataType, tuple[int, ...] | None]:
    """Element type and row shape of a column; no shape where only the rows tell."""
    if isinstance(kind, pa.FixedShapeTensorType):
        return kind.value_type, tuple(kind.permuted_shape if hasattr(kind, "permuted_shape") else kind.shape)
    shape: list[int] = []
    fixed = True
    while pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        fixed = fixed and pa.types.is_fixed_size_list(kind)
        shape.append(kind.list_size if pa.types.is_fixed_size_list(kind) else 0)
        kind = kind.value_type
        if len(shape) > _MOST_AXES:
            break
    return kind, tuple(shape) if fixed else None


def _array(column: pa.Array, name: str, first_row: int) -> Array:
    """A column's rows as one array. Raises RejectedInput `dataset_missing_values` or `dataset_rows_differ`."""
    rows = len(column)
    if isinstance(column.type, pa.FixedShapeTensorType):
        _no_nulls(column, name, first_row, rows)
        return np.ascontiguousarray(column.to_numpy_ndarray())
    shape = [rows]
    while not pa.types.is_primitive(column.type):
        _no_nulls(column, name, first_row, rows)
        if pa.types.is_fixed_size_list(column.type):
            length = column.type.list_size
        else:
            lengths = np.diff(np.asarray(column.offsets))
            length = int(lengths[0]) if len(lengths) else 0
            if (lengths != length).any():
                raise _ragged(name)
        shape.append(length)
        column = column.flatten()
    _no_nulls(column, name, first_row, rows)
    values = column.to_numpy(zero_copy_only=False)
    # Arrow's memory is read-only, and what is given out belongs to the reader.
    return np.array(values, dtype=values.dtype.newbyteorder("=")).reshape(shape)


def _no_nulls(column: pa.Array, name: str, first_row: int, rows: int) -> None:
    if not column.null_count:
        return
    at = int(np.flatnonzero(np.asarray(column.is_null()))[0])
    row = first_row + at * rows // max(1, len(column))
    raise RejectedInput(
        f"Column {name!r} has a missing value in row {row}. Fill it in, or leave the row out.",
        code="dataset_missing_values",
    )


def _check_footer(path: Path) -> None:
    """Parquet ends as it begins; the four bytes before are the length of its footer."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - 8))
        tail = file.read()
    if size < 12 or tail[4:] != b"PAR1":
        raise _damaged()
    if int.from_bytes(tail[:4], "little") > min(size, _FOOTER_BYTES):
        raise _damaged()


def _damaged() -> RejectedInput:
    return RejectedInput(
        "The Parquet file is damaged or was cut off. Read it where it was made, then upload the whole file.",
        code="truncated",
    )


def _ragged(name: str) -> RejectedInput:
    return RejectedInput(
        f"The rows of column {name!r} are lists of different lengths. Pad or cut them to one length.",
        code="dataset_rows_differ",
    )
