"""A model under load as in service: callers side by side, and calls that arrive whether or not the last one is done.

With callers that wait for their answer (a closed loop) a slow model slows down who asks it, and its worst latencies
are never seen. So there is the open loop too: calls arrive at a rate, at random (Poisson), wait for a free caller, and
their latency counts from the moment they were due. The wait is part of it: a rate that the model cannot keep up with
shows in latencies that grow for as long as one measures.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from app.domain.measurement import UNITS, Measurement, absent
from workers.evaluation.bounds import TWO_SIDED_95, replicate_interval
from workers.evaluation.comparison import DISTURBED_SHARE
from workers.evaluation.latency import LEAST_SAMPLES
from workers.evaluation.replicate import LoadPoint, LoadReplicate
from workers.evaluation.timing import Call

_MOST_SAMPLES = 200_000
_GRACE = 0.5
_QUANTILES = {"latency_p50": 0.5, "latency_p90": 0.9, "latency_p99": 0.99}

SATURATED = "saturated"
"""Flag of a rate that the model could not keep up with: its latencies grow with the time that one measures."""


def closed_loop(call: Call, *, callers: int, seconds: float) -> LoadPoint:
    """Let each of some callers call again when its last call is done.

    Raises what a call raises, once all callers have stopped.
    """
    samples: list[list[float]] = [[] for _ in range(callers)]
    begun = time.perf_counter()
    end = begun + seconds

    def work(caller: int) -> None:
        mine, index = samples[caller], caller
        started = time.perf_counter()
        while started < end and len(mine) < _MOST_SAMPLES // callers:
            call(index)
            done = time.perf_counter()
            mine.append(round((done - started) * 1e3, 6))
            started = done
            index += callers

    _in_threads(work, callers)
    return LoadPoint(
        callers=callers, seconds=time.perf_counter() - begun, samples_ms=[sample for mine in samples for sample in mine]
    )


def open_loop(call: Call, *, rate: float, callers: int, seconds: float, seed: int = 0) -> LoadPoint:
    """Let calls arrive at random, `rate` a second, and some callers serve them in their order.

    When no more arrive, the callers go on for half as long again; what is not done then is counted and left. Raises
    what a call raises, once all callers have stopped.
    """
    rng = np.random.default_rng(seed)
    wanted = min(max(round(rate * seconds), 1), _MOST_SAMPLES)
    due = np.cumsum(rng.exponential(1 / rate, wanted))
    waiting: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    samples: list[float] = []
    failed = threading.Event()
    begun = time.perf_counter()
    deadline = begun + float(due[-1]) + seconds * _GRACE

    def work(caller: int) -> None:
        if caller == callers:
            _arrive(due, begun, waiting, failed)
            for _ in range(callers):
                waiting.put(None)
            return
        try:
            while (index := waiting.get()) is not None and time.perf_counter() < deadline:
                call(index)
                # Appending is atomic, and no caller waits for another to note its time.
                samples.append(round((time.perf_counter() - begun - float(due[index])) * 1e3, 6))
        except BaseException:
            failed.set()
            raise

    _in_threads(work, callers + 1)
    return LoadPoint(
        callers=callers,
        rate=rate,
        seconds=time.perf_counter() - begun,
        behind=wanted - len(samples),
        samples_ms=samples,
    )


def loads(replicates: Sequence[LoadReplicate], subject: str, *, target: str | None = None) -> list[Measurement]:
    """Throughput in rows a second and quantiles of latency in ms under each load; intervals are across children."""
    mine = [replicate for replicate in replicates if replicate.subject == subject]
    if not mine:
        return []
    disturbed = sum(bool(replicate.context.disturbances()) for replicate in mine) > DISTURBED_SHARE * len(mine)
    found: list[Measurement] = []
    for place, first in enumerate(mine[0].points):
        points = [replicate.points[place] for replicate in mine]
        flags = [SATURATED] if sum(map(_is_saturated, points)) * 2 > len(points) else []
        flags += ["contended"] if disturbed else []
        conditions: dict[str, Any] = {
            **mine[0].conditions,
            "threads": mine[0].threads,
            "batch": mine[0].batch,
            "callers": first.callers,
            **({} if first.rate is None else {"rate": first.rate}),
            "children": len(points),
            **({"target": target} if target else {}),
        }
        rows = [replicate.batch * len(point.samples_ms) for replicate, point in zip(mine, points, strict=True)]
        rates = [count / point.seconds for count, point in zip(rows, points, strict=True)]
        found.append(_measured("throughput", rates, sum(rows), conditions, flags))
        for name, share in _QUANTILES.items():
            found.append(_quantile(name, share, points, conditions, flags))
    return found


def _arrive(
    due: np.ndarray[Any, np.dtype[np.float64]],
    begun: float,
    waiting: "queue.SimpleQueue[int | None]",
    failed: threading.Event,
) -> None:
    """Put each call into the queue when it is due."""
    for index, moment in enumerate(due):
        if (left := begun + float(moment) - time.perf_counter()) > 0:
            time.sleep(left)
        if failed.is_set():
            return
        waiting.put(index)


def _in_threads(work: Callable[[int], None], count: int) -> None:
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,), daemon=True) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _is_saturated(point: LoadPoint) -> bool:
    """Whether calls were left, or the second half of them took more than twice as long as the first."""
    if point.behind:
        return True
    half = len(point.samples_ms) // 2
    if point.rate is None or half < LEAST_SAMPLES["latency_p90"]:
        return False
    return float(np.median(point.samples_ms[half:])) > 2 * float(np.median(point.samples_ms[:half]))


def _quantile(
    name: str, share: float, points: Sequence[LoadPoint], conditions: dict[str, Any], flags: Sequence[str]
) -> Measurement:
    fewest = min(len(point.samples_ms) for point in points)
    if fewest < (least := LEAST_SAMPLES.get(name, 1)):
        missing = absent(name, f"{fewest} calls are too few: {least} leave one beyond it")
        return missing.model_copy(update={"conditions": conditions})
    values = [float(np.quantile(point.samples_ms, share)) for point in points]
    return _measured(name, values, sum(len(point.samples_ms) for point in points), conditions, flags)


def _measured(
    name: str, values: Sequence[float], count: int, conditions: dict[str, Any], flags: Sequence[str]
) -> Measurement:
    unit, better = UNITS[name]
    across = replicate_interval(values, TWO_SIDED_95)
    return Measurement(
        name=name,
        value=float(np.median(values)),
        unit=unit,
        better=better,
        ci95=None if across is None else (across.lower, across.upper),
        count=count,
        conditions=conditions,
        flags=tuple(flags),
    )
