"""Which kind of processor this is, by archspec's data; and by its model number, where it hides what it can do."""

from archspec.cpu import TARGETS  # type: ignore[import-untyped]
from archspec.cpu import Microarchitecture as Kind
from archspec.cpu.detect import COMPATIBILITY_CHECKS, partial_uarch  # type: ignore[import-untyped]

from app.domain.target import Microarchitecture
from workers.hardware.cpu import Cpu

# Family and models of AMD's kinds: Linux 6.12, arch/x86/kernel/cpu/amd.c, bsp_init_amd.
_AMD: tuple[tuple[str, int, tuple[range, ...]], ...] = (
    ("zen", 0x17, (range(0x30), range(0x50, 0x60))),
    ("zen2", 0x17, (range(0x30, 0x50), range(0x60, 0x80), range(0x90, 0x92), range(0xA0, 0xB0))),
    ("zen3", 0x19, (range(0x10), range(0x20, 0x60))),
    ("zen4", 0x19, (range(0x10, 0x20), range(0x60, 0xB0))),
    ("zen5", 0x1A, (range(0x30), range(0x40, 0x50), range(0x60, 0x80))),
)
# Intel's models of family 6: Linux 6.12, arch/x86/include/asm/intel-family.h. Those that archspec has no name for
# are left out.
_INTEL: dict[int, str] = {
    **dict.fromkeys((0x3C, 0x3F, 0x45, 0x46), "haswell"),
    **dict.fromkeys((0x3D, 0x47, 0x4F, 0x56), "broadwell"),
    **dict.fromkeys((0x4E, 0x5E, 0x8E, 0x9E, 0xA5, 0xA6), "skylake"),
    **dict.fromkeys((0x6A, 0x6C, 0x7D, 0x7E), "icelake"),
    **dict.fromkeys((0x8F, 0xCF), "sapphirerapids"),
    **dict.fromkeys((0x97, 0x9A, 0xB7, 0xBA, 0xBF), "alderlake"),
}
_SKYLAKE_SERVER = 0x55
_FIRST_CASCADE_LAKE = 5  # steppings of that model: 4 Skylake, 5 to 7 Cascade Lake


def microarchitecture(cpu: Cpu) -> Microarchitecture | None:
    """The kind of a processor; null where archspec knows none of its architecture.

    Of those that fit, the one with the longest line of ancestors is taken, as archspec does (0.2.7, `host`), but for
    the processor described here instead of the one it runs on.
    """
    check = COMPATIBILITY_CHECKS.get(cpu.architecture)
    if check is None:
        return None
    info = partial_uarch(vendor=cpu.vendor, features=set(cpu.flags), cpu_part=cpu.part)
    fitting = [kind for kind in TARGETS.values() if kind.family.name == cpu.architecture and check(info, kind)]
    classes = [kind for kind in fitting if kind.vendor == "generic"]
    if not classes:
        return None
    best = max(classes, key=_detail)
    kinds = [kind for kind in fitting if kind > best]
    kinds = [kind for kind in kinds if cpu.part and kind.cpu_part == cpu.part] or kinds
    name = max(kinds, key=_detail, default=best).name
    presumed = _by_model(cpu) if name == best.name else None
    return Microarchitecture(
        name=name,
        generic=name == best.name,
        presumed=presumed,
        # `in` knows that a feature may go by another name, or be part of another.
        hidden=tuple(sorted(each for each in TARGETS[presumed].features if each not in info)) if presumed else (),
        family=cpu.family,
        model=cpu.model,
        stepping=cpu.stepping,
    )


def _detail(kind: Kind) -> tuple[int, int]:
    return len(kind.ancestors), len(kind.features)


def _by_model(cpu: Cpu) -> str | None:
    if cpu.family is None or cpu.model is None:
        return None
    if cpu.vendor == "AuthenticAMD":
        return next(
            (name for name, family, models in _AMD if family == cpu.family and any(cpu.model in m for m in models)),
            None,
        )
    if cpu.vendor != "GenuineIntel" or cpu.family != 6:
        return None
    if cpu.model == _SKYLAKE_SERVER:
        return "cascadelake" if (cpu.stepping or 0) >= _FIRST_CASCADE_LAKE else "skylake_avx512"
    return _INTEL.get(cpu.model)
