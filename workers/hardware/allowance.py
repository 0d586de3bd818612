"""How much of the machine this process may use: affinity, and the quotas of its control groups."""

import math
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

# What version 1 writes where there is no limit is the largest multiple of a page in 63 bits.
_NO_LIMIT = 1 << 60


def usable_cores(root: Path = Path("/")) -> int:
    """Cores that this process can keep busy: its affinity, or its control group's quota, rounded up, if less."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = [quota for group in _groups(root, "cpu") if (quota := _cpu_quota(group)) is not None]
    return max(1, min([count, *(math.ceil(quota) for quota in quotas)]))


def usable_memory(root: Path = Path("/")) -> int:
    """Bytes of memory: the machine's, or the limit of a control group around this process if less."""
    limits = [limit for group in _groups(root, "memory") if (limit := _memory_limit(group)) is not None]
    total = _total_memory(root)
    return min([total, *(limit for limit in limits if 0 < limit < _NO_LIMIT)])


def _total_memory(root: Path) -> int:
    for line in _read(root / "proc/meminfo").splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _groups(root: Path, controller: str) -> Iterator[Path]:
    """Folders of this process's control group and all around it, for both versions of the interface.

    Inside a container the path of the group is often the host's and not to be found; then its mount's own
    root is the group.
    """
    mount = root / "sys/fs/cgroup"
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            bases = [mount, mount / "unified"]
        elif controller in controllers.split(","):
            bases = [mount / controllers, mount / controller]
        else:
            continue
        inner = PurePosixPath(path.lstrip("/"))
        if ".." in inner.parts:
            inner = PurePosixPath()
        for base in bases:
            yield from (base / part for part in (inner, *inner.parents))


def _cpu_quota(group: Path) -> float | None:
    """Cores' worth of time that a group may use in each period."""
    words = _read(group / "cpu.max").split()
    if not words:
        words = [_read(group / "cpu.cfs_quota_us").strip(), _read(group / "cpu.cfs_period_us").strip()]
    try:
        quota, period = int(words[0]), int(words[1])
    except (ValueError, IndexError):
        return None  # "max", or no such file
    return quota / period if quota > 0 and period > 0 else None


def _memory_limit(group: Path) -> int | None:
    text = (_read(group / "memory.max") or _read(group / "memory.limit_in_bytes")).strip()
    return int(text) if text.isdecimal() else None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
