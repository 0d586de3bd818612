"""What a living child uses, read from outside while it works."""

import os
import signal
import stat
import time
from contextlib import suppress
from dataclasses import dataclass

from workers.sandbox import scratch
from workers.sandbox.errors import DiskLimitExceeded, MemoryLimitExceeded, ThreadLimitExceeded
from workers.sandbox.limits import MiB, SandboxLimits

_DISK_SECONDS = 0.5
_DISK_SHARE = 20  # looking at the disk may take a twentieth of the time


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """`memory_bytes` is resident set, swap and page tables; `peak_bytes` the largest resident set so far."""

    memory_bytes: int
    peak_bytes: int
    threads: int


def process_status(pid: int) -> ProcessStatus | None:
    """What /proc says about a process; None once it is gone."""
    try:
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file)
    except (FileNotFoundError, ProcessLookupError):
        return None
    if "VmRSS" not in fields:
        return None  # a zombie has no memory

    def size(name: str) -> int:
        return int(fields[name].split()[0]) * 1024 if name in fields else 0

    held = size("VmRSS") + size("VmSwap") + size("VmPTE")
    return ProcessStatus(held, size("VmHWM"), int(fields["Threads"]))


class Watch:
    """Compares one child with its limits; `check` is called every 100 ms or so."""

    def __init__(self, pid: int, folder: int, limits: SandboxLimits) -> None:
        self._pid = pid
        self._folder = folder
        self._limits = limits
        self._next_disk = 0.0
        self.peak_bytes = 0

    def check(self, *, disk_now: bool = False) -> None:
        """Looks at memory and threads, and at the disk when half a second has passed or `disk_now`.

        Raises MemoryLimitExceeded, ThreadLimitExceeded and DiskLimitExceeded.
        """
        self._check_process()
        started = time.monotonic()
        if disk_now or started >= self._next_disk:
            self._check_disk()
            took = time.monotonic() - started
            self._next_disk = started + max(_DISK_SECONDS, took * _DISK_SHARE)

    def _check_process(self) -> None:
        status = process_status(self._pid)
        if status is None:
            return
        self.peak_bytes = max(self.peak_bytes, status.peak_bytes)
        if status.memory_bytes > self._limits.memory_bytes:
            raise MemoryLimitExceeded(
                f"The step needed more than the {self._limits.memory_bytes // MiB} MiB of memory it may have. "
                "Use a smaller model or batch, or raise the worker's memory limit."
            )
        if status.threads > self._limits.threads:
            raise ThreadLimitExceeded(
                f"The step started more than {self._limits.threads} threads. Ask for fewer threads in the job."
            )

    def _check_disk(self) -> None:
        used = scratch.measure(self._folder, self._limits.files).bytes + self._deleted_bytes()
        if used > self._limits.disk_bytes:
            raise DiskLimitExceeded(
                f"The step filled more than the {self._limits.disk_bytes // MiB} MiB of disk it may have. "
                "Use a smaller model or dataset, or raise the worker's disk limit."
            )
        system = os.fstatvfs(self._folder)
        if system.f_bavail * system.f_frsize < self._limits.free_disk_bytes:
            raise DiskLimitExceeded(
                "The worker's disk is nearly full. Try again later, or free space on the worker.", retryable=True
            )

    def _deleted_bytes(self) -> int:
        """Space of files that the child has deleted and holds open; 0 where the kernel does not show them.

        Not shown: another user's child in a container without CAP_SYS_PTRACE, and files held by a memory
        mapping alone. The file system's free space is the stop for those.
        """
        found: dict[int, int] = {}
        with suppress(OSError):
            for descriptor in os.listdir(f"/proc/{self._pid}/fd"):
                with suppress(FileNotFoundError):
                    status = os.stat(f"/proc/{self._pid}/fd/{descriptor}")
                    if stat.S_ISREG(status.st_mode) and status.st_nlink == 0:
                        found[status.st_ino] = status.st_blocks * 512
        return sum(found.values())


def describe_exit(code: int) -> str:
    """A return code of `Popen` in words: `signal SIGSEGV`, `exit code 3`."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
