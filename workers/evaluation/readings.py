"""What the kernel counts, and its clocks, read cheaply enough to stand around each block of timings."""

import os
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from workers.hardware.processor_times import STAT, parse_processor_times

LOADAVG = Path("/proc/loadavg")
SCHEDSTAT = Path("/proc/self/schedstat")

_READ_BYTES = 512
_CLOCK_TRIES = 4
_CLOCK_NS = 20_000
"""Clocks that are read one after another within this time were read at once."""


@dataclass(frozen=True, slots=True)
class Clocks:
    """Nanoseconds of four clocks at one moment (clock_gettime(2)).

    `monotonic` is what timings are made with: it stops while the machine sleeps, and is slewed. `boot` does not
    stop, `raw` is not slewed, `wall` is set. Where a platform lacks one, it is `monotonic`.
    """

    monotonic: int
    boot: int
    raw: int
    wall: int


@dataclass(frozen=True, slots=True)
class Usage:
    """Of this process, all its threads: seconds of processor time, and how often it was preempted."""

    seconds: float
    switches: int


def read_clocks() -> Clocks:
    """All clocks at one moment; read again where something came in between."""
    read, monotonic = time.clock_gettime_ns, time.CLOCK_MONOTONIC
    tries = 0
    while True:
        begun = read(monotonic)
        boot, raw, wall = (begun if clock is None else read(clock) for clock in _OTHERS)
        taken = read(monotonic) - begun
        tries += 1
        if taken < _CLOCK_NS or tries == _CLOCK_TRIES:
            return Clocks(begun, boot, raw, wall)


# macOS has no clock that goes on while it sleeps under this name.
_OTHERS: tuple[int | None, ...] = tuple(
    getattr(time, name, None) for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC_RAW", "CLOCK_REALTIME")
)


def read_usage() -> Usage:
    """What getrusage(2) tells of this process."""
    return Usage(time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw)


@dataclass(frozen=True, slots=True)
class Sources:
    """Where readings come from; tests give others."""

    stat: Path = STAT
    loadavg: Path = LOADAVG
    schedstat: Path = SCHEDSTAT
    clocks: Callable[[], Clocks] = read_clocks
    usage: Callable[[], Usage] = read_usage


@dataclass(frozen=True, slots=True)
class Reading:
    """One moment. Seconds of all processors `busy` and `stolen`; of the main thread `waited`, ready to run; `running`
    threads of the machine. Null where the platform does not tell."""

    clocks: Clocks
    usage: Usage
    busy: float | None
    stolen: float | None
    waited: float | None
    running: int | None


class Reader:
    """Reads from files that stay open; a file's content is what the kernel has to say at each read."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._stat, self._loadavg, self._schedstat = (
            _open(path) for path in (sources.stat, sources.loadavg, sources.schedstat)
        )

    def read(self, *, processor_times: bool = True) -> Reading:
        """Now; without `processor_times` `busy` and `stolen` are null, which takes half the time on two cores and
        far less on many."""
        content = _read(self._stat) if processor_times else b""
        busy, stolen = parse_processor_times(content) if content else (None, None)
        return Reading(
            clocks=self._sources.clocks(),
            usage=self._sources.usage(),
            busy=busy,
            stolen=stolen,
            waited=_waited(_read(self._schedstat)),
            running=_running(_read(self._loadavg)),
        )

    def close(self) -> None:
        """Close the files."""
        for file in (self._stat, self._loadavg, self._schedstat):
            if file is not None:
                os.close(file)
        self._stat = self._loadavg = self._schedstat = None

    def __del__(self) -> None:
        self.close()


def _open(path: Path) -> int | None:
    try:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None


def _read(file: int | None) -> bytes:
    if file is None:
        return b""
    try:
        return os.pread(file, _READ_BYTES, 0)
    except OSError:
        return b""


def _waited(content: bytes) -> float | None:
    """Of time on a processor, time waiting for one and time slices (Documentation/scheduler/sched-stats.rst)."""
    fields = content.split()
    return int(fields[1]) / 1e9 if len(fields) == 3 and fields[1].isdigit() else None


def _running(content: bytes) -> int | None:
    """Of three averages, running and all threads, and the last process (proc(5))."""
    fields = content.split()
    running = fields[3].partition(b"/")[0] if len(fields) == 5 else b""
    return int(running) if running.isdigit() else None
