"""What else the machine did while something was timed: around one block of calls, or around a whole series."""

import hashlib
import os
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from workers.evaluation.readings import Reader, Reading, Sources
from workers.hardware.processor_times import STAT

STEAL_SHARE = 0.02
"""More stolen time than this, as a share of the time of the processors in use, disturbs."""
NEIGHBOUR_SHARE = 0.25
"""More work by others than this share of the processors left over disturbs: they share caches, memory
bandwidth and, on most machines, cores (two hyper-threads of one core)."""
LEAST_NEIGHBOUR = 0.1
"""Less work by others than this many processors never does: a machine has some housekeeping."""
RUN_QUEUE_SHARE = 0.02
"""A thread that was ready to run and had to wait for longer than this share was disturbed."""
SWITCHES_A_SECOND = 20
LEAST_SWITCHES = 3
"""Being preempted more often than that, and at least so often, disturbs; a quiet machine does it once a second."""
LEAST_WAIT_SHARE = 0.005
"""Unless all that waiting is less than this share of the time: a thread of the kernel that wakes up 27 times a second
on one of two cores takes 0.2 %, and no median of a call changes by it."""
CLOCK_DRIFT = 0.05
"""A slower or faster processor than this between beginning and end disturbs."""
CLOCK_JUMP_SECONDS = 0.001
"""Clocks that differ by more have jumped."""
CLOCK_SLEW = 0.001
"""A clock that is being brought back faster than this tells wrong times; NTP keeps to half of it (adjtimex(2))."""

_SLEW_SECONDS = 0.01  # in less, reading the clocks takes too large a share
_TICK = 1 / os.sysconf("SC_CLK_TCK")
_TRIES = 5
_ROUNDS = 16
_BLOCK = bytes(16 << 10)
_COSTLY_READ_SECONDS = 15e-6


class Context(BaseModel):
    """What was seen around timings; null where the platform does not tell.

    `neighbour_cpus` is the work of all other processes in processors; `steal_share` what the
    hypervisor took, per processor of the machine; both as far as they are certain, since the system counts in
    hundredths of a second. `run_queue_share` is the time that the timing thread was ready to run and did not;
    `clock_drift` how much slower the slowest of some runs of a fixed piece of work was than the fastest.
    `slept_seconds` is how long the machine was suspended, `wall_jump_seconds` by how much the wall clock was set,
    `clock_slew` by what share the clock of the timings ran fast.
    """

    model_config = ConfigDict(frozen=True)

    seconds: float
    cpus: int
    threads: int
    involuntary_switches: int | None = None
    steal_share: float | None = None
    neighbour_cpus: float | None = None
    run_queue_share: float | None = None
    clock_drift: float | None = None
    slept_seconds: float | None = None
    wall_jump_seconds: float | None = None
    clock_slew: float | None = None

    def disturbances(self) -> list[str]:
        """What of this makes the timings doubtful, in words; empty when nothing does."""
        return [*self.other_work(), *self.clock_jumps()]

    def other_work(self) -> list[str]:
        """That the machine did something else, or did the work at another speed."""
        found = []
        if self.steal_share is not None and self.steal_share > STEAL_SHARE:
            found.append(f"the hypervisor took {self.steal_share:.0%} of the processors' time")
        spare = max(self.cpus - self.threads, 0)
        if self.neighbour_cpus is not None and self.neighbour_cpus > max(NEIGHBOUR_SHARE * spare, LEAST_NEIGHBOUR):
            found.append(f"other processes used {self.neighbour_cpus:.1f} of {self.cpus} processors")
        if self.run_queue_share is not None and self.run_queue_share > RUN_QUEUE_SHARE:
            found.append(f"the timing thread waited for a processor for {self.run_queue_share:.0%} of the time")
        # With a thread for each processor a process gets in its own way.
        switches = self.involuntary_switches or 0
        waited = self.run_queue_share is None or self.run_queue_share > LEAST_WAIT_SHARE
        if spare and waited and switches >= LEAST_SWITCHES and switches > SWITCHES_A_SECOND * self.seconds:
            found.append(f"the process was preempted {switches} times in {self.seconds:.3g} s")
        if self.clock_drift is not None and self.clock_drift > CLOCK_DRIFT:
            found.append(f"the processor's speed changed by {self.clock_drift:.0%}")
        return found

    def clock_jumps(self) -> list[str]:
        """That the clocks told other times than went by."""
        found = []
        if self.slept_seconds is not None and self.slept_seconds > CLOCK_JUMP_SECONDS:
            found.append(f"the machine was suspended for {self.slept_seconds:.3g} s")
        if self.wall_jump_seconds is not None and abs(self.wall_jump_seconds) > CLOCK_JUMP_SECONDS:
            found.append(f"the wall clock was set by {self.wall_jump_seconds:+.3g} s")
        if self.clock_slew is not None and abs(self.clock_slew) > CLOCK_SLEW:
            found.append(f"the clock ran {self.clock_slew:+.2%} fast")
        return found

    def lasting(self) -> list[str]:
        """Of other work, what does not end with one block: a thread that had to wait is seen block by block, and
        better."""
        return self.model_copy(update={"run_queue_share": None, "involuntary_switches": None}).other_work()


class WindowWatch:
    """Watches one block of calls after another, on the process's main thread.

    `start` and `stop` take some 30 µs together. A short block tells less than a long one: counters of the system
    that count in hundredths of a second are of no use in it, and a thread that runs at its beginning and its end
    stands for one that ran all the while.
    """

    def __init__(self, threads: int, *, sources: Sources | None = None) -> None:
        self._threads = threads
        self._cpus = os.cpu_count() or 1
        self._reader = Reader(sources or Sources())
        # On a machine of many processors reading their times takes as long as a block should at most be kept.
        self._processor_times = min(self._cost() for _ in range(_TRIES)) < _COSTLY_READ_SECONDS
        self._begin: Reading | None = None

    def _cost(self) -> float:
        begun = time.perf_counter()
        self._reader.read()
        return time.perf_counter() - begun

    def start(self) -> None:
        """Begin a block."""
        self._begin = self._reader.read(processor_times=self._processor_times)

    def stop(self) -> tuple[str, ...]:
        """End the block: what disturbed it, in words; empty when nothing did."""
        end, begin = self._reader.read(processor_times=self._processor_times), self._begin
        if begin is None:
            raise RuntimeError("No block has begun.")
        self._begin = None
        return tuple(between(begin, end, cpus=self._cpus, threads=self._threads).disturbances())


class Witness:
    """Watches a whole series, from its making until `context`."""

    def __init__(self, threads: int, *, stat: Path = STAT, sources: Sources | None = None) -> None:
        self._threads = threads
        self._reader = Reader(sources or Sources(stat=stat))
        self._references: list[float] = []
        self.check_clock()
        self._begin = self._reader.read()

    def check_clock(self) -> None:
        """Time the reference once more; call it where nothing else is being timed."""
        self._references.append(min(_reference() for _ in range(_TRIES)))

    def context(self) -> Context:
        """What happened since the beginning."""
        end = self._reader.read()
        self.check_clock()
        found = between(self._begin, end, cpus=os.cpu_count() or 1, threads=self._threads)
        return found.model_copy(update={"clock_drift": round(max(self._references) / min(self._references) - 1, 4)})


def between(begin: Reading, end: Reading, *, cpus: int, threads: int) -> Context:
    """What two readings tell of the time between them, in which `threads` of this process worked."""
    wall = max((end.clocks.monotonic - begin.clocks.monotonic) / 1e9, 1e-9)
    stolen = _difference(end.stolen, begin.stolen)
    waited = _difference(end.waited, begin.waited)
    raw, boot = (end.clocks.raw - begin.clocks.raw) / 1e9, (end.clocks.boot - begin.clocks.boot) / 1e9
    return Context(
        seconds=round(wall, 6),
        cpus=cpus,
        threads=threads,
        involuntary_switches=end.usage.switches - begin.usage.switches,
        # One tick may have been due before the beginning.
        steal_share=None if stolen is None else round(max(stolen - _TICK, 0.0) / wall / cpus, 4),
        neighbour_cpus=_neighbours(begin, end, wall, cpus, threads),
        run_queue_share=None if waited is None else round(waited / wall, 4),
        slept_seconds=round(boot - wall, 6),
        # Whoever slept finds the wall clock ahead without anybody having set it.
        wall_jump_seconds=round((end.clocks.wall - begin.clocks.wall) / 1e9 - boot, 6),
        clock_slew=round(wall / raw - 1, 6) if raw > _SLEW_SECONDS else None,
    )


def _neighbours(begin: Reading, end: Reading, wall: float, cpus: int, threads: int) -> float | None:
    """Processors that others have certainly kept busy: by their times, or by running threads that are not ours."""
    found = []
    busy = _difference(end.busy, begin.busy)
    if busy is not None:
        own = end.usage.seconds - begin.usage.seconds
        # On each processor in use a tick's time may belong before the beginning.
        found.append((busy - own - (threads + 1) * _TICK) / wall)
    if begin.running is not None and end.running is not None:
        found.append(min(begin.running, end.running) - threads)
    # More may be ready to run than there are processors for.
    return round(min(max(0.0, *found), cpus), 3) if found else None


def _difference(end: float | None, begin: float | None) -> float | None:
    return None if end is None or begin is None else end - begin


def _reference() -> float:
    """Seconds of a fixed piece of integer work in the first-level cache, some tenths of a millisecond.

    On a quiet machine ten series differed by 0.1 % at most but for one of 0.7 %. A loop of the interpreter's differed
    by 6 %: it is as fast as its objects happen to lie.
    """
    started = time.perf_counter()
    for _ in range(_ROUNDS):
        hashlib.sha256(_BLOCK)
    return time.perf_counter() - started
