"""What calibration costs beside a plain pass of the float model over the same rows, and whether its memory is flat.

    python -m benchmarks.calibration_cost [lite0] [minilm] [--rows 1000] [--rounds 3]

- plain: the float model, its own outputs, as it comes; emitting: with every observed tensor among its outputs;
- extremes: our pass for min-max and the other methods that ask for extremes alone;
- observed: our pass from which every method reads; ranges: all six methods, from what was observed.

Each runs in turn with the others, `--rounds` times, with as many threads as there are cores; medians. Plain and
emitting run one row after the other, on all threads. `plain abreast` is a plain pass with one row on each core, as our
passes run them, for what of their speed is due to that. All but `ranges` begin with loading the model. Memory: the peak
of a fresh process that observes 10 rows, and of one that observes 1,000 (rows are repeated where there are fewer).
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import get_args

from app.domain.recipe import Calibration, CalibrationMethod, StaticInt8
from benchmarks.models.smoke import WORKLOADS
from benchmarks.models.workload import CACHE, Feed, Workload
from workers.quantization.calibration.collect import collect
from workers.quantization.calibration.ranges import find_range
from workers.quantization.calibration.statistics import Statistics
from workers.quantization.preparation import Prepared
from workers.quantization.recovery.measuring import observed_session
from workers.quantization.static import prepare_for
from workers.runtimes.session import available_threads, load

METHODS: tuple[CalibrationMethod, ...] = get_args(CalibrationMethod)
MOST = {"extremes": 1.8, "observed, and every method": 3.5}
FEW, MANY = 10, 1000
OFTEN = ["lite0", "minilm"]  # without names


def rows_of(workload: Workload, count: int) -> list[Feed]:
    """Calibration rows, from the beginning again where there are fewer."""
    return list(islice(cycle(workload.calibration), count))


class Task:
    """One model, its rows, and the passes over them."""

    def __init__(self, workload: Workload, rows: int, folder: Path) -> None:
        self._rows = rows_of(workload, rows)
        self._folder = folder
        self._threads = available_threads()
        self._prepared: Prepared
        self._prepared, _, placement = prepare_for(workload.model, StaticInt8())
        self._names = placement.observed()
        self._model = workload.model
        inputs = {value.name for value in self._prepared.model.graph.input}
        self._inner = [name for name in self._names if name not in inputs]
        self._seen: Statistics | None = None

    def plain(self) -> None:
        session = load(self._model, threads=self._threads)
        for row in self._rows:
            session.run(row)

    def emitting(self) -> None:
        path = self._folder / "emitting.onnx"
        session = observed_session(self._prepared.model, self._inner, path, threads=self._threads)
        for row in self._rows:
            session.run(row)

    def plain_abreast(self) -> None:
        session = load(self._model)
        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(lambda row: len(session.run(row)), self._rows):
                pass

    def extremes(self) -> None:
        self._collect(histograms=False)

    def observed(self) -> None:
        self._seen = self._collect(histograms=True)

    def _collect(self, *, histograms: bool) -> Statistics:
        def feeds() -> Iterator[tuple[Feed, int]]:
            return ((row, 1) for row in self._rows)

        with tempfile.TemporaryDirectory(dir=self._folder) as name:
            return collect(
                self._prepared.model, self._names, feeds, Path(name), threads=self._threads, histograms=histograms
            )

    def ranges(self) -> None:
        assert self._seen is not None
        for method in METHODS:
            for tensor in self._seen.tensors.values():
                find_range(tensor, Calibration(method=method), bits=8, symmetric=False)


def seconds(run: Callable[[], None]) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def costs(name: str, rows: int, rounds: int) -> bool:
    """Print each pass's share of a plain one; returns whether all are within what they may cost."""
    with tempfile.TemporaryDirectory() as folder:
        task = Task(WORKLOADS[name](CACHE), rows, Path(folder))
        passes = {
            run.__name__: run
            for run in (task.plain, task.plain_abreast, task.emitting, task.extremes, task.observed, task.ranges)
        }
        task.plain()
        found: dict[str, list[float]] = {one: [] for one in passes}
        for _ in range(rounds):
            for one, run in passes.items():
                found[one].append(seconds(run))
    plain = found["plain"]
    ratios = {one: [taken / base for taken, base in zip(found[one], plain, strict=True)] for one in passes}
    both = [one + other for one, other in zip(ratios["observed"], ratios["ranges"], strict=True)]
    print(f"{name}: {rows} rows, a plain pass takes {statistics.median(plain):.2f} s ({rounds} rounds)")
    fine = True
    for label, values in {**ratios, "observed, and every method": both}.items():
        median = statistics.median(values)
        most = MOST.get(label)
        fine &= most is None or median <= most
        held = f"  (may cost {most} ×)" if most else ""
        print(f"  {label:<28}{median:6.2f} ×   {min(values):.2f} to {max(values):.2f}{held}")
    return fine


def memory(name: str) -> bool:
    """Print the peak memory of fresh processes that observe few rows, and many."""
    peaks = {}
    for rows in (FEW, MANY):
        command = [sys.executable, "-m", "benchmarks.calibration_cost", name, "--peak", str(rows)]
        peaks[rows] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    growth = peaks[MANY] / peaks[FEW]
    print(
        f"  peak memory at {FEW} rows {peaks[FEW] / 1e6:.0f} MB, at {MANY} {peaks[MANY] / 1e6:.0f} MB: {growth:.3f} ×"
    )
    return growth <= 1.1


def peak(name: str, rows: int) -> int:
    """Bytes of this process's memory at its highest, once it has observed so many rows."""
    with tempfile.TemporaryDirectory() as folder:
        Task(WORKLOADS[name](CACHE), rows, Path(folder)).observed()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*WORKLOADS, []], help="lite0 and minilm where none is named")
    parser.add_argument("--rows", type=int, default=MANY)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peak", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.peak:
        print(peak(given.models[0], given.peak))
        return
    fine = [costs(name, given.rows, given.rounds) & memory(name) for name in given.models or OFTEN]
    sys.exit(0 if all(fine) else 1)


if __name__ == "__main__":
    main()
