"""Trying again: what is worth it, and how long to wait before."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic, sleep
from typing import TypeVar

from bitpress.errors import ApiError, BitpressError, ConnectionFailed, TimedOut

T = TypeVar("T")

_PASSING = frozenset({429, 502, 503, 504})
"""HTTP statuses that say nothing about the request itself (RFC 6585 section 4, RFC 9110 section 15.6)."""
_LONGEST_RETRY_AFTER = 60.0
"""Seconds; whoever is told to come back later than this wants to know, not to hang."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential pauses, in seconds, of which a random half is taken so that clients do not come in step."""

    attempts: int = 5
    first: float = 0.2
    longest: float = 8.0

    def pause(self, failures: int, retry_after: float | None = None) -> float | None:
        """How long to wait after so many failures in a row, or None to give up."""
        if failures >= self.attempts:
            return None
        pause = min(self.longest, self.first * 2.0 ** (failures - 1)) * random.uniform(0.5, 1.0)
        if retry_after is None:
            return pause
        return retry_after + pause if retry_after <= _LONGEST_RETRY_AFTER else None


PATIENT = Backoff(attempts=12, longest=10.0)
"""For what has gone on for long already, such as a wait or a download: sits out a restart of the service,
with about a minute of trying."""


def repeat(
    call: Callable[[], T],
    backoff: Backoff,
    *,
    repeatable: bool = True,
    until: float | None = None,
    moved: Callable[[], int] = int,
) -> T:
    """Make a call until it succeeds, fails for good, or the pauses are used up.

    `repeatable`: doing it twice does no harm; what is not is repeated only if it never left.
    `until` is a moment of `time.monotonic` that no pause outlasts. A call that failed but got further,
    by what `moved` counts, starts anew with the shortest pause.
    """
    failures = 0
    repeated = False
    while True:
        before = moved()
        try:
            return call()
        except (ApiError, ConnectionFailed, TimedOut) as error:
            if isinstance(error, ApiError):
                error.repeated = repeated
            failures = 1 if moved() > before else failures + 1
            pause = backoff.pause(failures, getattr(error, "retry_after", None))
            if pause is None or not _passing(error, repeatable):
                raise
            if until is not None and monotonic() + pause > until:
                raise
            repeated = repeated or _may_have_arrived(error)
        sleep(pause)


def _passing(error: BitpressError, repeatable: bool) -> bool:
    if isinstance(error, ApiError):
        return repeatable and error.status in _PASSING
    return repeatable or not _may_have_arrived(error)


def _may_have_arrived(error: BitpressError) -> bool:
    return error.sent if isinstance(error, ConnectionFailed) else True
