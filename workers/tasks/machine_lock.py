"""Who computes and who times on a host: many at once, or one alone.

The database's measuring lock holds among its own workers and for timing alone. This one holds among all workers that a
user runs on the host, whatever database they have, and keeps what computes on every core away from what is timed. It
is a lock of the kernel's (flock(2)) on files named by the host's boot, so that it ends with whoever holds it.
"""

import fcntl
import logging
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

_EVERY_SECONDS = 0.1


class _Unusable(Exception):
    """The lock's file cannot be had, or is not one that only this user could have made."""


class MachineLock:
    """Lets computing go on side by side, and timing wait until it is alone.

    The files belong to the user whose workers share them: nobody else can open them, and so nobody else can hold
    them. Where there is no such file to be had, nothing is locked and the log says so: the database's lock is left.
    """

    def __init__(self, folder: Path, boot_id: str) -> None:
        name = re.sub(r"[^0-9A-Za-z-]", "", boot_id) or "unknown"
        self._stem = folder / f"bitpress-{os.geteuid()}-{name}"
        self._told = False

    @contextmanager
    def held(self, *, alone: bool, wait: Callable[[], None]) -> Iterator[None]:
        """Hold the machine, alone or beside others that do not ask for that.

        `wait` is called ten times a second until the machine is had; what it raises ends the waiting. Nobody who holds
        it may ask for it again.
        """
        with ExitStack() as locked:
            try:
                # Who waits stands in the gate, and those who come later behind it: computing that goes on and on in
                # other workers cannot keep one from timing.
                with self._locked("gate", fcntl.LOCK_EX, wait):
                    kind = fcntl.LOCK_EX if alone else fcntl.LOCK_SH
                    locked.enter_context(self._locked("machine", kind, wait))
            except _Unusable as error:
                if not self._told:
                    log.warning(
                        "%s: only the database's lock keeps others on this machine from measuring, and nothing keeps "
                        "them from computing meanwhile. Set BITPRESS_MACHINE_LOCK_DIR to a folder that every worker "
                        "of this machine can write to.",
                        error,
                    )
                    self._told = True
            yield

    @contextmanager
    def _locked(self, name: str, kind: int, wait: Callable[[], None]) -> Iterator[None]:
        path = Path(f"{self._stem}-{name}.lock")
        descriptor = _taken(path, kind, wait)
        try:
            yield
        finally:
            # A child that is being started may have a copy of the descriptor for a moment, and with it the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)


def _taken(path: Path, kind: int, wait: Callable[[], None]) -> int:
    """A descriptor that holds the lock of the file that is there now, and not of one that was cleared away."""
    while True:
        descriptor = _opened(path)
        try:
            while not _try(descriptor, kind):
                wait()
                time.sleep(_EVERY_SECONDS)
            with suppress(OSError):
                os.utime(descriptor)  # or what clears temporary folders would take it for forgotten
            if _is(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _opened(path: Path) -> int:
    """Open the file, made if need be: a plain one of this user's. Raises `_Unusable`."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags, 0o600)
    except OSError as error:
        raise _Unusable(f"{path} cannot be opened ({error.strerror})") from error
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
        os.close(descriptor)
        raise _Unusable(f"{path} is not a file that only this user can open")
    return descriptor


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise _Unusable(f"the folder of the machine's lock has no locks ({error.strerror})") from error
    return True


def _is(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path, follow_symlinks=False), os.fstat(descriptor))
    except OSError:
        return False
