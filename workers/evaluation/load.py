"""A model under load as in service: callers side by side, and calls that arrive whether or not the last one is done.

With callers that wait for their answer (a closed loop) a slow model slows down who asks it, and its worst latencies
are never seen. So there is the open loop too: calls arrive at a rate, at random (Poisson), wait for a free caller, and
their latency counts from the moment they were due. The wait is part of it: a rate that the model cannot keep up with
shows in latencies that grow for as long as one measures.
"""

import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from workers.evaluation.replicate import LoadPoint
from workers.evaluation.timing import Call

_MOST_SAMPLES = 200_000
_GRACE = 0.5


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
