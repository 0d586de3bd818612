"""Run a model over rows and keep what it puts out, without holding it all in memory."""

import json
import time
import zipfile
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from app.errors import StepError
from workers.runtimes.session import Array, Port, Session, available_threads
from workers.steps.inputs import Progress
from workers.steps.rows import Rows

MOST_BYTES = 2**30
"""Outputs kept of one model. Of more, those that no metric looks at are left out; of still more, the last rows."""

_REPORTS = 100

_WORTH_THREADS_SECONDS = 0.005
"""Measured on 2 cores: a net of 0.3 ms a row takes 1.4 s of processor time for 3,000 rows with one thread, 3.0 s
with two, and no less time by the clock."""


Every = Callable[[Mapping[str, Array]], bool]
"""Told the outputs of the next rows, float32 [rows, …] by name; whether it wants further ones."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What was kept of a model's outputs over some rows.

    `rows` are the first rows of the source. `file` is an `.npz` with one float32 array [rows, …] an
    output. `unusual` counts the rows with a value that is infinite or not a number, by output, `undefined` those with
    one that is no number. `running_seconds` is the time spent in the model's own calls.
    """

    file: Path
    rows: int
    names: tuple[str, ...]
    unusual: dict[str, int]
    notes: tuple[str, ...]
    undefined: dict[str, int] = field(default_factory=dict)
    running_seconds: float = 0.0


@dataclass(slots=True)
class _Column:
    """One output on its way to disk."""

    name: str
    path: Path
    shape: tuple[int, ...]
    values: Array
    unusual: int = 0
    undefined: int = 0
    position: int = field(default=0)

    def add(self, rows: Array) -> None:
        self.values[self.position : self.position + len(rows)] = rows
        unusual = rows[(~np.isfinite(rows).reshape(len(rows), -1)).any(axis=1)]
        self.unusual += len(unusual)
        self.undefined += int(np.isnan(unusual).reshape(len(unusual), -1).any(axis=1).sum()) if len(unusual) else 0
        self.position += len(rows)


class _Ledger:
    """How far a run over rows has come, on disk: a process that is killed leaves what it had."""

    def __init__(self, file: Path, names: Sequence[str], rows: int, size: int) -> None:
        self._files = (_beside(file, "begun.json"), _beside(file, "done.npy"))
        begun, done = self._files
        self._done = open_memmap(done, mode="w+", dtype=np.int64, shape=(1,))
        begun.write_text(json.dumps({"names": list(names), "rows": rows, "size": size}))

    def write(self, done: int) -> None:
        self._done[0] = done

    def remove(self) -> None:
        for path in self._files:
            path.unlink()


@dataclass(frozen=True, slots=True)
class SoFar:
    """What `run_over` had kept when it was ended: of `rows` rows, run `size` at a time, the first `done`."""

    done: int
    rows: int
    size: int
    outputs: dict[str, Array]


def kept_so_far(file: Path) -> SoFar | None:
    """What a run over rows that did not end left beside `file`; None where it left nothing."""
    begun, done_file = _beside(file, "begun.json"), _beside(file, "done.npy")
    if not begun.is_file():
        return None
    said = json.loads(begun.read_text())
    done = int(np.load(done_file, allow_pickle=False)[0])
    # A column whose shape changed on the way is gone.
    columns = {name: _beside(file, f"{number}.npy") for number, name in enumerate(said["names"])}
    outputs = {
        name: np.load(path, mmap_mode="r", allow_pickle=False)[:done]
        for name, path in columns.items()
        if path.is_file()
    }
    return SoFar(done, int(said["rows"]), int(said["size"]), outputs)


def _beside(file: Path, name: str) -> Path:
    return file.with_name(f"{file.stem}-{name}")


def worthwhile_threads(session: Session, rows: Rows, batch: int = 1) -> int:
    """Threads for running over rows untimed: all cores for slow models, one for those that threads only hinder.

    `session` has one thread; it is run up to three times, since a first call, or one that was
    interrupted, says little. Raises StepError `model_does_not_run`.
    """
    feeds = next(rows.feeds(rows.size(batch)), None)
    if feeds is None:
        return 1
    for _ in range(3):
        started = time.perf_counter()
        _run(session, feeds, None, rows, 0, min(rows.size(batch), rows.count))
        if time.perf_counter() - started < _WORTH_THREADS_SECONDS:
            return 1
    return available_threads()


def run_over(
    session: Session,
    rows: Rows,
    file: Path,
    progress: Progress,
    *,
    batch: int = 1,
    wanted: Sequence[str] | None = None,
    needed: Collection[str] = (),
    most_rows: int | None = None,
    most_bytes: int | None = None,
    every: Every | None = None,
) -> Kept:
    """Run over the rows, `batch` at a time where the model allows it, and keep the outputs as `file`.

    At most `most_rows` are kept, and `most_bytes` (1 GiB) of outputs. Where all outputs would be more than that, only
    those that are `needed` are kept, if any are named. No more rows are run than are kept, unless `every` is given:
    where not all are kept, it is told what each puts out, for as long as it asks for more.
    Outputs that are no tensors of numbers, or whose shape changes from row to row, are left out with a
    note. A run that is ended from outside leaves what `kept_so_far` reads. Raises StepError `model_does_not_run`, with
    the row, `dataset_empty`, `output_mixes_rows`, or `no_usable_output` where nothing can be kept.
    """
    if rows.count == 0:
        raise StepError(f"The {rows.source} dataset has no rows.", code="dataset_empty")
    most_bytes = MOST_BYTES if most_bytes is None else most_bytes
    notes: list[str] = []
    ports = [port for port in session.outputs if wanted is None or port.name in wanted]
    usable = [port for port in ports if port.is_tensor and port.dtype != "string"]
    if len(usable) < len(ports):
        left = [port.name for port in ports if port not in usable]
        notes.append(f"Outputs that are no tensors of numbers are not compared: {', '.join(left)}.")

    size = rows.size(batch)
    if size == batch and not all(_by_row(port) for port in usable):
        size = rows.size(1)
    columns: dict[str, _Column] = {}
    ledger: _Ledger | None = None
    available = rows.count if most_rows is None else min(rows.count, most_rows)
    kept = available
    # How many are run: more than are kept where somebody looks at each.
    last = available
    done = 0
    running = 0.0
    for feeds in rows.feeds(size):
        if done >= last or not usable:
            break
        count = min(size, rows.count - done)
        started = time.perf_counter()
        outputs = _run(session, feeds, [port.name for port in usable], rows, done, count)
        running += time.perf_counter() - started
        found = {port.name: _rows(output, size, count) for port, output in zip(usable, outputs, strict=True)}
        if not columns:
            bytes_a_row = _bytes_a_row(found.values())
            if bytes_a_row * available > most_bytes and (useless := [each for each in found if each not in needed]):
                usable = [port for port in usable if port.name in needed] or usable
                left = [name for name in useless if all(port.name != name for port in usable)]
                found = {port.name: found[port.name] for port in usable}
                bytes_a_row = _bytes_a_row(found.values())
                notes += [f"The outputs are large: {len(left)} that no metric looks at were not kept."] if left else []
            kept = min(available, max(1, most_bytes // max(1, bytes_a_row)))
            last = rows.count if every is not None and kept < rows.count else kept
            columns = {
                name: _column(file, index, name, kept, values.shape[1:])
                for index, (name, values) in enumerate(found.items())
            }
            ledger = _Ledger(file, list(columns), kept, size)
        if every is not None and kept < last and not every(found):
            last = kept
        for port in list(usable) if done < kept else ():
            column, values = columns[port.name], found[port.name]
            if values.shape[1:] != column.shape:
                usable.remove(port)
                _forget(columns.pop(port.name))
                notes.append(f"The shape of the output {port.name} changes from row to row, so it is not compared.")
            else:
                column.add(values[: kept - done])
        done = min(done + count, last)
        if ledger is not None:
            ledger.write(min(done, kept))
        if done % max(1, last // _REPORTS) < count:
            progress(done / last, f"{done} of {last} rows")
    if not columns:
        raise StepError(
            "The model has no output that can be compared: a tensor of numbers with one shape for every row.",
            code="no_usable_output",
        )
    if kept < available:
        notes.append(
            f"The outputs are large: the first {kept} of {available} rows were run and compared "
            f"({most_bytes // 2**20} MB)."
            if last == kept
            else f"The outputs are large: those of the first {kept} of {available} rows were kept to be compared "
            f"({most_bytes // 2**20} MB). Metrics that take a row with its labels alone are those of all {available}."
        )
    _pack(file, columns)
    if ledger is not None:
        ledger.remove()
    return Kept(
        file=file,
        rows=kept,
        names=tuple(columns),
        unusual={column.name: column.unusual for column in columns.values() if column.unusual},
        notes=tuple(notes),
        undefined={column.name: column.undefined for column in columns.values() if column.undefined},
        running_seconds=round(running, 3),
    )


def _run(
    session: Session, feeds: dict[str, Array], wanted: Sequence[str] | None, rows: Rows, done: int, count: int
) -> list[Array]:
    """One call on `count` rows from `done` on; a failure names them."""
    try:
        return session.run(feeds, wanted)
    except StepError as error:
        named = f"row {done}" if count == 1 else f"rows {done} to {done + count - 1}"
        if rows.source == "synthetic":
            where = f"With random {named}"
            advice = "Bring data, or name measure.shapes, if real rows are not like that."
        else:
            where = f"With {named} of the {rows.source} dataset (the first is row 0)"
            advice = "Mend the model, or the rows."
        raise StepError(f"{where}: {error.detail.rstrip('. ')}. {advice}", code=error.code) from error


def _bytes_a_row(outputs: Iterable[Array]) -> int:
    return sum(4 * int(np.prod(values.shape[1:])) for values in outputs)


def _by_row(port: Port) -> bool:
    """Whether an output's first axis can be the batch: neither missing nor of fixed length."""
    return bool(port.shape) and not isinstance(port.shape[0], int)


def _rows(output: Array, size: int, count: int) -> Array:
    """An output as float32 rows [count, …]. What a call of one row put out is a row whatever its shape."""
    if output.ndim and output.shape[0] in (size, count):
        rows = output[:count]
    elif size == 1:
        rows = output[np.newaxis]
    else:
        raise StepError(
            f"With {size} rows a call, an output has {output.shape[0] if output.ndim else 'no'} rows; "
            "set measure.batch to [1].",
            code="output_mixes_rows",
        )
    return rows.astype(np.float32)


def _column(file: Path, index: int, name: str, rows: int, shape: tuple[int, ...]) -> _Column:
    path = _beside(file, f"{index}.npy")
    return _Column(name, path, shape, open_memmap(path, mode="w+", dtype=np.float32, shape=(rows, *shape)))


def _forget(column: _Column) -> None:
    column.values = np.empty(0, np.float32)
    column.path.unlink()


def _pack(file: Path, columns: dict[str, _Column]) -> None:
    """Put the columns into one uncompressed `.npz`; NumPy's own `savez` wants them in memory."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for column in columns.values():
            column.values.flush()  # type: ignore[attr-defined]
            # A fixed time, so that the same outputs give the same bytes.
            entry = zipfile.ZipInfo(f"{column.name}.npy", (1980, 1, 1, 0, 0, 0))
            with column.path.open("rb") as source, archive.open(entry, "w", force_zip64=True) as target:
                while block := source.read(2**20):
                    target.write(block)
            _forget(column)
