"""What one sandbox child may use."""

from dataclasses import dataclass

MiB = 1 << 20
GiB = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxLimits:
    """Ceilings of one child; crossing one kills it.

    `memory_bytes` is resident memory, swap and page tables together; `disk_bytes` and `files` count the
    whole scratch folder, files deleted but still open included; `free_disk_bytes` is what the scratch
    folder's file system must keep free; `seconds` is wall-clock time per step; `cpu_seconds` is for the
    whole child, a stop for when the parent itself is stopped; `progress_bytes` is per step; the log is
    not a reason to kill: what exceeds `log_bytes` is left out of the file.
    """

    memory_bytes: int
    disk_bytes: int = 32 * GiB
    free_disk_bytes: int = 64 * MiB
    files: int = 100_000
    seconds: float = 3600.0
    cpu_seconds: int = 7 * 24 * 3600
    threads: int = 256
    open_files: int = 1024
    log_bytes: int = 1 * MiB
    progress_bytes: int = 8 * MiB
    result_bytes: int = 8 * MiB

    @property
    def address_space_bytes(self) -> int:
        """The kernel's own stop for a child that outruns the parent's 100 ms watch.

        Importing torch alone reserves 780 MB and allocators reserve arenas per thread, so this lies well
        above `memory_bytes`; it also bounds shared pages that resident memory does not count.
        """
        return 2 * self.memory_bytes + 8 * GiB
