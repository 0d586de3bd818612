"""Energy from the processor's own counters, where they can be read; never guessed.

RAPL as Linux's powercap shows it: one folder a package with a count of microjoules that wraps. Virtual
machines have none, and since 2020 only root may read them.
"""

import time
from collections.abc import Callable
from pathlib import Path

_POWERCAP = Path("/sys/class/powercap")

UNREADABLE = "no energy counter (RAPL) can be read on this machine"


class EnergyCounter:
    """The energy that all processor packages together have used, idle parts included."""

    def __init__(self, folder: Path = _POWERCAP) -> None:
        self._packages: list[tuple[Path, int]] = []
        # intel-rapl:0 is a package, intel-rapl:0:0 a part of it that the package already counts.
        for package in sorted(folder.glob("intel-rapl:[0-9]*")):
            if package.name.count(":") != 1:
                continue
            try:
                whole = int((package / "max_energy_range_uj").read_text(encoding="ascii"))
                int((package / "energy_uj").read_text(encoding="ascii"))
            except (OSError, ValueError):
                continue
            self._packages.append((package / "energy_uj", whole))
        self._last = self._read() if self.readable else []

    @property
    def readable(self) -> bool:
        """Whether there is anything to read."""
        return bool(self._packages)

    def since_last(self) -> float:
        """Joules since the last call, or since the counter was made. At most one wrap is seen."""
        now, before = self._read(), self._last
        self._last = now
        ranges = [whole for _, whole in self._packages]
        used = [
            end - begin if end >= begin else end - begin + whole
            for end, begin, whole in zip(now, before, ranges, strict=True)
        ]
        return sum(used) / 1e6

    def watts(self, seconds: float, *, wait: Callable[[float], object] = time.sleep) -> float:
        """The power of the machine while this process rests for so long."""
        self.since_last()
        begun = time.monotonic()
        wait(seconds)
        return self.since_last() / (time.monotonic() - begun)

    def _read(self) -> list[int]:
        return [int(path.read_text(encoding="ascii")) for path, _ in self._packages]
