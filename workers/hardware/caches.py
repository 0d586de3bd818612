"""The processors' caches, and who shares them."""

from collections import Counter
from pathlib import Path

from app.domain.target import Cache

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def read_caches(root: Path = Path("/")) -> tuple[Cache, ...]:
    """Every kind of cache, the nearest first; empty where the kernel does not tell (sysfs-devices-system-cpu)."""
    seen: set[tuple[int, str, int, str]] = set()
    for folder in (root / "sys/devices/system/cpu").glob("cpu[0-9]*/cache/index[0-9]*"):
        level, kind, size, shared = (_text(folder / name) for name in ("level", "type", "size", "shared_cpu_list"))
        if level.isdecimal() and (found := _bytes(size)):
            seen.add((int(level), kind.lower(), found, shared))
    # Each list of sharers is one cache.
    kinds = Counter((level, kind, size, _processors(shared)) for level, kind, size, shared in seen)
    return tuple(
        Cache(level=level, kind=kind, bytes=size, shared_by=shared_by, count=count)
        for (level, kind, size, shared_by), count in sorted(kinds.items())
    )


def _processors(text: str) -> int:
    """How many a list such as `0-3,8` names."""
    count = 0
    for part in text.split(","):
        first, _, last = part.partition("-")
        if first.isdecimal():
            count += int(last) - int(first) + 1 if last.isdecimal() else 1
    return max(count, 1)


def _bytes(size: str) -> int:
    number, unit = size[:-1], size[-1:]
    return int(number) * _UNITS[unit] if number.isdecimal() and unit in _UNITS else 0


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
