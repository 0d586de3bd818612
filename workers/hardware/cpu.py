"""What kind of processor this is, and what it can do, as the kernel tells it."""

import importlib
import platform
from dataclasses import dataclass
from pathlib import Path

from app.domain.target import FEATURES

# Arm's own cores by the part number in the MIDR register; implementer 0x41. Source: Linux,
# arch/arm64/include/asm/cputype.h.
_ARM_PARTS = {
    "0xd03": "Cortex-A53", "0xd05": "Cortex-A55", "0xd07": "Cortex-A57", "0xd08": "Cortex-A72",
    "0xd0a": "Cortex-A75", "0xd0b": "Cortex-A76", "0xd0c": "Neoverse N1", "0xd0d": "Cortex-A77",
    "0xd40": "Neoverse V1", "0xd41": "Cortex-A78", "0xd44": "Cortex-X1", "0xd49": "Neoverse N2",
    "0xd4f": "Neoverse V2", "0xd84": "Neoverse V3", "0xd8e": "Neoverse N3",
}  # fmt: skip
_IMPLEMENTERS = {"0x41": "ARM", "0x43": "Cavium", "0x46": "Fujitsu", "0x48": "HiSilicon", "0x4e": "Nvidia",
                 "0x51": "Qualcomm", "0x61": "Apple", "0xc0": "Ampere"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Cpu:
    """A processor: `virtual` is whether it says of itself that a hypervisor shows it.

    `features` are those of `flags` that matter to inference. `family`, `model` and `stepping` are x86's numbers of
    the kind, `part` is Arm's.
    """

    architecture: str
    model_name: str
    vendor: str
    features: tuple[str, ...]
    virtual: bool
    flags: frozenset[str] = frozenset()
    family: int | None = None
    model: int | None = None
    stepping: int | None = None
    part: str = ""


def read_cpu(root: Path = Path("/")) -> Cpu:
    """Describe the processor from `/proc/cpuinfo`; where there is none (macOS), as py-cpuinfo knows it."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return _asked()
    return parse_cpuinfo(text, platform.machine())


def parse_cpuinfo(text: str, machine: str) -> Cpu:
    """Read the kernel's description of all cores; features are those that every core has."""
    cores = [_fields(block) for block in text.split("\n\n") if ":" in block]
    described = [core for core in cores if "flags" in core or "Features" in core]
    first = described[0] if described else {}
    sets = [set((core.get("flags") or core.get("Features") or "").split()) for core in described]
    every = set.intersection(*sets) if sets else set()
    return Cpu(
        architecture=machine,
        model_name=first.get("model name") or _arm_name(first) or "unknown",
        vendor=first.get("vendor_id") or _IMPLEMENTERS.get(first.get("CPU implementer", ""), "unknown"),
        features=tuple(sorted(every & FEATURES)),
        virtual="hypervisor" in every,
        flags=frozenset(every),
        family=_number(first, "cpu family"),
        model=_number(first, "model"),
        stepping=_number(first, "stepping"),
        part=first.get("CPU part", ""),
    )


def _number(core: dict[str, str], name: str) -> int | None:
    text = core.get(name, "")
    return int(text) if text.isdecimal() else None


def _fields(block: str) -> dict[str, str]:
    pairs = (line.split(":", 1) for line in block.splitlines() if ":" in line)
    return {name.strip(): value.strip() for name, value in pairs}


def _arm_name(core: dict[str, str]) -> str:
    part = core.get("CPU part", "")
    if core.get("CPU implementer") == "0x41" and part in _ARM_PARTS:
        return _ARM_PARTS[part]
    return f"part {part}" if part else ""


def _asked() -> Cpu:
    # It starts other programs and takes 0.5 to 1.6 s, so only where the kernel has no file to read.
    found = importlib.import_module("cpuinfo").get_cpu_info()
    return Cpu(
        architecture=platform.machine(),
        model_name=str(found.get("brand_raw", "unknown")),
        vendor=str(found.get("vendor_id_raw", "Apple" if platform.system() == "Darwin" else "unknown")),
        features=tuple(sorted(set(found.get("flags", ())) & FEATURES)),
        virtual=False,
    )
