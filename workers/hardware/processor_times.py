"""What all processors of the machine have done together."""

import os
from pathlib import Path

STAT = Path("/proc/stat")


def read_processor_times(stat: Path = STAT) -> tuple[float | None, float | None]:
    """Seconds that all processors have worked, and that were stolen from them (Linux, proc(5)); else None."""
    try:
        return parse_processor_times(stat.read_bytes())
    except OSError:
        return None, None


def parse_processor_times(content: bytes) -> tuple[float | None, float | None]:
    """The same of what was read; only its first line is looked at."""
    fields = content.split(b"\n", 1)[0].split()
    try:
        ticks = [int(field) for field in fields[1:9]]
    except ValueError:
        return None, None
    if fields[:1] != [b"cpu"] or len(ticks) < 8:
        return None, None
    user, nice, system, _idle, _iowait, irq, softirq, steal = ticks
    hertz = os.sysconf("SC_CLK_TCK")
    return (user + nice + system + irq + softirq) / hertz, steal / hertz
