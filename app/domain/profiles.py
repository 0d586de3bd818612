"""Machine classes that are known before any worker registers."""

from collections.abc import Collection

from pydantic import BaseModel, ConfigDict

from app.domain.target import CUDA, CUDA_PROVIDER, PROCESSOR
from app.errors import BitpressError


class Profile(BaseModel):
    """A machine class as data: what follows from it follows from its features."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    id: str
    summary: str
    features: tuple[str, ...]
    without: tuple[str, ...] = ()
    """Features that would have the runtime take other kernels, of another class."""
    providers: tuple[str, ...] = (PROCESSOR,)
    """onnxruntime's execution providers that its workers run jobs on, unless they are set otherwise."""


_AVX2 = ("avx", "avx2", "f16c", "fma", "sse4_1")
_AVX512 = (*_AVX2, "avx512bw", "avx512dq", "avx512f", "avx512vl")
_VNNI = (*_AVX512, "avx512_vnni")
_DOTPROD = ("asimd", "asimddp", "asimdhp")

PROFILES: dict[str, Profile] = {
    profile.id: profile
    for profile in (
        Profile(
            id="x86-avx2",
            summary="x86-64 with AVX2 and FMA: Intel from Haswell (2013), AMD from Zen (2017).",
            features=_AVX2,
            without=("avx512f", "avx_vnni"),
        ),
        Profile(
            id="x86-avx512",
            summary="x86-64 with AVX-512 and no VNNI: Intel Skylake servers (2017).",
            features=_AVX512,
            without=("avx512_vnni", "avx_vnni"),
        ),
        Profile(
            id="x86-avx512-vnni",
            summary="x86-64 with AVX-512 VNNI: Intel servers from Cascade Lake (2019), AMD from Zen 4 (2022).",
            features=_VNNI,
            without=("amx_int8",),
        ),
        Profile(
            id="x86-amx",
            summary="x86-64 with AMX tiles of bytes and bfloat16: Intel servers from Sapphire Rapids (2023).",
            features=(*_VNNI, "amx_bf16", "amx_int8", "amx_tile", "avx512_bf16", "avx_vnni"),
        ),
        Profile(
            id="arm-dotprod",
            summary="64-bit Arm with dot products and half precision: Cortex-A76, Neoverse N1 (2018) and later.",
            features=_DOTPROD,
            without=("i8mm",),
        ),
        Profile(
            id="arm-i8mm",
            summary="64-bit Arm with products of byte matrices: Neoverse V1, N2 (2021), Apple M2 and later.",
            features=(*_DOTPROD, "bf16", "i8mm"),
        ),
        Profile(
            id="cuda",
            summary="An NVIDIA GPU, with an onnxruntime that has CUDA: jobs run on it alone, and not on the processor.",
            features=(CUDA,),
            providers=(CUDA_PROVIDER,),
        ),
    )
}
"""Built-in profiles by their names."""


def providers_of(name: str) -> tuple[str, ...]:
    """The execution providers that jobs of a target are run on where its worker is not set otherwise."""
    profile = PROFILES.get(name)
    return profile.providers if profile is not None else (PROCESSOR,)


def refuse_false_name(name: str, features: Collection[str]) -> None:
    """Let no worker go by a profile that its machine is not: its numbers would be taken for those of another.

    Raises `BitpressError` (`profile_not_met`).
    """
    profile = PROFILES.get(name)
    if profile is None:
        return
    lacks = [each for each in profile.features if each not in features]
    more = [each for each in profile.without if each in features]
    if lacks or more:
        what = " and ".join(
            f"{verb} {', '.join(found)}, which the profile has{no}"
            for verb, found, no in (("lacks", lacks, ""), ("has", more, " not"))
            if found
        )
        raise BitpressError(
            f"BITPRESS_TARGET is {name}, a built-in profile, but this machine {what}: jobs for the profile would be "
            "measured on something else. Choose the profile of this machine, or any name of your own; GET /v1/targets "
            "lists the profiles.",
            code="profile_not_met",
        )
