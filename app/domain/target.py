"""A machine as data, and what follows from its features; never an `if` on a name."""

import hashlib
import json
from collections.abc import Collection
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

_GIB = 1 << 30

# Which of its kernels onnxruntime 1.32 takes on which processor: onnxruntime/core/mlas/lib/platform.cpp.

# Multiply u8 by s8 straight into 32 bits: nothing in between can saturate.
_EXACT_INT8 = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})
# onnxruntime's x86 kernels from AVX2 on, without those, add two such products in 16 bits (VPMADDUBSW).
_SATURATING_INT8 = frozenset({"avx2", "avx512f"})
_INT8_DOT = _EXACT_INT8 | {"asimddp", "i8mm"}
_UNPACKS_BITS = _SATURATING_INT8 | _INT8_DOT
# AVX512-FP16 and AMX-FP16 are not among them: on x86 onnxruntime has no kernels in half precision.
_NATIVE_FP16 = frozenset({"asimdhp"})

FEATURES = frozenset(
    {
        "sse4_1", "avx", "avx2", "fma", "f16c", "gfni",
        "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512vbmi", "avx512_vnni", "avx512_bf16", "avx512_fp16",
        "avx_vnni", "avx_vnni_int8", "avx_vnni_int16", "avx_ne_convert",
        "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
        "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16", "sme", "sme2",
    }
)  # fmt: skip
"""Instruction-set features that matter to inference, by the names that Linux gives them."""

PROCESSOR = "CPUExecutionProvider"
"""onnxruntime's name for running on the processor."""
CUDA_PROVIDER = "CUDAExecutionProvider"

CUDA = "cuda"
"""The feature of a machine whose onnxruntime has CUDA and that has a device for it."""

Resource = Literal["fp32", "int8", "memory_read", "memory_copy", "cache_read"]
"""What a machine has a ceiling of: multiply-adds of a type, bytes of memory where no cache helps (a copied byte counts
as two, one read and one written), and bytes read of what stays in the caches of the last level."""


Unit = Literal["GFLOP/s", "GOP/s", "GB/s"]

SHAKY = 0.15
"""A peak whose spread is larger was measured while the machine did something else too."""

NEIGHBOURS = 0.1
"""More work of others than this many processors may have kept a peak down; a machine has some housekeeping."""


class _Described(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Cache(_Described):
    """One kind of a processor's caches."""

    level: int
    kind: str
    """`data`, `instruction` or `unified`."""
    bytes: int
    """Of each of them."""
    shared_by: int
    """Processors, as the system counts them, that share one."""
    count: int
    """How many there are."""


class Microarchitecture(_Described):
    """What is known of a processor's kind."""

    name: str
    """archspec's; of a processor that hides some features only a class of instruction sets, such as `x86_64_v4`."""
    generic: bool
    """Whether the name is only such a class."""
    presumed: str | None = None
    """The kind that vendor, family and model tell, where the name is only a class."""
    hidden: tuple[str, ...] = ()
    """Features that this kind has and this processor does not show, as under most hypervisors."""
    family: int | None = None
    model: int | None = None
    stepping: int | None = None


class Provider(_Described):
    """An execution provider that the installed onnxruntime has."""

    name: str
    loads: bool
    """Whether a session of one node opened on it, with no fallback, under a job's confinement."""
    reason: str | None = None


class Installed(_Described):
    """A further runtime."""

    name: str
    version: str
    imports: bool | None
    """Whether it could be imported under a job's confinement; null where that was not tried."""
    reason: str | None = None


class Peak(_Described):
    """The most of something that a machine was seen to do."""

    resource: Resource
    value: float = Field(gt=0)
    unit: Unit
    """A multiplication and an addition are two operations; a GB is 10⁹ bytes."""
    threads: int = Field(ge=1)
    method: str
    spread: float = Field(ge=0)
    """How far the median of the measured windows lies below the best of them, as a share of it."""


class Peaks(_Described):
    """Ceilings of a machine, measured with small kernels."""

    measured: tuple[Peak, ...] = ()
    """Of each resource one for one thread and, where there are more cores, one for all."""
    seconds: float = Field(ge=0)
    """That measuring took."""
    neighbour_cpus: float | None = None
    """Work of all other processes meanwhile, in processors; null where the system does not tell."""
    notes: tuple[str, ...] = ()
    """What was left out, and what speaks against a number."""

    @property
    def steady(self) -> bool:
        """Whether nothing else seems to have been at work on the machine."""
        alone = self.neighbour_cpus is None or self.neighbour_cpus <= NEIGHBOURS
        return alone and bool(self.measured) and all(peak.spread <= SHAKY for peak in self.measured)

    def of(self, resource: Resource, threads: int) -> Peak | None:
        """The ceiling for so many threads: that of the most threads measured that are no more; null where unknown."""
        found = (peak for peak in self.measured if peak.resource == resource and peak.threads <= threads)
        return max(found, key=lambda peak: peak.threads, default=None)


class Fingerprint(BaseModel):
    """The machine that a number was measured on.

    `cores` are those that this process may use, by its affinity and its control group's quota;
    `memory_bytes` is the machine's, or its control group's limit where that is less. `virtualization` is
    "none", a hypervisor's name, "vm" where it gives none, or "unknown". Two machines with the same `id` may
    be compared. What was measured or tried (`peaks`, `providers`, `installed`) is null where that has not been done,
    and no part of the `id`. `runs_on` are onnxruntime's execution providers that jobs are run on here; others than the
    processor are part of the `id`.
    """

    model_config = ConfigDict(frozen=True)

    id: str = Field(pattern="^[0-9a-f]{16}$")
    architecture: str
    model_name: str
    vendor: str
    features: tuple[str, ...]
    cores: int = Field(ge=1)
    memory_bytes: int = Field(ge=0)
    os: str
    kernel: str
    virtualization: str
    boot_id: str
    versions: dict[str, str]
    runtimes: tuple[str, ...]
    microarchitecture: Microarchitecture | None = None
    caches: tuple[Cache, ...] = ()
    governor: str | None = None
    accelerators: tuple[str, ...] = ()
    peaks: Peaks | None = None
    providers: tuple[Provider, ...] | None = None
    installed: tuple[Installed, ...] | None = None
    runs_on: tuple[str, ...] = (PROCESSOR,)

    def running_on(self, providers: tuple[str, ...]) -> "Fingerprint":
        """This machine as one whose jobs run on these execution providers: they are compared with no others."""
        if providers == (PROCESSOR,):
            return self
        named = hashlib.sha256(json.dumps([self.id, *providers]).encode()).hexdigest()[:16]
        return self.model_copy(update={"id": named, "runs_on": providers})

    @property
    def last_caches(self) -> tuple[Cache, ...]:
        """Those of the last level; empty where none is known."""
        last = max((cache.level for cache in self.caches), default=0)
        return tuple(cache for cache in self.caches if cache.level == last)


class Tried(_Described):
    """What a machine did when it was tried, and what tells whether it still is that machine."""

    id: str
    """The fingerprint's."""
    boot_id: str
    kernel: str
    governor: str | None = None
    versions: dict[str, str]
    """Of all that is installed, further runtimes among it."""
    peaks: Peaks
    providers: tuple[Provider, ...]
    installed: tuple[Installed, ...]

    @classmethod
    def of(cls, machine: Fingerprint) -> "Tried":
        """What is known of a machine that was tried."""
        return cls.model_validate({name: getattr(machine, name) for name in cls.model_fields})

    def holds_for(self, machine: Fingerprint) -> bool:
        """Whether the machine is the same still, and has not been started anew since."""
        return (self.id, self.boot_id, self.kernel, self.governor, self.versions) == (
            machine.id, machine.boot_id, machine.kernel, machine.governor, machine.versions,
        )  # fmt: skip

    def added_to(self, machine: Fingerprint) -> Fingerprint:
        """The machine with what it did."""
        return machine.model_copy(
            update={"peaks": self.peaks, "providers": self.providers, "installed": self.installed}
        )


def fingerprint_id(
    *,
    architecture: str,
    model_name: str,
    vendor: str,
    features: Collection[str],
    cores: int,
    memory_bytes: int,
    virtualization: str,
    runtime_versions: dict[str, str],
) -> str:
    """Name a machine by what stays the same from one start to the next and decides what it measures.

    Memory counts in whole GiB, since a kernel keeps a few more or fewer pages for itself at each boot.
    """
    stable: list[Any] = [
        architecture, vendor, model_name, sorted(features), cores, round(memory_bytes / _GIB), virtualization,
        sorted(runtime_versions.items()),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(stable).encode()).hexdigest()[:16]


def saturates_int8(features: Collection[str]) -> bool:
    """Whether products of u8 activations and s8 weights saturate at 16 bits: x86 without VNNI or AMX.

    There, full-range weights lose accuracy that 7-bit ones keep (measured, see the int8 rules of
    onnxruntime's quantization guide).
    """
    return not _SATURATING_INT8.isdisjoint(features) and _EXACT_INT8.isdisjoint(features)


def unpacks_bits_fast(features: Collection[str]) -> bool:
    """Whether weights of a few bits are multiplied as bytes, right after they are unpacked (MatMulNBits).

    Products of 4-bit weights with bytes cannot saturate 16 bits, so that AVX2 is enough.
    """
    return not _UNPACKS_BITS.isdisjoint(features)


def has_int8_dot(features: Collection[str]) -> bool:
    """Whether the processor multiplies and adds four bytes at once into 32 bits."""
    return not _INT8_DOT.isdisjoint(features)


def fp16_is_native(features: Collection[str]) -> bool:
    """Whether onnxruntime computes in half precision on the processor instead of converting to and fro."""
    return not _NATIVE_FP16.isdisjoint(features)
