"""A goal: what to minimize, what must hold, and how sure one has to be."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Minimizable = Literal["latency", "size", "memory"]

CEILINGS: dict[str, str] = {
    "latency": "latency_p50",
    "size": "artifact_bytes",
    "memory": "peak_memory",
}
"""The measurement behind each thing that can be minimized."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class Constraint(_Part):
    """A bound on a metric or measurement: at most one drop, one floor or one ceiling."""

    metric: str = Field(min_length=1, examples=["top1"])
    """A metric of `/v1/metrics`, or a measurement such as `latency_p50` or `artifact_bytes`."""
    max_drop: float | None = Field(default=None, ge=0)
    """By how much the artifact may be worse than the original; shares as fractions (0.01: one point)."""
    relative: bool = False
    """`max_drop` is a fraction of the original's value."""
    min: float | None = None
    """The least value that will do."""
    max: float | None = None
    """The greatest value that will do."""

    @model_validator(mode="after")
    def _one_kind_of_bound(self) -> Self:
        if self.max_drop is not None and (self.min is not None or self.max is not None):
            raise ValueError("give either max_drop, or min and max, not both")
        if self.max_drop is None and self.min is None and self.max is None:
            raise ValueError("give one of max_drop, min or max")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError("min is above max: nothing can satisfy both")
        if self.relative and self.max_drop is None:
            raise ValueError("relative belongs to max_drop")
        return self


class Budget(_Part):
    """What the search may spend."""

    seconds: float = Field(default=900, gt=0, le=86_400)
    candidates: int = Field(default=40, ge=1, le=1_000)


class Goal(_Part):
    """What the best artifact is."""

    minimize: Minimizable | dict[Minimizable, Annotated[float, Field(gt=0)]] = "latency"
    """What to make small: one name, or a weight for each of several."""
    constraints: tuple[Constraint, ...] = Field(default=(), max_length=16)
    """What must hold on the evaluation rows."""
    confidence: float = Field(default=0.95, ge=0.5, lt=1)
    """How sure the gate must be, one-sided."""
    budget: Budget = Field(default_factory=Budget)
