"""The roofline of a model on a machine: what each operator must compute and move at least, which of the two bounds its
time here, how near it comes, and whether fewer bits could help at all.

Source: Williams, Waterman, Patterson, "Roofline: an insightful visual performance model for multicore architectures",
CACM 52(4), 2009; Amdahl's law for the whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from workers.evaluation.operators import OperatorTime

Kind = Literal["product", "arithmetic", "movement", "view", "control", "unknown"]
"""`product`: sums of products, which hardware has special instructions for. `view`: nothing is computed or moved.
`control`: what is inside counts, not the node. `unknown`: only its bytes are counted."""

Bound = Literal["compute", "memory", "cache", "none", "unknown"]

_INT8_OF_FLOAT = 1 / 4
_INT4_OF_FLOAT = 5 / 32
"""Four bits, and a float32 scale for each block of 32 weights."""

# Operators that onnxruntime 1.32 and OpenVINO 2026.4 run on 8-bit data besides products.
_WITH_INT8_KERNEL = frozenset(
    {"Add", "Mul", "Relu", "Clip", "LeakyRelu", "Sigmoid", "Softmax", "Concat", "Where", "MaxPool", "AveragePool",
     "GlobalAveragePool", "ReduceMean", "Resize", "Transpose", "Gather", "Slice", "Split", "Pad", "Reshape", "Flatten",
     "Squeeze", "Unsqueeze", "DepthToSpace", "SpaceToDepth", "Expand", "Tile"}
)  # fmt: skip
_WITH_INT4_WEIGHTS = frozenset({"MatMul", "FusedMatMul", "Gemm", "FusedGemm"})


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class MachinePeaks(_Part):
    """What the machine was measured to do with as many threads as the model was timed with."""

    fp32_gflops: float = Field(gt=0)
    """Billions of operations a second, a multiplication and an addition being two."""
    int8_gops: float | None = Field(default=None, gt=0)
    bandwidth_gbs: float = Field(gt=0)
    """From memory, in 10⁹ bytes a second."""
    cache_bytes: int | None = Field(default=None, gt=0)
    """Of the last cache. What fits in it may stay there from one operator, or one inference, to the next, and is then
    not bound by memory."""
    cache_bandwidth_gbs: float | None = Field(default=None, gt=0)


class OperatorBound(_Part):
    """One operator beside what the machine can do."""

    name: str
    op_type: str
    flops: float
    """Operations of one inference; of integers where it computes with them."""
    bytes: float
    """Read and written in one inference: each tensor that comes from outside the operator or leaves it, once a call."""
    ms: float
    """As it was measured."""
    bound: Bound
    """What its time is bound by here. `cache`: it would wait for memory, but all that it moves may stay in the cache.
    `none`: it neither computes nor moves anything. `unknown`: the operator is not known, and `best_ms` comes from its
    bytes alone."""
    best_ms: float
    """The least that it can take on this machine: the greater of operations / peak and bytes / bandwidth. What may
    stay in a cache whose rate is not known takes no time."""
    reached: float | None
    """best_ms / ms, null where either is nothing. Well above 1, one of the peaks is too low."""
    arithmetic: Literal["fp32", "int8"]
    cached: bool
    """Whether all that it moves may stay in the cache."""


class Potential(_Part):
    """What fewer bits could do at most, before anything was tried (Amdahl)."""

    share: float
    """Of the operators' time, in operators that could gain: a fraction."""
    upper_bound: float | None
    """Times faster, were each of them at its roofline with fewer bits and the others unchanged. Nothing can be faster;
    null where the int8 peak is not known."""
    same_efficiency: float | None
    """Times faster, were each of them as near to its new roofline as it is to its present one: what to hope for."""


class Roofline(_Part):
    """A model's operators under the roofline, and what fewer bits could do."""

    peaks: MachinePeaks
    operators: tuple[OperatorBound, ...]
    flops: float
    """Of one inference."""
    best_ms: float
    """The sum of the operators'."""
    int8: Potential
    int4_weights: Potential
    not_counted: tuple[str, ...]
    """Types of operators whose operations are not known; their bytes are counted."""
    weight_bytes: float


@dataclass(frozen=True, slots=True)
class Work:
    """What an operator does in one inference; `weights` and `activations` are bytes moved.

    `integers` tells whether it works on quantized values.
    """

    flops: float
    weights: float
    activations: float
    kinds: frozenset[Kind]
    op_types: frozenset[str]
    integers: bool = False

    @property
    def bytes(self) -> float:
        return self.weights + self.activations


@dataclass(frozen=True, slots=True)
class ModelWork:
    """The work of each operator of a profile, in its order, and the bytes of all weights."""

    operators: tuple[Work, ...]
    weight_bytes: float


def roofline(operators: Sequence[OperatorTime], work: ModelWork, peaks: MachinePeaks) -> Roofline:
    """Set each timed operator beside its bound; `work` is that of the same operators on rows of the same shapes."""
    rules = _Rules(peaks, work.weight_bytes)
    rows = [rules.row(operator, done) for operator, done in zip(operators, work.operators, strict=True)]
    unknown = {name for done in work.operators if "unknown" in done.kinds for name in done.op_types}
    return Roofline(
        peaks=peaks,
        operators=tuple(row.bound for row in rows),
        flops=sum(done.flops for done in work.operators),
        best_ms=round(sum(row.bound.best_ms for row in rows), 6),
        int8=rules.with_int8(rows),
        int4_weights=rules.with_int4_weights(rows),
        not_counted=tuple(sorted(unknown)),
        weight_bytes=work.weight_bytes,
    )


@dataclass(frozen=True, slots=True)
class _Row:
    bound: OperatorBound
    work: Work


class _Rules:
    """Times from work, on one machine."""

    def __init__(self, peaks: MachinePeaks, weight_bytes: float) -> None:
        self._peaks = peaks
        self._cache = peaks.cache_bytes or 0
        self._weights_stay = weight_bytes <= self._cache

    def row(self, operator: OperatorTime, work: Work) -> _Row:
        integers = self._peaks.int8_gops is not None and work.integers
        best = self._best_ms(work)
        found = OperatorBound(
            name=operator.name,
            op_type=operator.op_type,
            flops=work.flops,
            bytes=work.bytes,
            ms=operator.ms,
            bound=self._bound(work, self._compute_ms(work)),
            best_ms=float(f"{best:.6g}"),
            reached=round(best / operator.ms, 4) if best and operator.ms else None,
            arithmetic="int8" if integers else "fp32",
            cached=self._stays(work),
        )
        return _Row(found, work)

    def _bound(self, work: Work, compute_ms: float) -> Bound:
        if "unknown" in work.kinds:
            return "unknown"
        if not work.flops and not work.bytes:
            return "none"
        if compute_ms >= work.bytes / self._peaks.bandwidth_gbs / 1e6:
            return "compute"
        if not self._stays(work):
            return "compute" if compute_ms >= self._memory_ms(work.weights, work.activations) else "memory"
        return "cache"

    def _stays(self, work: Work) -> bool:
        return (self._weights_stay or not work.weights) and work.activations <= self._cache

    def with_int8(self, rows: Sequence[_Row]) -> Potential:
        """Products of integers, and a quarter of the bytes of all that has code for 8 bits."""
        found = self._potential(rows, _could_be_int8, _in_int8)
        if self._peaks.int8_gops is None:
            return found.model_copy(update={"upper_bound": None, "same_efficiency": None})
        return found

    def with_int4_weights(self, rows: Sequence[_Row]) -> Potential:
        """Weights of matrix products in 4 bits, and the other operand in 8 on the way, which the fastest code does."""
        return self._potential(rows, _could_have_int4_weights, _with_int4_weights)

    def _potential(
        self, rows: Sequence[_Row], could: Callable[[_Row], bool], fewer: Callable[[Work], Work]
    ) -> Potential:
        total = sum(row.bound.ms for row in rows)
        gaining = sum(row.bound.ms for row in rows if could(row))
        ideal = alike = total - gaining
        for row in filter(could, rows):
            then = fewer(row.work)
            ideal += min(self._best_ms(then), row.bound.ms)  # what is faster than a peak says already is taken as it is
            # Where the cache's rate is not known, that of memory stands for it, before and after.
            unknown = row.bound.bound == "cache" and self._peaks.cache_bandwidth_gbs is None
            best = self._best_from_memory_ms if unknown else self._best_ms
            alike += row.bound.ms * min(1.0, best(then) / (best(row.work) or 1.0))
        return Potential(
            share=round(gaining / total, 4) if total else 0.0,
            upper_bound=round(total / ideal, 4) if ideal else None,
            same_efficiency=round(total / alike, 4) if alike else None,
        )

    def _best_ms(self, work: Work) -> float:
        return max(self._compute_ms(work), self._memory_ms(work.weights, work.activations))

    def _best_from_memory_ms(self, work: Work) -> float:
        return max(self._compute_ms(work), work.bytes / self._peaks.bandwidth_gbs / 1e6)

    def _compute_ms(self, work: Work) -> float:
        rate = self._peaks.int8_gops if work.integers and self._peaks.int8_gops else self._peaks.fp32_gflops
        return work.flops / rate / 1e6

    def _memory_ms(self, weights: float, activations: float) -> float:
        """Time of moving bytes from where they may lie: in the cache, if they fit, whose rate may not be known."""
        cached = 0.0
        if self._weights_stay:
            cached, weights = cached + weights, 0.0
        if activations <= self._cache:
            cached, activations = cached + activations, 0.0
        inside = self._peaks.cache_bandwidth_gbs
        return (weights + activations) / self._peaks.bandwidth_gbs / 1e6 + (cached / inside / 1e6 if inside else 0.0)


def _in_int8(work: Work) -> Work:
    return replace(
        work,
        weights=work.weights * _INT8_OF_FLOAT,
        activations=work.activations * _INT8_OF_FLOAT,
        integers="product" in work.kinds,
    )


def _with_int4_weights(work: Work) -> Work:
    return replace(work, weights=work.weights * _INT4_OF_FLOAT, integers=True)


def _could_be_int8(row: _Row) -> bool:
    in_float = row.bound.arithmetic == "fp32" and row.bound.bound != "none"
    return in_float and ("product" in row.work.kinds or row.work.op_types <= _WITH_INT8_KERNEL)


def _could_have_int4_weights(row: _Row) -> bool:
    weighs = row.work.weights > 0 and row.bound.arithmetic == "fp32"
    return weighs and bool(row.work.op_types & _WITH_INT4_WEIGHTS)
