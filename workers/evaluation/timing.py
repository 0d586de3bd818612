"""Timing calls inside one process: warm up until the drift stops, then alternate blocks of calls.

Everything takes the call to be timed and the clock as arguments, so that it can be tested on invented
clocks. Times are nanoseconds inside, milliseconds (to the nanosecond) where they leave.
"""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from workers.evaluation.statistics.series import median_bounds

Call = Callable[[int], object]
"""Runs the model on the feed of that index; the caller cycles through its feeds."""

Clock = Callable[[], int]
"""A monotonic count of nanoseconds."""

CALLS_A_BLOCK = 20
"""The least a block holds. Alternating single calls of two multi-threaded sessions measured 12 ms on
2 cores where each alone takes 10: what the one left behind disturbs the other's first calls."""

_LEAD_IN = 2  # calls at the head of a block that are not counted, for that reason
_BLOCK_MS = 4.0  # a shorter block of a cheap model would be mostly head
_MOST_CALLS_A_BLOCK = 100
_LONGEST_BLOCK_MS = 5_000.0  # only a model slower than a quarter of a second a call gets smaller blocks
_LEAST_CALLS = 3
_MOST_SAMPLES = 2_000  # of one session in one comparison: 20 beyond the p99

_OVERTIME = 1.5  # what a disturbed series may take of what was planned
_TWO_SIDED_95 = 0.975
_LEAST_SAMPLES = 140  # from so many on, the interval of a series holds what it promises
_LEAST_SHARE = 0.25  # of the planned time: a series of a tenth of a second sees nothing of what comes and goes

_STEADY = 0.02  # three windows in a row this close have stopped drifting
_WINDOW_MS = 5.0
_MOST_CALLS_A_WINDOW = 50


@dataclass(frozen=True, slots=True)
class WarmUp:
    """How a session was warmed up. `call_ms` is the median of the last calls; `settled` tells whether
    the drift stopped before time was up."""

    calls: int
    seconds: float
    call_ms: float
    settled: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """How two sessions are compared: at most `rounds` of one block of `calls` each.

    After `seconds` no further round is begun: on a busy machine calls take longer than they did when they
    were counted out.
    """

    rounds: int
    calls: int
    seconds: float = math.inf


@dataclass(slots=True)
class Blocks:
    """Samples in ms of two sessions, one list a block; blocks of the same round stand at the same place.

    `repeated` counts the rounds that something disturbed and that were timed again, `doubtful` those that are among
    these because time did not suffice for others. `seconds` is what all calls took, those left out included.
    """

    first: list[list[float]]
    second: list[list[float]]
    repeated: int = 0
    doubtful: int = 0
    seconds: float = 0.0


class Window(Protocol):
    """What is told around the counted calls of each block, with 0 or 1 for the session."""

    def begin(self, session: int) -> None: ...

    def end(self, session: int, calls: int) -> bool:
        """Whether the block can be trusted."""
        ...


class _Unwatched:
    """A window that sees nothing."""

    def begin(self, session: int) -> None: ...

    def end(self, session: int, calls: int) -> bool:
        return True


_UNWATCHED = _Unwatched()


def warm_up(call: Call, *, seconds: float, clock: Clock = time.perf_counter_ns) -> WarmUp:
    """Call until three windows in a row have medians within 2 %, at most `seconds` long.

    At least three calls are made whatever they take.
    """
    begun = clock()
    calls = 0
    medians: list[float] = []

    def window(size: int) -> float:
        nonlocal calls
        samples = []
        for _ in range(size):
            started = clock()
            call(calls)
            samples.append((clock() - started) / 1e6)
            calls += 1
        return statistics.median(samples)

    call_ms = window(_LEAST_CALLS)
    while (clock() - begun) / 1e9 < seconds:
        size = min(max(_LEAST_CALLS, math.ceil(_WINDOW_MS / max(call_ms, 1e-6))), _MOST_CALLS_A_WINDOW)
        call_ms = window(size)
        medians.append(call_ms)
        last = medians[-3:]
        if len(last) == 3 and max(last) <= min(last) * (1 + _STEADY):
            return WarmUp(calls, (clock() - begun) / 1e9, call_ms, settled=True)
    return WarmUp(calls, (clock() - begun) / 1e9, call_ms, settled=False)


def plan_blocks(first_ms: float, second_ms: float, seconds: float) -> Plan:
    """Fit blocks into about `seconds`: fewer rounds of a slow model, but blocks of at least 20 calls.

    One round is always made, however long it takes. More come in even number, so that each order comes
    as often as the other.
    """
    slower, both = max(first_ms, second_ms, 1e-6), max(first_ms + second_ms, 1e-6)
    calls = min(max(CALLS_A_BLOCK, math.ceil(_BLOCK_MS / slower)), _MOST_CALLS_A_BLOCK)
    calls = max(min(calls, int(_LONGEST_BLOCK_MS / slower)), _LEAST_CALLS)
    rounds = int(seconds * 1000 / ((calls + _LEAD_IN) * both))
    rounds = min(max(rounds, 1), max(_MOST_SAMPLES // calls, 1))
    return Plan(rounds - rounds % 2 if rounds > 1 else 1, calls, _OVERTIME * seconds)


def alternate(
    first: Call,
    second: Call,
    plan: Plan,
    *,
    second_leads: bool = False,
    clock: Clock = time.perf_counter_ns,
    window: Window = _UNWATCHED,
    width: float = 0.0,
    pause: float = 0.0,
) -> Blocks:
    """Time two sessions in alternating blocks, the order reversed each round.

    In a round both get the same feeds. `second_leads` says who begins the first round. Rounds that `window` does not
    trust are timed again while time lasts, and taken all the same where it would not suffice. Ends early, after as
    many rounds of either order, once the 95 % intervals of both medians are narrower than this share of them. Before
    each block it waits `pause` seconds, until the threads of the other session are at rest.
    """
    blocks, doubtful = Blocks([], []), Blocks([], [])
    sessions = ((0, first), (1, second))
    begun = clock()
    done, look = 0, 2
    while len(blocks.first) < plan.rounds and done < 2 * plan.rounds:
        if done and done % 2 == 0 and (clock() - begun) / 1e9 > plan.seconds:
            break
        order = reversed(sessions) if (done % 2 == 0) == second_leads else sessions
        trusted = True
        found: dict[int, list[float]] = {}
        for session, call in order:
            feed = done * plan.calls
            if pause:
                time.sleep(pause)
            block_begun = clock()
            for lead in range(_LEAD_IN):
                call(feed + lead)
            window.begin(session)
            block = []
            for index in range(feed, feed + plan.calls):
                started = clock()
                call(index)
                block.append(clock() - started)
            blocks.seconds += (clock() - block_begun) / 1e9
            trusted &= window.end(session, plan.calls)
            found[session] = [round(taken / 1e6, 6) for taken in block]
        taken_up = blocks if trusted else doubtful
        taken_up.first.append(found[0])
        taken_up.second.append(found[1])
        done += 1
        enough = math.isinf(plan.seconds) or (clock() - begun) / 1e9 > _LEAST_SHARE * plan.seconds / _OVERTIME
        if width and enough and trusted and len(blocks.first) % 2 == 0 and done >= look:
            if _narrow(blocks, width):
                break
            look = 2 * done
    blocks.repeated = len(doubtful.first)
    if len(blocks.first) < len(doubtful.first):
        blocks.first += doubtful.first
        blocks.second += doubtful.second
        blocks.repeated, blocks.doubtful = 0, len(doubtful.first)
    return blocks


def _narrow(blocks: Blocks, width: float) -> bool:
    """Whether both medians are known that well."""
    for side in (blocks.first, blocks.second):
        samples = np.array([sample for block in side for sample in block])
        if len(samples) < _LEAST_SAMPLES:
            return False
        lower, upper = median_bounds(samples, _TWO_SIDED_95)
        if upper - lower > width * float(np.median(samples)):
            return False
    return True


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Keep the interpreter's collector out of the samples."""
    gc.collect()
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
