"""What one fresh child measured: the unit of which intervals are made."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from workers.evaluation.contention import Context

Subject = Literal["original", "artifact"]

MOST_DISTURBED = 0.25
"""With a larger share of its rounds disturbed, a process was not alone, whatever was timed again."""

ORIGINAL = "original"
"""Who was measured if no candidate: the model as it was uploaded, or the artifact that is evaluated."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


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


class Memory(_Part):
    """Resident bytes of a child while one model alone was in it: the first that was loaded.

    All are above what the process held before, when a one-node model had been loaded and run.
    """

    subject: Subject
    loaded_bytes: int
    """Once the model was loaded: weights, and what the runtime made of them."""
    steady_bytes: int
    """After its calls."""
    peak_bytes: int
    """The most it ever was."""


class LatencyReplicate(_Part):
    """The result of one measuring child: the original, a second session of it, and a candidate if there is one."""

    kind: Literal["latency"] = "latency"
    candidate: str = ORIGINAL
    """The candidate's id; `original` where the original was timed alone."""
    case: str | None = None
    """Which of the job's cases the feeds have the shapes of; None for those of the data."""
    replicate: int
    """Which child this was, from 1."""
    threads: int
    batch: int
    """Rows a call."""
    rows: int
    """Different rows that the calls cycled through."""
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Of the inputs whose shape the original leaves open, rows a call included."""
    load_ms: dict[Subject, float]
    """Loading each model in this process, its file in the page cache."""
    first_ms: dict[Subject, float] = Field(default_factory=dict)
    """The first call of each session."""
    warm_up: dict[Subject, Warmth]
    memory: Memory | None = None
    """None where the platform does not tell."""
    same: Pair
    """The original (first) against a second session of itself."""
    against: Pair | None = None
    """The original (first) against the candidate (second)."""
    cpu_seconds: dict[Subject, float] = Field(default_factory=dict)
    """Processor time of all of the process's threads, a call."""
    repeated: int = 0
    """Rounds that were disturbed and timed again."""
    doubtful: int = 0
    """Rounds that were disturbed and are among the samples all the same."""

    def place(self, subject: Subject = "original") -> dict[str, Any]:
        """The conditions that one job varies, or that another may not share: what runs the model, and on what."""
        said = self.conditions[subject]
        return {
            **{name: said[name] for name in ("runtime", "version", "providers", "device") if name in said},
            "threads": self.threads,
            "batch": self.batch,
            **({"shapes": self.shapes} if self.shapes else {}),
            **({"case": self.case} if self.case is not None else {}),
        }

    def disturbances(self) -> list[str]:
        """What makes the samples doubtful, in words; what passed, and was timed again, does not."""
        return [*self.contention(), *self.context.clock_jumps()]

    def contention(self) -> list[str]:
        """What of that is other work on the machine."""
        rounds = len(self.same.first) + (len(self.against.first) if self.against is not None else 0) + self.repeated
        disturbed = self.repeated + self.doubtful
        if disturbed <= MOST_DISTURBED * rounds:
            return self.context.lasting()
        return [*self.context.other_work(), f"{disturbed} of {rounds} rounds were disturbed"]

    energy_joules: dict[Subject, float] | None = None
    """Joules a call of all packages, above what they take at rest; null where no counter can be read."""
    idle_watts: float | None = None
    """What they take at rest, which was subtracted."""
    context: Context
    conditions: dict[Subject, dict[str, Any]]
    """What the runtime says of each session: version, providers, threads, options."""
    running_seconds: float = 0.0
    """Of the step, spent in the models' own calls."""
    seconds: float
    """The whole step."""


class LoadPoint(_Part):
    """What came of one kind of load.

    `samples_ms` are latencies in ms, in the order the calls were done; where there is a rate, from the moment each
    was due.
    """

    callers: int
    rate: float | None = None
    """Calls a second that arrived; None where each caller calls again when its last call is done."""
    seconds: float
    """From the first call's being due to the last one's end."""
    behind: int = 0
    """Calls that were due and not done when no more arrived."""
    samples_ms: list[float]


class LoadReplicate(_Part):
    """The result of one child that loaded one model and called it from several threads."""

    kind: Literal["load"] = "load"
    subject: str
    """`original`, or a candidate's id."""
    threads: int
    batch: int
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Of the inputs whose shape the model leaves open, rows a call included."""
    points: list[LoadPoint]
    running_seconds: float = 0.0
    """All loads together."""
    context: Context
    conditions: dict[str, Any]


REPLICATE: TypeAdapter[LatencyReplicate | LoadReplicate] = TypeAdapter(
    Annotated[LatencyReplicate | LoadReplicate, Field(discriminator="kind")]
)
"""Reads the result of any measuring child."""
