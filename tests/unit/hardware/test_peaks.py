"""Ceilings: what is measured, with what, and what is said where there is no time or somebody else is at work."""

import math
import time
from collections.abc import Callable, Iterator
from typing import get_args

import numpy as np
import pytest

from app.domain.target import SHAKY, Cache, Fingerprint, Peak, Peaks, Resource
from workers.hardware import peaks
from workers.hardware.peaks import _product, _product_peak, _rates, measure_peaks
from workers.hardware.probe import probe

MiB = 1 << 20


def machine(cores: int, *, last_cache: int = MiB, memory_bytes: int = 2048 * MiB) -> Fingerprint:
    caches = (
        Cache(level=1, kind="data", bytes=32 << 10, shared_by=1, count=cores),
        Cache(level=2, kind="unified", bytes=last_cache, shared_by=cores, count=1),
    )
    return probe().model_copy(update={"cores": cores, "memory_bytes": memory_bytes, "caches": caches})


@pytest.fixture(scope="module")
def here() -> Peaks:
    return measure_peaks(machine(2), deadline=math.inf)


def test_every_resource_has_a_ceiling_for_one_thread_and_for_all(here: Peaks) -> None:
    assert [(peak.resource, peak.threads) for peak in here.measured] == [
        ("fp32", 1), ("fp32", 2), ("int8", 1), ("int8", 2),
        ("memory_read", 1), ("memory_copy", 1), ("cache_read", 1),
        ("memory_read", 2), ("memory_copy", 2), ("cache_read", 2),
    ]  # fmt: skip
    assert {peak.resource for peak in here.measured} == set(get_args(Resource))
    for peak in here.measured:
        assert peak.value > 0
        assert 0 <= peak.spread < 1
        assert "windows" in peak.method
    assert {peak.unit for peak in here.measured} == {"GFLOP/s", "GOP/s", "GB/s"}


@pytest.mark.parametrize("resource", ["fp32", "int8"])
def test_the_kernel_that_is_timed_multiplies(resource: Resource) -> None:
    call = _product(resource, 32, 64, 1)
    given, result = call.__defaults__[0]  # type: ignore[attr-defined]
    weights = np.random.default_rng(0)
    if resource == "fp32":
        expected = given @ weights.standard_normal((64, 64), np.float32)
        call()
        np.testing.assert_allclose(result, expected, rtol=1e-3, atol=1e-3)
    else:
        weight = weights.integers(-127, 128, (64, 64), np.int8)
        call()
        exact = given.astype(np.int64) @ weight.astype(np.int64)
        # Kernels that add in 16 bits saturate, and are off where they do; none gives anything but sums of products.
        assert np.corrcoef(result.ravel(), exact.ravel())[0, 1] > 0.9


class InventedClock:
    """Every reading costs nothing; calls let time pass."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def call(self, seconds: Iterator[float]) -> Callable[[], None]:
        def call() -> None:
            self.now += next(seconds)

        return call


def test_a_rate_is_amount_over_time() -> None:
    clock = InventedClock()
    rates = _rates(clock.call(iter(lambda: 1 / 64, None)), 5e9, 1 / 8, clock)
    assert rates == [5e9 * 64] * 8


def test_short_calls_are_timed_many_at_once_and_slow_ones_at_least_three_times() -> None:
    clock = InventedClock()
    fast = _rates(clock.call(iter(lambda: 2**-16, None)), 1.0, 1 / 64, clock)
    assert fast == [2**16] * 8  # of 2 ms each
    slow = _rates(clock.call(iter(lambda: 7.0, None)), 1.0, 0.01, clock)
    assert slow == pytest.approx([1 / 7] * 3)


def test_one_disturbed_window_does_not_lower_the_ceiling() -> None:
    clock = InventedClock()
    times = iter([0.01] * 6 + [0.2] + [0.01] * 100)
    rates = _rates(clock.call(times), 1e9, 0.3, clock)
    found = peaks._peak("fp32", 1, rates, "x")
    assert found.value == pytest.approx(100, rel=1e-3)
    assert found.spread == pytest.approx(0, abs=1e-6)
    halved = peaks._peak("fp32", 1, [1e9, 1e9, 2e9], "x")
    assert (halved.value, halved.spread) == (2, 0.5)


def test_without_time_nothing_is_measured_and_that_is_said() -> None:
    found = measure_peaks(machine(2), deadline=-math.inf)
    assert found.measured == ()
    assert len(found.notes) >= 5
    assert all("time was up" in note for note in found.notes[:5])
    assert not found.steady


def test_a_small_machine_says_that_memory_was_measured_with_little() -> None:
    found = measure_peaks(machine(1, last_cache=256 * MiB, memory_bytes=256 * MiB), deadline=math.inf)
    assert any("16 MiB" in note and "four times" in note for note in found.notes)
    assert "16 MiB" in next(peak.method for peak in found.measured if peak.resource == "memory_read")
    assert {peak.threads for peak in found.measured} == {1}


def test_where_no_cache_is_known_none_is_measured() -> None:
    found = measure_peaks(machine(1).model_copy(update={"caches": ()}), deadline=math.inf)
    assert {peak.resource for peak in found.measured} == {"fp32", "int8", "memory_read", "memory_copy"}
    assert "64 MiB" in next(peak.method for peak in found.measured if peak.resource == "memory_read")


def test_many_threads_have_enough_to_do_each() -> None:
    many = _product_peak("int8", 16, time.perf_counter)
    assert "3072 x 768 by 768 x 768" in many.method
    assert "768 x 768 by 768 x 768" in _product_peak("int8", 2, time.perf_counter).method


def peak(threads: int = 1, spread: float = 0.01, resource: Resource = "fp32") -> Peak:
    return Peak(resource=resource, value=threads * 10, unit="GFLOP/s", threads=threads, method="x", spread=spread)


def test_the_ceiling_for_a_number_of_threads() -> None:
    found = Peaks(measured=(peak(1), peak(8)), seconds=1)
    assert [getattr(found.of("fp32", threads), "threads", None) for threads in (1, 4, 8, 64)] == [1, 1, 8, 8]
    assert found.of("int8", 1) is None
    assert Peaks(measured=(peak(4),), seconds=1).of("fp32", 2) is None


@pytest.mark.parametrize(
    ("spread", "neighbours", "steady"),
    [(0.01, 0.0, True), (0.01, None, True), (SHAKY + 0.01, 0.0, False), (0.01, 1.0, False)],
)
def test_what_is_measured_again(spread: float, neighbours: float | None, steady: bool) -> None:
    found = Peaks(measured=(peak(), peak(2, spread)), seconds=1, neighbour_cpus=neighbours)
    assert found.steady is steady
