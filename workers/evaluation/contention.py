"""What else the machine did while something was timed."""

import os
import resource
import time
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from workers.hardware.processor_times import STAT, read_processor_times

STEAL_SHARE = 0.02
"""More stolen time than this, as a share of the time of the processors in use, disturbs."""
NEIGHBOUR_SHARE = 0.25
"""More work by others than this share of the processors left over disturbs: they share caches, memory
bandwidth and, on most machines, cores (two hyper-threads of one core)."""
LEAST_NEIGHBOUR = 0.1
"""Less work by others than this many processors never does: a machine has some housekeeping."""
CLOCK_DRIFT = 0.05
"""A slower or faster clock than this between beginning and end disturbs."""

_SPINS = 4_000
_TRIES = 5


class Context(BaseModel):
    """What was seen around one series of timings; null where the platform does not tell.

    `neighbour_cpus` is the work of all other processes in processors; `steal_share` what the
    hypervisor took, per processor of the machine; `clock_drift` how much slower the slowest of some
    runs of a fixed loop was than the fastest.
    """

    model_config = ConfigDict(frozen=True)

    seconds: float
    cpus: int
    threads: int
    involuntary_switches: int | None = None
    steal_share: float | None = None
    neighbour_cpus: float | None = None
    clock_drift: float | None = None

    def disturbances(self) -> list[str]:
        """What of this makes the timings doubtful, in words; empty when nothing does."""
        found = []
        if self.steal_share is not None and self.steal_share > STEAL_SHARE:
            found.append(f"the hypervisor took {self.steal_share:.0%} of the processors' time")
        spare = max(self.cpus - self.threads, 0)
        if self.neighbour_cpus is not None and self.neighbour_cpus > max(NEIGHBOUR_SHARE * spare, LEAST_NEIGHBOUR):
            found.append(f"other processes used {self.neighbour_cpus:.1f} of {self.cpus} processors")
        if self.clock_drift is not None and self.clock_drift > CLOCK_DRIFT:
            found.append(f"the processor's speed changed by {self.clock_drift:.0%}")
        return found


@dataclass(frozen=True, slots=True)
class _Counters:
    wall: float
    own: float
    busy: float | None
    stolen: float | None
    switches: int


class Witness:
    """Watches from its making until `context`."""

    def __init__(self, threads: int, *, stat: Path = STAT) -> None:
        self._threads = threads
        self._stat = stat
        self._spins: list[float] = []
        self.check_clock()
        self._begin = self._read()

    def check_clock(self) -> None:
        """Time the fixed loop once more; call it where nothing else is being timed."""
        self._spins.append(min(_spin() for _ in range(_TRIES)))

    def context(self) -> Context:
        """What happened since the beginning."""
        end, begin = self._read(), self._begin
        self.check_clock()
        wall = max(end.wall - begin.wall, 1e-9)
        cpus = os.cpu_count() or 1
        stolen = _difference(end.stolen, begin.stolen)
        busy = _difference(end.busy, begin.busy)
        return Context(
            seconds=round(wall, 3),
            cpus=cpus,
            threads=self._threads,
            involuntary_switches=end.switches - begin.switches,
            steal_share=None if stolen is None else round(stolen / wall / cpus, 4),
            neighbour_cpus=None if busy is None else round(max(busy - (end.own - begin.own), 0.0) / wall, 3),
            clock_drift=round(max(self._spins) / min(self._spins) - 1, 4),
        )

    def _read(self) -> _Counters:
        busy, stolen = read_processor_times(self._stat)
        return _Counters(
            wall=time.monotonic(),
            own=time.process_time(),
            busy=busy,
            stolen=stolen,
            switches=resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw,
        )


def _difference(end: float | None, begin: float | None) -> float | None:
    return None if end is None or begin is None else end - begin


def _spin() -> float:
    """Seconds of a fixed piece of integer work, about a quarter of a millisecond."""
    started = time.perf_counter()
    number = 1
    for _ in range(_SPINS):
        number = (number * 1_103_515_245 + 12_345) & 0x7FFF_FFFF
    return time.perf_counter() - started
