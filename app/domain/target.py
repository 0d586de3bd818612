"""A machine as data, and what follows from its features; never an `if` on a name."""

import hashlib
import json
from collections.abc import Collection
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

_GIB = 1 << 30

# Multiply u8 by s8 straight into 32 bits: nothing in between can saturate.
_EXACT_INT8 = frozenset({"avx_vnni", "avx512_vnni", "amx_int8"})
# onnxruntime's x86 kernels from AVX2 on, without those, add two such products in 16 bits (VPMADDUBSW).
_SATURATING_INT8 = frozenset({"avx2", "avx512f"})
_INT8_DOT = _EXACT_INT8 | {"asimddp", "i8mm"}
_NATIVE_FP16 = frozenset({"avx512_fp16", "amx_fp16", "asimdhp"})

FEATURES = frozenset(
    {
        "sse4_1", "avx", "avx2", "fma", "f16c",
        "avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16",
        "avx_vnni", "avx_vnni_int8", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
        "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve", "sve2", "sme",
    }
)  # fmt: skip
"""Instruction-set features that matter to inference, by the names that Linux gives them."""


class Fingerprint(BaseModel):
    """The machine that a number was measured on.

    `cores` are those that this process may use, by its affinity and its control group's quota;
    `memory_bytes` is the machine's, or its control group's limit where that is less. `virtualization` is
    "none", a hypervisor's name, "vm" where it gives none, or "unknown". Two machines with the same `id` may
    be compared.
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


def has_int8_dot(features: Collection[str]) -> bool:
    """Whether the processor multiplies and adds four bytes at once into 32 bits."""
    return not _INT8_DOT.isdisjoint(features)


def fp16_is_native(features: Collection[str]) -> bool:
    """Whether the processor computes in half precision instead of converting to and fro."""
    return not _NATIVE_FP16.isdisjoint(features)
