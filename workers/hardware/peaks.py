"""The ceilings of a machine: what small kernels reach of multiply-adds, and plain passes of memory bandwidth.

A ceiling is the best of many short windows: other work on the machine can only lower a window. That the median lies
near the best tells that it was no lucky one.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from app.domain.target import NEIGHBOURS, SHAKY, Fingerprint, Peak, Peaks, Resource, Unit
from workers.hardware.processor_times import read_processor_times

Clock = Callable[[], float]
"""A monotonic count of seconds."""

SIDES: dict[Resource, int] = {"fp32": 512, "int8": 768}
"""Sides of the square matrices. Measured (AVX-512 with VNNI, onnxruntime 1.32): 256 and 1024 reach 92 and 87 % of
the fp32 rate of 512; 384 and 1024 89 and 98 % of the int8 rate of 768."""

_KERNEL_SECONDS = 0.07  # for each type and number of threads
_PASSES_SECONDS = 0.06  # for each kind of pass and number of threads
_LEAST_WINDOWS = 3
_THREADS_A_SQUARE = 4
_WINDOW_SECONDS = 0.002

_MiB = 1 << 20
_LEAST_BYTES, _MOST_BYTES = 64 * _MiB, 256 * _MiB
_CACHES = 4  # so that three quarters of a pass at least come from memory
_MEMORY_SHARE = 16
_UNITS: dict[Resource, Unit] = {
    "fp32": "GFLOP/s",
    "int8": "GOP/s",
    "memory_read": "GB/s",
    "memory_copy": "GB/s",
    "cache_read": "GB/s",
}
_WORD = np.dtype(np.int32)


def measure_peaks(machine: Fingerprint, *, deadline: float, clock: Clock = time.perf_counter) -> Peaks:
    """Measure what there is time for until `deadline`, on the machine that this process runs on.

    The notes say what was left out, and what speaks against a number.
    """
    begun, meter = clock(), _Neighbours(clock)
    found: list[Peak] = []
    notes: list[str] = []
    threads = (1,) if machine.cores == 1 else (1, machine.cores)
    for resource in SIDES:
        for count in threads:
            if clock() < deadline:
                found.append(_product_peak(resource, count, clock))
            else:
                notes.append(f"{resource} with {count} threads was not measured: time was up.")
    caches = sum(cache.bytes * cache.count for cache in machine.last_caches)
    size = min(max(_CACHES * caches, _LEAST_BYTES), _MOST_BYTES, machine.memory_bytes // _MEMORY_SHARE)
    if size < _CACHES * caches:
        notes.append(f"The {size // _MiB} MiB that memory was measured with are less than four times the last cache.")
    if clock() < deadline:
        found += _bandwidths(size, caches, threads, deadline, clock)
    else:
        notes.append("Memory was not measured: time was up.")
    notes += [
        f"{peak.resource} with {peak.threads} threads is uncertain: its median is {peak.spread:.0%} below the best."
        for peak in found
        if peak.spread > SHAKY
    ]
    if (neighbours := meter.cpus()) is not None and neighbours > NEIGHBOURS:
        notes.append(f"Other processes used {neighbours:.1f} processors meanwhile: the ceilings may be higher.")
    return Peaks(
        measured=tuple(found), seconds=round(clock() - begun, 3), neighbour_cpus=neighbours, notes=tuple(notes)
    )


class _Neighbours:
    """Work of all other processes since this was made."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._begin = self._read()

    def _read(self) -> tuple[float, float | None]:
        busy, _ = read_processor_times()
        return self._clock(), None if busy is None else busy - time.process_time()

    def cpus(self) -> float | None:
        """In processors; null where the system does not tell."""
        (begin, before), (end, after) = self._begin, self._read()
        if before is None or after is None:
            return None
        return round(max(after - before, 0.0) / max(end - begin, 1e-9), 3)


def _product_peak(resource: Resource, threads: int, clock: Clock) -> Peak:
    side = SIDES[resource]
    # Enough for each of many threads to do.
    rows = side * max(1, threads // _THREADS_A_SQUARE)
    rates = _rates(_product(resource, rows, side, threads), 2 * rows * side**2, _KERNEL_SECONDS, clock)
    operator = "MatMul" if resource == "fp32" else "MatMulInteger (u8 by s8)"
    method = f"{operator} of {rows} x {side} by {side} x {side} in onnxruntime {ort.__version__}, weights packed"
    return _peak(resource, threads, rates, method)


def _peak(resource: Resource, threads: int, rates: Sequence[float], method: str) -> Peak:
    best = max(rates)
    return Peak(
        resource=resource,
        value=float(f"{best / 1e9:.4g}"),
        unit=_UNITS[resource],
        threads=threads,
        method=f"{method}; the best of {len(rates)} windows",
        spread=round(1 - statistics.median(rates) / best, 4),
    )


def _rates(call: Callable[[], object], amount: float, seconds: float, clock: Clock) -> list[float]:
    """Amount a second in windows of some milliseconds, or of one call where that takes longer."""
    call()
    begun = clock()
    call()
    calls = max(1, round(_WINDOW_SECONDS / max(clock() - begun, 1e-7)))
    rates: list[float] = []
    end = clock() + seconds
    while len(rates) < _LEAST_WINDOWS or clock() < end:
        begun = clock()
        for _ in range(calls):
            call()
        rates.append(calls * amount / max(clock() - begun, 1e-9))
    return rates


def _product(resource: Resource, rows: int, side: int, threads: int) -> Callable[[], object]:
    """A call that multiplies a matrix by a square one, which is a weight."""
    numbers = np.random.default_rng(0)
    weights: NDArray[np.float32 | np.int8]
    if resource == "fp32":
        weights = numbers.standard_normal((side, side), np.float32)
        given: NDArray[np.float32 | np.uint8] = numbers.standard_normal((rows, side), np.float32)
        result: NDArray[np.float32 | np.int32] = np.empty((rows, side), np.float32)
        operator, types = "MatMul", (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT)
    else:
        weights = numbers.integers(-127, 128, (side, side), np.int8)
        given = numbers.integers(0, 256, (rows, side), np.uint8)
        result = np.empty((rows, side), np.int32)
        operator, types = "MatMulInteger", (onnx.TensorProto.UINT8, onnx.TensorProto.INT32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node(operator, ["a", "b"], ["y"])],
        "product",
        [onnx.helper.make_tensor_value_info("a", types[0], [rows, side])],
        [onnx.helper.make_tensor_value_info("y", types[1], [rows, side])],
        [onnx.numpy_helper.from_array(weights, "b")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    # Bound once, so that a call is the kernel and nothing is copied.
    binding = session.io_binding()
    binding.bind_cpu_input("a", given)
    binding.bind_output("y", "cpu", 0, result.dtype.type, result.shape, result.ctypes.data)

    def call(kept: object = (given, result)) -> None:
        session.run_with_iobinding(binding)

    return call


def _bandwidths(size: int, caches: int, threads: Sequence[int], deadline: float, clock: Clock) -> list[Peak]:
    """Rates of reading a buffer, of copying one half of it over the other, and of reading what stays in the caches."""
    buffer = np.empty(size // _WORD.itemsize, _WORD)
    found: list[Peak] = []
    for count in threads:
        if found and clock() > deadline:
            break
        with _workers(count) as run:
            found += _passes(buffer, caches // 2, count, run, clock)
    return found


def _passes(buffer: NDArray[np.int32], cached: int, threads: int, run: "Run", clock: Clock) -> list[Peak]:
    half = len(buffer) // 2
    parts, upper, lower = (np.array_split(each, threads) for each in (buffer, buffer[half : 2 * half], buffer[:half]))
    pairs = list(zip(upper, lower, strict=True))
    run(_fill, parts)  # so that every page is there
    near = buffer[: cached // _WORD.itemsize]
    # So many times at once that starting threads takes no share.
    times = max(1, _LEAST_BYTES // max(near.nbytes, 1))
    nears = [(part, times) for part in np.array_split(near, threads)]
    passes: list[tuple[Resource, Callable[[], object], NDArray[np.int32], int, str]] = [
        ("memory_read", lambda: run(np.max, parts), buffer, 1, "the largest of all numbers"),
        ("memory_copy", lambda: run(_copy, pairs), buffer, 1, "one half copied over the other, reads and writes added"),
    ]
    if len(near) >= threads:
        passes.append(("cache_read", lambda: run(_largest, nears), near, times, "the largest of all, again and again"))
    found = []
    for resource, call, read, count, how in passes:
        rates = _rates(call, read.nbytes * count, _PASSES_SECONDS, clock)
        found.append(_peak(resource, threads, rates, f"NumPy, {read.nbytes / _MiB:.3g} MiB: {how}"))
    return found


def _fill(part: NDArray[np.int32]) -> None:
    part.fill(1)


def _largest(given: tuple[NDArray[np.int32], int]) -> None:
    part, times = given
    for _ in range(times):
        part.max()


def _copy(pair: tuple[NDArray[np.int32], NDArray[np.int32]]) -> None:
    np.copyto(*pair)


Run = Callable[[Callable[..., object], Sequence[object]], object]


@contextmanager
def _workers(count: int) -> Iterator[Run]:
    """Something that runs a function on each part, in a thread for each; NumPy lets go of the interpreter meanwhile."""
    if count == 1:
        yield lambda function, parts: [function(part) for part in parts]
        return
    with ThreadPoolExecutor(count) as pool:
        yield lambda function, parts: list(pool.map(function, parts))
