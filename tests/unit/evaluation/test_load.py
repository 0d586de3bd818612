"""Closed and open loops on calls of known length, and what comes of several children. Bounds are generous: no speed is
asserted, only what cannot be otherwise."""

import threading
import time

import numpy as np
import pytest

from tests.unit.evaluation.conftest import BUSY, QUIET
from workers.evaluation.load import closed_loop, open_loop
from workers.evaluation.replicate import LoadPoint, LoadReplicate
from workers.evaluation.under_load import SATURATED, loads


class Server:
    """Calls that sleep, and the most that were at work at once."""

    def __init__(self, seconds: float) -> None:
        self.calls: list[int] = []
        self.most = 0
        self._now = 0
        self._seconds = seconds
        self._lock = threading.Lock()

    def __call__(self, index: int) -> None:
        with self._lock:
            self.calls.append(index)
            self._now += 1
            self.most = max(self.most, self._now)
        time.sleep(self._seconds)
        with self._lock:
            self._now -= 1


def test_callers_work_side_by_side_each_on_feeds_of_its_own() -> None:
    server = Server(0.005)
    point = closed_loop(server, callers=3, seconds=0.3)
    assert server.most == 3
    assert len(point.samples_ms) == len(server.calls) == len(set(server.calls))
    assert min(point.samples_ms) >= 5


def test_calls_arrive_at_their_rate_while_it_can_be_kept_up_with() -> None:
    server = Server(0.001)
    point = open_loop(server, rate=100, callers=4, seconds=0.5)
    assert len(server.calls) == len(point.samples_ms) == 50
    assert point.behind == 0
    assert sorted(server.calls) == list(range(50))


def test_what_waits_is_late_by_its_wait() -> None:
    """200 calls a second of 20 ms each for one caller: a closed loop would say 20 ms."""
    point = open_loop(Server(0.02), rate=200, callers=1, seconds=0.5)
    assert point.behind > 0
    half = len(point.samples_ms) // 2
    assert np.median(point.samples_ms[half:]) > 3 * 20
    assert point.seconds < 2


def test_arrivals_are_those_of_a_poisson_process() -> None:
    starts: list[float] = []
    begun = time.perf_counter()
    open_loop(lambda index: starts.append(time.perf_counter() - begun), rate=400, callers=2, seconds=0.5, seed=3)
    due = np.cumsum(np.random.default_rng(3).exponential(1 / 400, 200))
    assert len(starts) == 200
    assert np.all(np.sort(starts) >= due - 1e-3)


@pytest.mark.parametrize("loop", ["closed", "open"])
def test_a_call_that_fails_ends_the_load_with_its_error(loop: str) -> None:
    def fail(index: int) -> None:
        if index > 3:
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        closed_loop(fail, callers=2, seconds=5) if loop == "closed" else open_loop(
            fail, rate=1000, callers=2, seconds=0.5
        )


def replicate(points: list[LoadPoint], *, busy: bool = False, batch: int = 2) -> LoadReplicate:
    return LoadReplicate(
        subject="original",
        threads=1,
        batch=batch,
        points=points,
        context=BUSY if busy else QUIET,
        conditions={"runtime": "onnxruntime"},
    )


def closed(samples: int, milliseconds: float) -> LoadPoint:
    return LoadPoint(callers=2, seconds=2.0, samples_ms=[milliseconds] * samples)


def test_throughput_counts_rows_and_intervals_are_across_children() -> None:
    children = [replicate([closed(samples, 4.0)]) for samples in (100, 110, 120)]
    throughput, p50, p90, p99 = loads(children, "original", target="abc")
    assert throughput.value == 110
    assert throughput.ci95 is not None
    assert throughput.ci95[0] <= 100 < 120 <= throughput.ci95[1]
    assert (p50.value, p90.value, p99.value) == (4.0, 4.0, 4.0)
    assert p99.conditions["callers"] == 2
    assert p99.conditions["target"] == "abc"
    assert "shapes" not in p99.conditions
    shaped = [child.model_copy(update={"shapes": {"x": (2, 7)}}) for child in children]
    assert all(found.conditions["shapes"] == {"x": (2, 7)} for found in loads(shaped, "original"))
    assert loads(children, "cnd_a") == []


def test_few_calls_have_no_p99() -> None:
    found = {each.name: each for each in loads([replicate([closed(30, 4.0)])] * 2, "original")}
    assert found["latency_p90"].value == 4.0
    assert found["latency_p99"].method == "absent"


def test_a_rate_that_cannot_be_kept_up_with_is_flagged() -> None:
    growing = LoadPoint(callers=1, rate=50, seconds=2, samples_ms=[float(n) for n in range(1, 101)])
    left = LoadPoint(callers=1, rate=50, seconds=2, behind=7, samples_ms=[1.0] * 100)
    even = LoadPoint(callers=1, rate=50, seconds=2, samples_ms=[1.0] * 100)
    found = loads([replicate([growing, left, even])] * 3, "original")
    flags = [measurement.flags for measurement in found if measurement.name == "latency_p50"]
    assert flags == [(SATURATED,), (SATURATED,), ()]


def test_other_work_on_the_machine_is_flagged() -> None:
    found = loads([replicate([closed(100, 4.0)], busy=True)] * 2, "original")
    assert all(measurement.flags == ("contended",) for measurement in found)
