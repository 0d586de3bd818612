"""What comes out of a child: events on the progress pipe, text on the log pipe. Both are untrusted."""

import json
import math
import os
import re
from io import FileIO
from pathlib import Path
from typing import Any

from workers.sandbox.entry import LINE_BYTES
from workers.sandbox.errors import ProgressLimitExceeded, ResultInvalid

_READ_BYTES = 1 << 16
_LOG_READS = 4
_TAIL_BYTES = 4096
_CODE = re.compile(r"[a-z_]{1,64}")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


def clean_text(value: object, length: int) -> str:
    """A child's text made fit to store and show: no control characters or lone surrogates, cut to length."""
    return _CONTROL.sub("\ufffd", value)[:length] if isinstance(value, str) else ""


def clean_code(value: object) -> str:
    """A child's error code, or `step_failed` where it is not one."""
    return value if isinstance(value, str) and _CODE.fullmatch(value) else "step_failed"


def clean_fraction(value: object) -> float | None:
    """Progress as a number from 0 to 1, None where it is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return min(1.0, max(0.0, float(value)))


class EventPipe:
    """Reads events, one JSON object a line, from a non-blocking descriptor."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.closed = False  # the child's end is gone
        self._partial = b""
        self._left = _READ_BYTES  # enough for the first report

    def allow(self, total_bytes: int) -> None:
        """Start counting anew: so many bytes may come for the next step."""
        self._left = total_bytes

    def read(self) -> list[dict[str, Any]]:
        """The events that came since the last call; at most 64 KiB at a time.

        Raises ProgressLimitExceeded and ResultInvalid.
        """
        try:
            data = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return []
        if not data:
            self.closed = True
            return []
        self._left -= len(data)
        if self._left < 0:
            raise ProgressLimitExceeded(
                "The step reported more progress than is allowed and was stopped. If the model is yours, "
                "send the job's log to the operator of this service."
            )
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > LINE_BYTES or any(len(line) > LINE_BYTES for line in lines):
            raise _nonsense()
        return [_event(line) for line in lines]

    def close(self) -> None:
        os.close(self.fd)


def _event(line: bytes) -> dict[str, Any]:
    try:
        event = json.loads(line)
    except (ValueError, RecursionError):
        raise _nonsense() from None
    if not isinstance(event, dict):
        raise _nonsense()
    return event


def _nonsense() -> ResultInvalid:
    return ResultInvalid("The step reported something that is no progress and was stopped. Its log may say why.")


class LogPipe:
    """Moves what the child prints from a non-blocking descriptor to the end of a file, up to a size.

    The child never holds the file itself. What does not fit is counted and left out, except its last
    lines, which are written when the pipe is closed.
    """

    def __init__(self, fd: int, path: Path, limit_bytes: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self.closed = False
        self._file: FileIO = path.open("ab", buffering=0)
        self._room = max(0, limit_bytes - self._file.tell())
        self._left_out = 0
        self._tail = b""

    def read(self) -> bool:
        """Move what is there, at most 256 KiB, so that a flood does not hold up the parent's watch.

        Whether there may be more.
        """
        for _ in range(_LOG_READS):
            try:
                data = os.read(self.fd, _READ_BYTES)
            except BlockingIOError:
                return False
            if not data:
                self.closed = True
                return False
            kept = self._write(data[: self._room])
            self._room -= kept
            self._left_out += len(data) - kept
            self._tail = (self._tail + data[-_TAIL_BYTES:])[-_TAIL_BYTES:]
        return True

    def _write(self, data: bytes) -> int:
        """How much of it the file took: a full disk costs the log, not the job."""
        try:
            return self._file.write(data) or 0
        except OSError:
            return 0

    def tail(self) -> str:
        """The last lines printed, at most 4096 bytes of them."""
        return clean_text(self._tail.decode("utf-8", errors="replace"), _TAIL_BYTES)

    def close(self) -> None:
        if self._left_out:
            note = f"\n[{self._left_out} bytes left out; the last of them:]\n".encode()
            self._write(note + self._tail[-self._left_out :])
        self._file.close()
        os.close(self.fd)
