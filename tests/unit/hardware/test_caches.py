"""Caches from an invented /sys."""

from pathlib import Path

import pytest

from app.domain.target import Cache
from tests.unit.hardware.test_probe import machine
from workers.hardware.caches import read_caches


def cache(cpu: int, index: int, level: int, kind: str, size: str, shared: str) -> dict[str, str]:
    folder = f"sys/devices/system/cpu/cpu{cpu}/cache/index{index}"
    values = {"level": str(level), "type": kind, "size": size, "shared_cpu_list": shared}
    return {f"{folder}/{name}": f"{value}\n" for name, value in values.items()}


def test_each_cache_is_counted_once(tmp_path: Path) -> None:
    files: dict[str, str] = {}
    for cpu in range(8):
        threads = f"{cpu % 4},{cpu % 4 + 4}"  # two threads of a core
        files |= cache(cpu, 0, 1, "Data", "48K", threads) | cache(cpu, 1, 1, "Instruction", "32K", threads)
        files |= cache(cpu, 2, 2, "Unified", "2M", threads)
        files |= cache(cpu, 3, 3, "Unified", "16384K", "0-1,4-5" if cpu % 4 < 2 else "2-3,6-7")
    found = read_caches(machine(tmp_path, files))
    assert found == (
        Cache(level=1, kind="data", bytes=48 << 10, shared_by=2, count=4),
        Cache(level=1, kind="instruction", bytes=32 << 10, shared_by=2, count=4),
        Cache(level=2, kind="unified", bytes=2 << 20, shared_by=2, count=4),
        Cache(level=3, kind="unified", bytes=16 << 20, shared_by=4, count=2),
    )


@pytest.mark.parametrize(
    "files",
    [
        {},
        cache(0, 0, 1, "Data", "", "0"),
        cache(0, 0, 1, "Data", "many", "0"),
        {"sys/devices/system/cpu/cpu0/cache/index0/uevent": ""},
        {"sys/devices/system/cpu/cpufreq/boost": "1"},
    ],
)
def test_what_the_kernel_does_not_tell(files: dict[str, str], tmp_path: Path) -> None:
    assert read_caches(machine(tmp_path, files)) == ()
