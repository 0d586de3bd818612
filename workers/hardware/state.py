"""What of a machine may change while a worker runs on it: read in a millisecond or two, before each job."""

from dataclasses import asdict, dataclass
from pathlib import Path

from workers.hardware.allowance import usable_cores, usable_memory
from workers.hardware.versions import installed_versions

_GOVERNOR = "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"


@dataclass(frozen=True, slots=True)
class MachineState:
    """What the thread that reads it, and every child that it starts, may use of the machine, and finds there.

    `cores` and `memory_bytes` are those of `app.domain.target.Fingerprint`; `governor` is None where the kernel tells
    none.
    """

    cores: int
    memory_bytes: int
    governor: str | None
    versions: dict[str, str]

    def told_apart(self, later: "MachineState") -> str:
        """What has changed since, for the log."""
        before, after = ({**asdict(each), **each.versions} for each in (self, later))
        names = [name for name in {**before, **after} if name != "versions" and before.get(name) != after.get(name)]
        return ", ".join(f"{name} was {before.get(name)} and is {after.get(name)}" for name in names)


def read_state(root: Path = Path("/")) -> MachineState:
    """The state now; `root` is where /proc and /sys are."""
    try:
        governor = (root / _GOVERNOR).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        governor = ""
    return MachineState(usable_cores(root), usable_memory(root), governor or None, installed_versions())
