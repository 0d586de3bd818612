"""What each technique is worth on a machine: from its features, and from what finished jobs measured there.

What follows from features follows from the kernels that onnxruntime 1.32 has for them: `app.domain.target` for
processors; for CUDA docs/OperatorKernels.md of its repository.
"""

import statistics
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from pydantic import BaseModel, ConfigDict

from app.domain.recipe import TECHNIQUES
from app.domain.target import (
    CUDA,
    FEATURES,
    fp16_is_native,
    has_int8_dot,
    saturates_int8,
    unpacks_bits_fast,
)

Verdict = Literal["native", "emulated", "saturates", "slower than fp32 (measured)", "unsupported"]
"""`native`: kernels compute in the technique's types. `emulated`: the same numbers by way of wider types, so that bytes
are saved and hardly any time. `saturates`: fast kernels, whose sums of two products lose what 16 bits cannot hold.
`slower than fp32 (measured)`: finished jobs say so. `unsupported`: no kernel."""

_SLOWER: Verdict = "slower than fp32 (measured)"


class LatencyEvidence(BaseModel):
    """What finished jobs measured of a technique on one machine, undisturbed, by the usual runtime, at the conditions
    that their goals use."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    jobs: int
    models: int
    latency_ratio: float
    """Latency as a multiple of the original's: the median over models of the median over each one's jobs."""
    slower: int
    """Models of which every interval lies above 1."""
    faster: int
    """Models of which every interval lies below 1."""


class Suitability(BaseModel):
    """What a technique is worth on a target, and why."""

    model_config = ConfigDict(frozen=True)

    technique: str
    verdict: Verdict
    reason: str
    measured: LatencyEvidence | None = None

    @property
    def doubt(self) -> str | None:
        """What to tell somebody who is about to use it here: that it was slower, if jobs measured that."""
        if self.measured is None or self.verdict != _SLOWER:
            return None
        return f"On this target {self.technique} is {_SLOWER}. {_in_words(self.measured)}"


@dataclass(frozen=True, slots=True)
class Timing:
    """One undisturbed comparison of a finished job, by the usual runtime: the artifact's latency as a multiple of the
    original's."""

    technique: str
    job: str
    model: str
    ratio: float
    ci95: tuple[float, float] | None


def suitability(features: Collection[str], timings: Iterable[Timing] = ()) -> tuple[Suitability, ...]:
    """Judge every technique; `timings` are those of the machine that the features are of."""
    by_technique: dict[str, list[Timing]] = {}
    for timing in timings:
        by_technique.setdefault(timing.technique, []).append(timing)
    found = _by_features(features)
    return tuple(_judged(name, *found[name], by_technique.get(name, [])) for name in TECHNIQUES)


def evidence_of(timings: Collection[Timing]) -> LatencyEvidence | None:
    """Sum up timings of one technique on one machine; null where there are none."""
    if not timings:
        return None
    models: dict[str, list[Timing]] = {}
    for timing in timings:
        models.setdefault(timing.model, []).append(timing)
    return LatencyEvidence(
        jobs=len({timing.job for timing in timings}),
        models=len(models),
        latency_ratio=round(
            statistics.median(statistics.median(each.ratio for each in found) for found in models.values()), 4
        ),
        slower=sum(all(each.ci95 is not None and each.ci95[0] > 1 for each in found) for found in models.values()),
        faster=sum(all(each.ci95 is not None and each.ci95[1] < 1 for each in found) for found in models.values()),
    )


def _judged(name: str, verdict: Verdict, reason: str, timings: Collection[Timing]) -> Suitability:
    measured = evidence_of(timings)
    if measured is None:
        return Suitability(technique=name, verdict=verdict, reason=reason)
    # A technique that speeds up as many models as it slows down is not slower, whatever their median.
    slower = measured.slower > measured.faster and measured.latency_ratio > 1
    return Suitability(
        technique=name,
        verdict=_SLOWER if slower and verdict != "unsupported" else verdict,
        reason=f"{_in_words(measured)} {reason}",
        measured=measured,
    )


def _in_words(measured: LatencyEvidence) -> str:
    jobs = f"{measured.jobs} job{'s' * (measured.jobs > 1)}"
    models = f"{measured.models} model{'s' * (measured.models > 1)}"
    undecided = measured.models - measured.slower - measured.faster
    return (
        f"{jobs} on {models} measured {measured.latency_ratio:.2f} times the latency of fp32 here: slower for "
        f"{measured.slower}, faster for {measured.faster}, undecided for {undecided}."
    )


Found = tuple[Verdict, str]


def _by_features(features: Collection[str]) -> Mapping[str, Found]:
    # Where the features are of both, jobs run on the processor: see `app.services.targets.kernel_features`.
    plain = _on_cuda() if CUDA in features and FEATURES.isdisjoint(features) else _on_processor(features)
    return {**plain, "mixed": _of_parts(plain)}


def _on_processor(features: Collection[str]) -> dict[str, Found]:
    int8 = _int8(features)
    return {
        "dynamic_int8": int8,
        "static_int8": int8,
        "static_int16": (
            "emulated",
            "ONNX Runtime has no kernels of 16-bit integers and multiplies floats between the pairs: for accuracy and "
            "size, not for speed.",
        ),
        "weight_only": _few_bits(features),
        "float16": _float16(features),
        "bfloat16": (
            "emulated",
            "Weights are stored in bfloat16 and become float32 as the model is loaded: half the file, the same "
            "arithmetic.",
        ),
    }


def _int8(features: Collection[str]) -> Found:
    if has_int8_dot(features):
        with_ = _named(features, ("amx_int8", "avx512_vnni", "avx_vnni", "i8mm", "asimddp"))
        return "native", f"With {with_} bytes are multiplied and added straight into 32 bits: nothing saturates."
    if saturates_int8(features):
        with_ = _named(features, ("avx512f", "avx2"))
        return (
            "saturates",
            f"With {with_} and without VNNI two products of bytes are added in 16 bits, which full-range weights "
            "overflow: reduce_range (auto) takes 7-bit weights here.",
        )
    with_ = _named(features, ("asimd", "sse4_1"))
    return (
        "emulated",
        f"With {with_} bytes are widened before they are multiplied: exact, but hardly faster than float."
        if with_
        else "Nothing is known here that multiplies bytes: portable kernels are exact and slow.",
    )


def _few_bits(features: Collection[str]) -> Found:
    if unpacks_bits_fast(features):
        with_ = _named(features, ("avx512_vnni", "avx_vnni", "avx512f", "avx2", "i8mm", "asimddp"))
        return (
            "native",
            f"MatMulNBits has kernels for {with_} that unpack weights of 2, 4 and 8 bits into bytes and multiply "
            "those: fast where weights come from memory, as in decoders.",
        )
    return "emulated", "MatMulNBits has no kernel for this processor: weights are unpacked into floats first."


def _float16(features: Collection[str]) -> Found:
    if fp16_is_native(features):
        return "native", "With asimdhp ONNX Runtime computes in half precision."
    quickly = ", by single instructions (f16c)" if "f16c" in features else ""
    return (
        "emulated",
        f"ONNX Runtime has no kernels in half precision for this processor and converts to float and back{quickly}: "
        "half the size, usually slower.",
    )


def _on_cuda() -> dict[str, Found]:
    floats = "ONNX Runtime's CUDA provider multiplies floats between the pairs: integers save bytes, not time."
    return {
        "dynamic_int8": (
            "unsupported",
            "ONNX Runtime's CUDA provider has no DynamicQuantizeLinear and no product of unsigned bytes: these nodes "
            "would run on the processor.",
        ),
        "static_int8": ("emulated", floats),
        "static_int16": ("emulated", floats),
        "weight_only": (
            "native",
            "ONNX Runtime's CUDA provider has MatMulNBits: weights are unpacked as they come from memory.",
        ),
        "float16": ("native", "ONNX Runtime's CUDA provider computes in half precision."),
        "bfloat16": (
            "emulated",
            "Weights become float32 before they are multiplied: half the file, the same arithmetic.",
        ),
    }


def _of_parts(plain: Mapping[str, Found]) -> Found:
    """The best that a part can be, since each node may be given what suits it."""
    order: tuple[Verdict, ...] = ("native", "saturates", "emulated")
    best = next(verdict for verdict in order if any(found == verdict for found, _ in plain.values()))
    names = [name for name, (found, _) in plain.items() if found == best]
    return (
        best,
        f"Each part is what its own technique is; {', '.join(names)} {'are' if len(names) > 1 else 'is'} {best}.",
    )


def _named(features: Collection[str], candidates: Iterable[str]) -> str:
    """The first of some features that is there; empty where none is."""
    return next((name for name in candidates if name in features), "")
