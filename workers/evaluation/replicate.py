"""What one fresh child measured: the unit of which intervals are made."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from workers.evaluation.contention import Context

Subject = Literal["original", "artifact"]

ZERO, ORIGINAL = "zero", "original"
"""What a memory child held if no candidate: a one-node model, or the model as it was uploaded."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)


class Pair(_Part):
    """Samples in ms of two sessions that took turns, one list a block.

    Blocks at the same place belong to the same round, and got the same feeds.
    """

    first: list[list[float]]
    second: list[list[float]]


class Warmth(_Part):
    """How a session was warmed up."""

    calls: int
    seconds: float
    settled: bool
    """Whether the drift stopped before time was up."""


class LatencyReplicate(_Part):
    """The result of one measuring child: the original, a second session of it, and a candidate."""

    kind: Literal["latency"] = "latency"
    candidate: str
    """The candidate's id."""
    replicate: int
    """Which child this was, from 1."""
    threads: int
    batch: int
    """Rows a call."""
    rows: int
    """Different rows that the calls cycled through."""
    load_ms: dict[Subject, float]
    """Loading each model in this process, its file in the page cache."""
    warm_up: dict[Subject, Warmth]
    same: Pair
    """The original (first) against a second session of itself."""
    against: Pair
    """The original (first) against the candidate (second)."""
    energy_joules: dict[Subject, float] | None = None
    """Joules a call of all packages, idle parts included; null where no counter can be read."""
    context: Context
    conditions: dict[Subject, dict[str, Any]]
    """What the runtime says of each session: version, providers, threads, options."""
    seconds: float
    """The whole step."""


class MemoryReplicate(_Part):
    """The result of one measuring child that loaded one model, or none but a one-node one."""

    kind: Literal["memory"] = "memory"
    subject: str
    """`zero` for the one-node model, `original`, or a candidate's id."""
    peak_bytes: int
    """High-water mark of the whole process."""
    calls: int


REPLICATE: TypeAdapter[LatencyReplicate | MemoryReplicate] = TypeAdapter(
    Annotated[LatencyReplicate | MemoryReplicate, Field(discriminator="kind")]
)
"""Reads the result of any measuring child."""
