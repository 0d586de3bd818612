"""Which kind of processor it is, from descriptions that were written down."""

import platform

import archspec.cpu
import pytest

from workers.hardware.cpu import parse_cpuinfo, read_cpu
from workers.hardware.microarchitecture import microarchitecture

V3 = "fpu mmx sse sse2 pni ssse3 cx16 lahf_lm popcnt sse4_1 sse4_2 avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"


def x86(flags: str, *, vendor: str = "AuthenticAMD", family: int = 25, model: int = 17, stepping: int = 1) -> str:
    return (
        f"processor\t: 0\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: x\n"
        f"stepping\t: {stepping}\nflags\t\t: {flags}\n"
    )


def intel(model: int, *, stepping: int = 1) -> str:
    return x86(V4, vendor="GenuineIntel", family=6, model=model, stepping=stepping)


def arm(features: str, part: str, implementer: str = "0x41") -> str:
    return f"processor\t: 0\nFeatures\t: {features}\nCPU implementer\t: {implementer}\nCPU part\t: {part}\n"


def flags_of(name: str) -> str:
    return " ".join(archspec.cpu.TARGETS[name].features)


@pytest.mark.parametrize(
    ("text", "machine", "name", "generic", "presumed"),
    [
        (x86(flags_of("zen4")), "x86_64", "zen4", False, None),
        (x86(flags_of("sapphirerapids"), vendor="GenuineIntel"), "x86_64", "sapphirerapids", False, None),
        # Hypervisors hide features: what is left is a class, and the model number tells the rest.
        (x86(f"{V4} avx512_vnni hypervisor"), "x86_64", "x86_64_v4", True, "zen4"),
        (x86(f"{V3} hypervisor", family=23, model=0x31), "x86_64", "x86_64_v3", True, "zen2"),
        (
            x86(V4, vendor="GenuineIntel", family=6, model=0x55, stepping=4),
            "x86_64",
            "x86_64_v4",
            True,
            "skylake_avx512",
        ),
        (x86(V4, vendor="GenuineIntel", family=6, model=0x55, stepping=7), "x86_64", "x86_64_v4", True, "cascadelake"),
        (x86(V4, vendor="GenuineIntel", family=6, model=0x8F), "x86_64", "x86_64_v4", True, "sapphirerapids"),
        (x86(V4, vendor="GenuineIntel", family=6, model=0xFE), "x86_64", "x86_64_v4", True, None),
        (x86(V4, vendor="Nobody"), "x86_64", "x86_64_v4", True, None),
        (x86("fpu sse sse2", family=99), "x86_64", "x86_64", True, None),
        (arm(flags_of("neoverse_v1"), "0xd40"), "aarch64", "neoverse_v1", False, None),
        (arm("fp asimd", "0xfff", "0x99"), "aarch64", "aarch64", True, None),
    ],
)
def test_kinds(text: str, machine: str, name: str, generic: bool, presumed: str | None) -> None:
    found = microarchitecture(parse_cpuinfo(text, machine))
    assert found is not None
    assert (found.name, found.generic, found.presumed) == (name, generic, presumed)
    if presumed is not None:
        # What it hides is what its kind has, under any name, and it does not show.
        assert set(found.hidden) <= archspec.cpu.TARGETS[presumed].features
        assert not set(found.hidden) & set(text.split())
        assert "sse3" not in found.hidden, "Linux calls it pni, and ssse3 includes it"


def test_numbers_of_a_kind() -> None:
    found = microarchitecture(parse_cpuinfo(x86(V4, family=25, model=97, stepping=2), "x86_64"))
    assert found is not None
    assert (found.family, found.model, found.stepping) == (25, 97, 2)


def test_an_architecture_that_nobody_knows() -> None:
    assert microarchitecture(parse_cpuinfo("processor : 0\n", "riscv128")) is None


@pytest.mark.skipif(platform.system() != "Linux", reason="archspec asks this system otherwise")
def test_this_machine_as_archspec_itself_sees_it() -> None:
    found = microarchitecture(read_cpu())
    assert (found.name if found else None) == (archspec.cpu.host().name if found else None)
