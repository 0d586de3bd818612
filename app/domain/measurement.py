"""A measurement: a number, and everything needed to believe it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Better = Literal["higher", "lower"]
Method = Literal["measured", "estimated", "absent"]

UNITS: dict[str, tuple[str, Better]] = {
    "latency_p50": ("ms", "lower"),
    "latency_p90": ("ms", "lower"),
    "latency_p99": ("ms", "lower"),
    "latency_mean": ("ms", "lower"),
    "throughput": ("1/s", "higher"),
    "load_time": ("ms", "lower"),
    "first_run": ("ms", "lower"),
    "cpu_per_inference": ("s", "lower"),
    "peak_memory": ("bytes", "lower"),
    "steady_memory": ("bytes", "lower"),
    "artifact_bytes": ("bytes", "lower"),
    "energy_per_inference": ("J", "lower"),
}
"""Unit and direction of what is measured of any artifact, whatever it computes."""


class Measurement(BaseModel):
    """One measured, estimated or absent number.

    `value` is in `unit` and null only where `method` is "absent", which then has a `reason`.
    `ci95` is a two-sided 95 % interval in the same unit. `conditions` name what the number holds
    for (threads, batch, runtime, rows, what was held out …). `flags` say what speaks against it,
    such as "noisy" where the machine was disturbed, or "synthetic" for random input.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    value: float | None
    unit: str
    better: Better
    method: Method = "measured"
    reason: str | None = None
    ci95: tuple[float, float] | None = None
    count: int | None = Field(default=None, description="How many samples or rows stand behind the value.")
    conditions: dict[str, Any] = Field(default_factory=dict)
    flags: tuple[str, ...] = ()


def absent(name: str, reason: str, *, unit: str | None = None, better: Better | None = None) -> Measurement:
    """State that `name` was not measured, and why."""
    known_unit, known_better = UNITS.get(name, ("1", "higher"))
    return Measurement(
        name=name,
        value=None,
        unit=unit or known_unit,
        better=better or known_better,
        method="absent",
        reason=reason,
    )
