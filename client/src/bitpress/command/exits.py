"""Exit codes: what a script can tell from `$?`."""

from enum import IntEnum
from typing import TYPE_CHECKING

from bitpress.errors import BitpressError, ConnectionFailed, TimedOut

if TYPE_CHECKING:
    from bitpress.types import Job


class ExitCode(IntEnum):
    OK = 0
    FAILED = 1
    USAGE = 2
    GATE_MISSED = 3
    GATE_UNDECIDED = 4
    CANCELLED = 5
    UNREACHABLE = 6
    TIMED_OUT = 7
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.OK: "done; of a job: succeeded, and its gate is met or it has none",
    ExitCode.FAILED: "the job failed, or the service refused the request",
    ExitCode.USAGE: "the command was not understood",
    ExitCode.GATE_MISSED: "the job succeeded, but its best artifact misses the goal",
    ExitCode.GATE_UNDECIDED: "the job succeeded, but its data cannot decide about the goal",
    ExitCode.CANCELLED: "the job was cancelled",
    ExitCode.UNREACHABLE: "the service cannot be reached",
    ExitCode.TIMED_OUT: "no end, or no answer, in the time allowed",
    ExitCode.INTERRUPTED: "interrupted with Ctrl-C; a submitted job goes on",
}


def exit_code_of_error(error: BitpressError) -> ExitCode:
    """The code that a failed call ends with."""
    if isinstance(error, ConnectionFailed):
        return ExitCode.UNREACHABLE
    return ExitCode.TIMED_OUT if isinstance(error, TimedOut) else ExitCode.FAILED


def exit_code_of_job(job: "Job") -> ExitCode:
    """The code that says how an ended job ended."""
    if job["state"] == "cancelled":
        return ExitCode.CANCELLED
    if job["state"] != "succeeded":
        return ExitCode.FAILED
    by_gate = {"missed": ExitCode.GATE_MISSED, "undecided": ExitCode.GATE_UNDECIDED}
    return by_gate.get(job["gate"] or "none", ExitCode.OK)
