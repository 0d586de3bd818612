"""Serves a job's steps in a child whose clocks jump while something is timed. Runs inside the child.

The environment variable JUMP says how: `set_ahead` and `set_back` set the wall clock by an hour, `slept` stops the
monotonic clock for a minute, `fast` lets it run 5 % fast from then on. JUMP_AT is the reading at which they do.
"""

import functools
import os
import time
from collections.abc import Callable
from dataclasses import replace

from workers.evaluation import contention
from workers.evaluation.readings import Clocks, Sources, read_clocks
from workers.steps.program import serve as serve_steps

SECOND = 1_000_000_000

_JUMPS: dict[str, Callable[[Clocks, int], Clocks]] = {
    "none": lambda clocks, since: clocks,
    "set_ahead": lambda clocks, since: replace(clocks, wall=clocks.wall + 3600 * SECOND),
    "set_back": lambda clocks, since: replace(clocks, wall=clocks.wall - 3600 * SECOND),
    "slept": lambda clocks, since: replace(clocks, boot=clocks.boot + 60 * SECOND, wall=clocks.wall + 60 * SECOND),
    "fast": lambda clocks, since: replace(
        clocks,
        monotonic=clocks.monotonic + since // 20,
        boot=clocks.boot + since // 20,
        wall=clocks.wall + since // 20,
    ),
}


class _Jumping:
    """Reads the clocks, which jump at one reading and stay so."""

    def __init__(self, how: str, at: int) -> None:
        self._how, self._at = _JUMPS[how], at
        self._readings = 0
        self._jumped_at: int | None = None

    def __call__(self) -> Clocks:
        self._readings += 1
        clocks = read_clocks()
        if self._readings < self._at:
            return clocks
        if self._jumped_at is None:
            self._jumped_at = time.monotonic_ns()
        return self._how(clocks, clocks.monotonic - self._jumped_at)


contention.Sources = functools.partial(Sources, clocks=_Jumping(os.environ["JUMP"], int(os.environ["JUMP_AT"])))  # type: ignore[misc,assignment]

serve = serve_steps
