"""What else the machine did, from invented counters and clocks; and with a real neighbour."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from tests.parts.service import wait_until
from tests.unit.evaluation.conftest import QUIET
from workers.evaluation.contention import WindowWatch, Witness, between
from workers.evaluation.readings import Clocks, Reader, Sources, Usage, read_clocks
from workers.hardware.processor_times import read_processor_times

HERTZ = os.sysconf("SC_CLK_TCK")
SECOND = 1_000_000_000


def stat(path: Path, *, busy: float = 0, stolen: float = 0) -> Path:
    path.write_text(f"cpu  {round(busy * HERTZ)} 0 0 12345 6 0 0 {round(stolen * HERTZ)} 0 0\ncpu0 1 2 3\n")
    return path


@dataclass
class Machine:
    """Invented counters and clocks of a machine of two processors, on which time passes when it is told to."""

    folder: Path
    clocks: Clocks = field(default_factory=lambda: Clocks(5 * SECOND, 6 * SECOND, 4 * SECOND, 1_700 * SECOND))
    own: float = 3.0
    switches: int = 10
    busy: float = 100.0
    stolen: float = 1.0
    waited: float = 0.5
    running: int = 1

    def __post_init__(self) -> None:
        self.write()

    @property
    def sources(self) -> Sources:
        return Sources(
            stat=self.folder / "stat",
            loadavg=self.folder / "loadavg",
            schedstat=self.folder / "schedstat",
            clocks=lambda: self.clocks,
            usage=lambda: Usage(self.own, self.switches),
        )

    def write(self) -> None:
        stat(self.folder / "stat", busy=self.busy, stolen=self.stolen)
        (self.folder / "loadavg").write_text(f"0.70 0.40 0.30 {self.running}/141 15673\n")
        (self.folder / "schedstat").write_text(f"123456789 {round(self.waited * 1e9)} 42\n")

    def passes(
        self,
        seconds: float,
        *,
        others: float = 0.0,
        stolen: float = 0.0,
        waited: float = 0.0,
        switches: int = 0,
        slept: float = 0.0,
        set_by: float = 0.0,
        slew: float = 0.0,
        own: float = 1.0,
    ) -> None:
        """Let time pass in which this process worked on `own` processors, and what else is said happened."""
        step = round(seconds * SECOND)
        now = self.clocks
        asleep = round(slept * SECOND)
        self.clocks = Clocks(
            now.monotonic + step,
            now.boot + step + asleep,
            now.raw + round(step / (1 + slew)),
            now.wall + step + asleep + round(set_by * SECOND),
        )
        self.own += own * seconds
        self.busy += own * seconds + others
        self.stolen += stolen
        self.waited += waited
        self.switches += switches
        self.write()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The invented machine's, whatever this one has."""
    monkeypatch.setattr("workers.evaluation.contention.os.cpu_count", lambda: 2)


def test_processor_times_are_read_in_seconds(tmp_path: Path) -> None:
    assert read_processor_times(stat(tmp_path / "stat", busy=12, stolen=3)) == (12, 3)


@pytest.mark.parametrize("content", ["", "intr 1 2 3", "cpu 1 2 3", "cpu  a b c d e f g h"])
def test_what_cannot_be_read_is_unknown(content: str, tmp_path: Path) -> None:
    for name in ("stat", "loadavg", "schedstat"):
        (tmp_path / name).write_text(content)
    assert read_processor_times(tmp_path / "stat") == (None, None)
    assert read_processor_times(tmp_path / "missing") == (None, None)
    reading = Reader(Sources(tmp_path / "stat", tmp_path / "loadavg", tmp_path / "schedstat")).read()
    assert (reading.busy, reading.stolen, reading.waited, reading.running) == (None, None, None, None)


# The same events around one window, and around a series

EVENTS: list[tuple[float, dict[str, Any], str | None]] = [
    (0.004, {}, None),
    (2.0, {}, None),
    # Steal, of which hundredths of a second are counted
    (0.004, {"stolen": 0.01}, None),  # one tick may have been due before
    (0.1, {"stolen": 0.03}, "the hypervisor took 10% of the processors' time"),
    (2.0, {"stolen": 0.08}, None),  # 2 % of two processors' time, less a tick
    (2.0, {"stolen": 0.25}, "the hypervisor took 6% of the processors' time"),
    # Neighbours, by the processors' times
    (0.02, {"others": 0.02}, None),  # within what ticks may be off
    (0.4, {"others": 0.4}, "other processes used 0.9 of 2 processors"),
    (2.0, {"others": 0.4}, None),
    (2.0, {"others": 0.6}, "other processes used 0.3 of 2 processors"),
    # Run queue
    (0.004, {"waited": 0.00007}, None),
    (0.004, {"waited": 0.0002}, "waited for a processor for 5% of the time"),
    (2.0, {"waited": 0.03}, None),
    (2.0, {"waited": 0.2}, "waited for a processor for 10% of the time"),
    # Preemption
    (0.004, {"switches": 2, "waited": 0.00004}, None),
    (0.004, {"switches": 3, "waited": 0.00004}, "preempted 3 times in 0.004 s"),
    (2.0, {"switches": 40, "waited": 0.02}, None),
    (2.0, {"switches": 41, "waited": 0.02}, "preempted 41 times in 2 s"),
    (2.0, {"switches": 400, "waited": 0.01}, None),  # as by a thread of the kernel: 25 µs each
    # Clocks that jump
    (0.004, {"slept": 3.0}, "suspended for 3 s"),
    (2.0, {"slept": 0.0005}, None),
    (0.004, {"set_by": -2.5}, "the wall clock was set by -2.5 s"),
    (2.0, {"set_by": 0.002}, "the wall clock was set by +0.002 s"),
    (2.0, {"slew": 0.0005}, None),
    (2.0, {"slew": 0.083}, "the clock ran +8.30% fast"),
    (2.0, {"slew": -0.002}, "the clock ran -0.20% fast"),
    (0.004, {"slew": 0.083}, None),  # too short to tell
]


@pytest.mark.parametrize(("seconds", "happened", "said"), EVENTS)
def test_what_disturbs_a_window(seconds: float, happened: dict[str, Any], said: str | None, machine: Machine) -> None:
    watch = WindowWatch(1, sources=machine.sources)
    machine.passes(1.0, others=1.0, stolen=0.5, waited=0.5, switches=100, slept=9.0)  # before it: none of its business
    watch.start()
    machine.passes(seconds, **happened)
    found = watch.stop()
    assert found == () if said is None else len(found) == 1 and said in found[0]
    watch.start()
    machine.passes(seconds)
    assert watch.stop() == ()


@pytest.mark.parametrize(("seconds", "happened", "said"), EVENTS)
def test_what_disturbs_a_series(seconds: float, happened: dict[str, Any], said: str | None, machine: Machine) -> None:
    witness = Witness(1, sources=machine.sources)
    machine.passes(seconds, **happened)
    found = witness.context().model_copy(update={"clock_drift": None}).disturbances()
    assert found == [] if said is None else len(found) == 1 and said in found[0]


def test_a_processor_that_slows_down_between_references(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of some tries counts, so that one that was held up tells nothing."""
    slow = [0.0012, 0.00108, 0.0011, 0.00109, 0.00108]
    taken = iter([0.001, 0.002, 0.001, 0.001, 0.001, *slow, *([0.001] * 5)])
    monkeypatch.setattr("workers.evaluation.contention._reference", lambda: next(taken))
    witness = Witness(1, sources=machine.sources)
    machine.passes(1.0)
    witness.check_clock()
    machine.passes(1.0)
    context = witness.context()
    assert context.clock_drift == pytest.approx(0.08, abs=1e-4)
    assert context.disturbances() == ["the processor's speed changed by 8%"]


@pytest.mark.parametrize(
    ("begin", "end", "threads", "disturbed"),
    [
        (1, 1, 1, False),  # the one that reads
        (2, 1, 1, False),  # somebody came by
        (1, 3, 1, False),
        (2, 2, 1, True),
        (4, 3, 1, True),
        (2, 2, 2, False),  # the second is ours
        (3, 3, 2, True),
    ],
)
def test_a_thread_that_runs_before_and_after_a_short_window_ran_meanwhile(
    begin: int, end: int, threads: int, disturbed: bool, machine: Machine
) -> None:
    watch = WindowWatch(threads, sources=machine.sources)
    machine.running = begin
    machine.write()
    watch.start()
    machine.running = end
    machine.passes(0.004)
    found = watch.stop()
    assert bool(found) is disturbed
    assert not found or "other processes used" in found[0]


def test_work_of_this_process_s_own_threads_is_not_that_of_others(machine: Machine) -> None:
    watch = WindowWatch(2, sources=machine.sources)
    watch.start()
    machine.passes(1.0, own=2.0)
    assert watch.stop() == ()
    watch.start()
    # With a thread for each processor a process preempts itself.
    machine.passes(1.0, own=2.0, switches=500)
    assert watch.stop() == ()


def test_a_window_must_have_begun(machine: Machine) -> None:
    watch = WindowWatch(1, sources=machine.sources)
    with pytest.raises(RuntimeError):
        watch.stop()


def test_a_busier_machine_than_there_are_processors(machine: Machine) -> None:
    machine.running = 9
    machine.write()
    reader = Reader(machine.sources)
    begin = reader.read()
    machine.passes(0.01)
    assert between(begin, reader.read(), cpus=2, threads=1).neighbour_cpus == 2


def test_without_processor_times_a_window_still_sees_neighbours(machine: Machine) -> None:
    reader = Reader(machine.sources)
    begin = reader.read(processor_times=False)
    machine.passes(1.0, others=1.0, stolen=1.0)
    found = between(begin, reader.read(processor_times=False), cpus=2, threads=1)
    assert found.steal_share is None
    assert found.neighbour_cpus == 0  # nobody was seen running
    machine.running = 3
    machine.write()
    begin = reader.read(processor_times=False)
    machine.passes(1.0)
    assert between(begin, reader.read(processor_times=False), cpus=2, threads=1).neighbour_cpus == 2


def test_without_counters_nothing_is_claimed(tmp_path: Path) -> None:
    nowhere = tmp_path / "missing"
    context = Witness(1, sources=Sources(nowhere, nowhere, nowhere)).context()
    assert context.neighbour_cpus is None
    assert context.steal_share is None
    assert context.run_queue_share is None
    assert context.clock_drift is not None
    watch = WindowWatch(1, sources=replace(Sources(nowhere, nowhere, nowhere), usage=lambda: Usage(0.0, 0)))
    watch.start()
    assert watch.stop() == ()


def test_clocks_are_read_at_once() -> None:
    before = time.monotonic_ns()
    clocks = read_clocks()
    assert before <= clocks.monotonic <= time.monotonic_ns()
    later = read_clocks()
    assert later.raw >= clocks.raw
    assert later.boot >= clocks.boot
    assert abs(clocks.wall - time.time_ns()) < 60 * SECOND


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({}, None),
        ({"steal_share": None, "neighbour_cpus": None, "clock_drift": None}, None),
        ({"steal_share": 0.019}, None),
        ({"steal_share": 0.05}, "hypervisor"),
        ({"neighbour_cpus": 0.24}, None),
        ({"neighbour_cpus": 0.3}, "0.3 of 2 processors"),
        ({"neighbour_cpus": 0.15, "threads": 2}, "other processes"),
        ({"neighbour_cpus": 1.0, "cpus": 64}, None),
        ({"clock_drift": 0.04}, None),
        ({"clock_drift": 0.2}, "speed changed by 20%"),
    ],
)
def test_what_counts_as_a_disturbance(changes: dict[str, Any], said: str | None) -> None:
    found = QUIET.model_copy(update=changes).disturbances()
    assert (found == []) if said is None else (said in found[0])


@pytest.fixture
def busy_neighbours() -> Iterator[None]:
    """As many processes that spin as this machine has processors, and one more."""
    count = len(os.sched_getaffinity(0)) + 1
    with ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen([sys.executable, "-c", "print(flush=True)\nwhile True: pass"], stdout=-1)
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()
        yield


@pytest.mark.skipif(not Path("/proc/loadavg").exists(), reason="the kernel does not tell what runs")
def test_a_real_busy_neighbour_is_seen(busy_neighbours: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    watch = WindowWatch(1)

    def seen() -> tuple[str, ...]:
        watch.start()
        end = time.perf_counter() + 0.05
        while time.perf_counter() < end:
            pass
        return watch.stop()

    assert wait_until(seen, seconds=30, what="a disturbed window")
