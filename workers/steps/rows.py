"""The rows that models are run on: a dataset's, or seeded random ones where a job brings none."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from app.domain.dataset import LABELS, Role
from app.domain.measure import Measure
from app.domain.model import is_cache
from app.errors import StepError
from workers.formats.datasets.interface import Dataset
from workers.formats.datasets.opening import open_dataset
from workers.runtimes.session import Array, Port, Session, numpy_dtype
from workers.steps.inputs import DatasetFile, RowSource
from workers.steps.untold import told_by_data, told_by_shapes

Source = Literal["evaluation", "calibration", "synthetic"]

SYNTHETIC_ROWS = 32

_SPATIAL, _LENGTH = 64, 16
"""What a dynamic axis becomes where nothing tells: the side of an image, or the length of a sequence."""

_ID_BOUNDS = (30_000, 10_000, 3_000, 1_000, 300, 100, 30, 10, 2, 1)
"""Tried in turn. The lowest ids of a vocabulary are often unused ones, whose embeddings were never trained."""


class Rows(Protocol):
    """Rows of one source, in their own order, as often as they are asked for."""

    source: Source
    count: int
    notes: tuple[str, ...]

    def size(self, wanted: int) -> int:
        """Rows that a call takes: `wanted`, or what the model fixes."""
        ...

    def feeds(self, size: int = 1, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Array]]:
        """Feeds of `size` rows each from `start` to `stop`.

        The last one holds fewer, or repeats its last row where the model fixes the number of rows.
        """
        ...


class Asking(Protocol):
    """A request that says what rows there are, and which shapes made-up ones have."""

    @property
    def datasets(self) -> Mapping[Role, DatasetFile]: ...

    @property
    def measure(self) -> Measure: ...


def source_of(request: Asking) -> Source:
    """Where a job's rows come from: held-out rows first, then those of calibration."""
    if "evaluation" in request.datasets:
        return "evaluation"
    return "calibration" if "calibration" in request.datasets else "synthetic"


def opened(dataset: DatasetFile, scratch: Path) -> Dataset:
    """Open a dataset of the job, or those of its rows that are meant."""
    rows = None if dataset.rows is None else scratch / dataset.rows
    return open_dataset(scratch / dataset.path, dataset.file_name, dataset.preprocess, rows=rows)


def rows_of(request: Asking, scratch: Path, session: Session) -> Rows:
    """The rows on which a job compares models."""
    source = source_of(request)
    if source == "synthetic":
        return SyntheticRows(session, shapes=request.measure.shapes)
    return DatasetRows(session.inputs, request.datasets[source], scratch, source)


def rows_from(row_source: RowSource, scratch: Path, session: Session) -> Rows:
    """The rows that a measuring child is told to use."""
    if row_source.dataset is None:
        return SyntheticRows(session, shapes=row_source.shapes, seed=row_source.seed)
    return DatasetRows(session.inputs, row_source.dataset, scratch, "evaluation")


def _fixed_size(inputs: Sequence[Port]) -> int | None:
    """How many rows a call takes where the model says so: an input without axes takes one."""
    sizes = [port.shape[0] if port.shape else 1 for port in inputs]
    return min((size for size in sizes if isinstance(size, int)), default=None)


def _filled(feeds: dict[str, Array], size: int, fixed: int | None) -> dict[str, Array]:
    if fixed is None:
        return feeds
    return {
        name: np.concatenate([values, np.repeat(values[-1:], size - len(values), axis=0)])
        if values.ndim and len(values) < size
        else values
        for name, values in feeds.items()
    }


def _empty(port: Port, rows: int) -> Array:
    """A cache before any token."""
    shape = (axis if isinstance(axis, int) else 0 for axis in port.shape[1:])
    return np.zeros((rows, *shape), numpy_dtype(port))


@dataclass(frozen=True, slots=True)
class _Field:
    """How a dataset's field becomes an input."""

    port: Port
    has_batch_axis: bool
    dtype: np.dtype[Any]

    def feed(self, values: Array) -> Array:
        if not self.has_batch_axis:
            values = values[0]
        # An artifact with inputs in half precision makes infinities of large values; its outputs will tell.
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(values, dtype=self.dtype)


class DatasetRows:
    """Rows of an uploaded dataset, with the dtypes that the model's inputs want; caches that it lacks are empty."""

    def __init__(self, inputs: Sequence[Port], dataset: DatasetFile, scratch: Path, source: Source) -> None:
        self._dataset = opened(dataset, scratch)
        self.source: Source = source
        self.count: int = self._dataset.rows
        self.notes: tuple[str, ...] = ()
        fields = {field.name: field for field in self._dataset.fields}
        inputs = told_by_data(inputs, fields)
        self._fields = [
            _Field(
                port,
                has_batch_axis=not port.shape or len(port.shape) > len(fields[port.name].shape or ()),
                dtype=numpy_dtype(port),
            )
            for port in inputs
            if port.name in fields or not is_cache(port.name, port.shape)
        ]
        fed = {field.port.name for field in self._fields}
        self._caches = [port for port in inputs if port.name not in fed]
        batched = all(field.has_batch_axis for field in self._fields)
        self._fixed = _fixed_size(inputs) if batched else 1

    def size(self, wanted: int) -> int:
        return self._fixed or wanted

    def feeds(self, size: int = 1, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Array]]:
        names = [field.port.name for field in self._fields]
        if not names:  # a model without inputs computes the same for every row
            yield from ({} for _ in range(start, self.count if stop is None else stop, size))
            return
        read = max(size, self._dataset.comfortable_size(names) // size * size)
        for block in self._dataset.batches(read, names, start, stop):
            rows = len(next(iter(block.values())))
            for first in range(0, rows, size):
                feeds = {
                    field.port.name: field.feed(block[field.port.name][first : first + size]) for field in self._fields
                }
                rows_fed = len(next(iter(feeds.values())))
                yield _filled(feeds | {port.name: _empty(port, rows_fed) for port in self._caches}, size, self._fixed)

    def has_labels(self, name: str = LABELS) -> bool:
        """Whether there is such an array that is no input of the model."""
        known = any(field.name == name for field in self._dataset.fields)
        return known and all(field.port.name != name for field in self._fields)

    def labels(self, stop: int, name: str = LABELS) -> Array:
        """The labels of the first rows."""
        size = self._dataset.comfortable_size([name])
        blocks = [block[name] for block in self._dataset.batches(size, [name], 0, stop)]
        return np.concatenate(blocks) if blocks else np.empty(0, np.int64)


class SyntheticRows:
    """Seeded random rows of shapes and values that the model accepts.

    Floats are standard normal; integers named after masks are 1 and after segments 0, positions count
    up, and the rest are ids below a bound that the model was seen to take.
    """

    def __init__(
        self,
        session: Session,
        *,
        shapes: Mapping[str, Sequence[int]] | None = None,
        seed: int = 0,
        count: int = SYNTHETIC_ROWS,
    ) -> None:
        self.source: Source = "synthetic"
        self.count = count
        self._inputs = told_by_shapes(session, shapes or {})
        self._fixed = _fixed_size(self._inputs)
        self._seed = seed
        self._shapes, assumed = _row_shapes(self._inputs, shapes or {})
        self.notes: tuple[str, ...] = tuple(assumed)
        self._bound = self._find_bound(session)

    def feeds(self, size: int = 1, start: int = 0, stop: int | None = None) -> Iterator[dict[str, Array]]:
        last = self.count if stop is None else min(stop, self.count)
        for first in range(start, last, size):
            rows = [self._row(index, self._bound) for index in range(first, min(first + size, last))]
            yield _filled(self._stack(rows), size, self._fixed)

    def size(self, wanted: int) -> int:
        return self._fixed or wanted

    def _stack(self, rows: list[dict[str, Array]]) -> dict[str, Array]:
        return {
            port.name: np.stack([row[port.name] for row in rows]) if port.shape else rows[0][port.name]
            for port in self._inputs
        }

    def _row(self, index: int, bound: int) -> dict[str, Array]:
        rng = np.random.default_rng([self._seed, index])
        return {port.name: _values(port, self._shapes[port.name], rng, bound) for port in self._inputs}

    def _find_bound(self, session: Session) -> int:
        """The largest bound of ids with which the model runs: an embedding refuses ids beyond its rows."""
        if not any(_kind(port) == "ids" for port in self._inputs):
            return _ID_BOUNDS[0]
        for bound in _ID_BOUNDS:
            highest = {
                port.name: np.full_like(values, bound - 1) if _kind(port) == "ids" else values
                for port, values in ((port, self._row(0, bound)[port.name]) for port in self._inputs)
            }
            try:
                session.run(_filled(self._stack([highest]), self.size(1), self._fixed))
            except StepError:
                if bound == _ID_BOUNDS[-1]:
                    raise
            else:
                return bound
        raise AssertionError("the loop ends by return or raise")


def _row_shapes(
    inputs: Sequence[Port], given: Mapping[str, Sequence[int]]
) -> tuple[dict[str, tuple[int, ...]], list[str]]:
    """Shapes without the batch axis, and notes about axes that had to be assumed."""
    unknown = sorted(set(given) - {port.name for port in inputs})
    if unknown:
        raise StepError(
            f"measure.shapes names {', '.join(unknown)}, but the model's inputs are "
            f"{', '.join(port.name for port in inputs)}.",
            code="shapes_do_not_fit",
        )
    shapes: dict[str, tuple[int, ...]] = {}
    notes: list[str] = []
    symbols: dict[str, int] = {}
    for port in inputs:
        if port.name in given:
            wanted = given[port.name]
            fits = len(wanted) == len(port.shape) and all(
                not isinstance(size, int) or size == want for size, want in zip(port.shape[1:], wanted[1:], strict=True)
            )
            if not fits:
                raise StepError(
                    f"measure.shapes gives {list(wanted)} for {port.name}, whose shape is {list(port.shape)}.",
                    code="shapes_do_not_fit",
                )
            shapes[port.name] = tuple(wanted[1:])
            symbols.update(
                (axis, size) for axis, size in zip(port.shape[1:], wanted[1:], strict=True) if isinstance(axis, str)
            )
    for port in inputs:
        if port.name in shapes:
            continue
        default = _SPATIAL if len(port.shape) >= 4 else _LENGTH
        row: list[int] = []
        for axis in port.shape[1:]:
            size = axis if isinstance(axis, int) else symbols.get(axis or "", default)
            if isinstance(axis, str):
                symbols.setdefault(axis, size)
            row.append(size)
        shapes[port.name] = tuple(row)
        if any(not isinstance(axis, int) for axis in port.shape[1:]):
            notes.append(
                f"Random rows give the input {port.name} the shape {[1, *row]} a row; "
                "name measure.shapes, or bring data, for shapes as they will be."
            )
    return shapes, notes


def _kind(port: Port) -> Literal["floats", "ids", "mask", "segments", "positions", "flags", "text"]:
    if port.dtype == "bool":
        return "flags"
    if port.dtype == "string":
        return "text"
    if np.issubdtype(numpy_dtype(port), np.floating):
        return "floats"
    name = port.name.lower()
    if "mask" in name:
        return "mask"
    if "token_type" in name or "segment" in name:
        return "segments"
    return "positions" if "position" in name else "ids"


def _values(port: Port, shape: tuple[int, ...], rng: np.random.Generator, bound: int) -> Array:
    kind, dtype = _kind(port), numpy_dtype(port)
    if kind == "floats":
        return rng.standard_normal(shape).astype(dtype)
    if kind == "flags":
        return np.ones(shape, dtype)
    if kind == "text":
        return np.full(shape, "text", dtype)
    if kind == "mask":
        return np.ones(shape, dtype)
    if kind == "segments":
        return np.zeros(shape, dtype)
    if kind == "positions":
        return np.broadcast_to(np.arange(shape[-1] if shape else 1, dtype=dtype), shape).copy()
    return rng.integers(0, min(bound, np.iinfo(dtype).max), shape, dtype=dtype)
