"""The conditions that a job measures latency and load under. Apart, so that a measuring process loads nothing else."""

from itertools import product
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MOST_CONDITIONS = 16
"""Pairs of threads and rows a call that one job measures; each costs a set of fresh processes."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Load(_Part):
    """Kinds of load that a model is measured under beside single calls; each takes `seconds`, in several processes."""

    callers: tuple[Annotated[int, Field(ge=1, le=64)], ...] = Field(default=(1,), min_length=1, max_length=8)
    """Callers side by side, each of which calls again when its last call is done."""
    rates: tuple[Annotated[float, Field(gt=0, le=100_000)], ...] = Field(default=(), max_length=8)
    """Calls a second that arrive at random, served by as many callers as the last of `callers`."""
    seconds: float = Field(default=2.0, gt=0, le=60)


Runtime = Literal["onnxruntime", "openvino", "litert", "torch"]

RUNTIMES_OF: dict[str, tuple[Runtime, ...]] = {
    "onnx": ("onnxruntime", "openvino"),
    "tflite": ("litert",),
    "pt2": ("torch",),
    "torchscript": ("torch",),
}
"""By a model's format, the usual one first."""

USUAL_RUNTIME: dict[str, Runtime] = {format_: runtimes[0] for format_, runtimes in RUNTIMES_OF.items()}
"""By a model's format."""


def _has_rows(shape: tuple[int, ...]) -> tuple[int, ...]:
    if shape and shape[0] == 0:
        raise PydanticCustomError(
            "case_without_rows", "the first axis is the rows of one call: it must be 1 at least, others may be 0"
        )
    return shape


CaseShape = Annotated[tuple[Annotated[int, Field(ge=0)], ...], AfterValidator(_has_rows)]

CaseName = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_.-]{0,39}$")]


class Measure(_Part):
    """The conditions that latency is measured under."""

    threads: tuple[Annotated[int, Field(ge=1, le=256)], ...] = Field(default=(1,), min_length=1, max_length=8)
    """Intra-op threads; each is measured with each number of `batch`, and goals use the first."""
    batch: tuple[Annotated[int, Field(ge=1, le=4096)], ...] = Field(default=(1,), min_length=1, max_length=8)
    """Rows a call; each is measured with each number of `threads`, and goals use the first."""
    shapes: dict[str, tuple[Annotated[int, Field(ge=1)], ...]] = Field(default_factory=dict)
    """Shape of an input whose axes are dynamic, the batch axis included, when no dataset tells."""
    cases: dict[CaseName, dict[str, CaseShape]] = Field(default_factory=dict, max_length=8)
    """Further shapes of inputs by a name of yours, such as `prefill` and `step` of a decoder: latency is measured at
    each of them too, on made-up values, with the first of `threads`."""
    width: float = Field(default=0.02, ge=0.001, le=1)
    """Latency is measured until the 95 % interval of its median is no wider than this share of it, or time is up."""
    seconds: float | None = Field(default=None, gt=0, le=3600)
    """Time for one condition's latency, over all of its processes; left out, what the worker is set to."""
    load: Load | None = None
    """Left out, only single calls are measured."""
    runtime: Runtime | Literal["auto"] | None = None
    """What runs the model; left out, onnxruntime, LiteRT for TFLite models and torch for its own. `auto` times it on
    every runtime that the worker has, and says which wins; metrics, and goals, are those of the usual one."""

    @model_validator(mode="after")
    def _few_conditions(self) -> Self:
        if (pairs := len(self.conditions())) > MOST_CONDITIONS:
            raise PydanticCustomError(
                "conditions_too_long",
                "threads and batch make {pairs} pairs, and at most {most} are measured: name fewer of either",
                {"pairs": pairs, "most": MOST_CONDITIONS},
            )
        return self

    def conditions(self) -> tuple[tuple[int, int], ...]:
        """Every pair of threads and rows a call, once; the first is the one that goals use."""
        return tuple(dict.fromkeys(product(self.threads, self.batch)))
