"""A job: its specification, its states, and the one table of allowed transitions."""

from enum import StrEnum
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

from app.domain.dataset import Split
from app.domain.goal import Goal
from app.domain.measure import Measure
from app.domain.metric import Asked, MetricChoice, as_choices
from app.domain.recipe import AnyRecipe, Recipe


class JobState(StrEnum):
    QUEUED = "queued"
    RUNNING = "running"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"


TRANSITIONS: dict[JobState, frozenset[JobState]] = {
    JobState.QUEUED: frozenset({JobState.RUNNING, JobState.CANCELLED, JobState.FAILED}),
    JobState.RUNNING: frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLING, JobState.QUEUED}),
    JobState.CANCELLING: frozenset({JobState.CANCELLED}),
    JobState.FAILED: frozenset({JobState.QUEUED}),
    JobState.CANCELLED: frozenset({JobState.QUEUED}),
    JobState.SUCCEEDED: frozenset(),
}
"""What may follow what. `failed → queued` and `cancelled → queued` are retries."""

ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED})
MAX_ATTEMPTS = 3
"""A job whose worker was lost this often fails: what kills three workers will kill the fourth."""

Stage = Literal["inspect", "baseline", "calibrate", "candidates", "gate", "package"]
STAGES: tuple[Stage, ...] = get_args(Stage)
Kind = Literal["optimize", "evaluate"]
Gate = Literal["met", "missed", "undecided", "none"]


def may_become(before: JobState, after: JobState) -> bool:
    """Tell whether a job in one state may enter another."""
    return after in TRANSITIONS[before]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


DatasetId = Annotated[str, Field(pattern=r"^dst_[0-9a-z]{26}$")]


USUAL_SPLITS: dict[Kind, Split] = {
    "optimize": Split(calibration=0.2, tuning=0.2, evaluation=0.6),
    "evaluate": Split(evaluation=1.0),
}
"""What `split` is where a job names `datasets.all` and leaves it out. The same for every recipe, also for those that
need no calibration, so that all of them are judged on the same rows."""


class DatasetRoles(_Part):
    """Which dataset plays which part: one for each role, of which no row may be in another too, or one for `all`."""

    calibration: DatasetId | None = None
    """Rows from which activation ranges are found."""
    tuning: DatasetId | None = None
    """Rows that guide a search."""
    evaluation: DatasetId | None = None
    """Rows held out of everything else, on which the verdict is given."""
    training: DatasetId | None = None
    """Rows for techniques that train."""
    all: DatasetId | None = None
    """One dataset instead of one for each role: the service gives each of its rows one role, as `split` says."""

    def by_role(self) -> dict[str, str]:
        """What is filled: roles, or `all` alone."""
        return {role: value for role, value in self.model_dump().items() if value is not None}


class Limits(_Part):
    """When to give up."""

    queue_seconds: float = Field(default=86_400, gt=0, le=30 * 86_400)
    """A job still queued after this fails with `queue_timeout`."""
    run_seconds: float = Field(default=3_600, gt=0, le=7 * 86_400)
    """A job that runs longer than this fails with `time_limit_exceeded`; waiting for others to measure on the machine,
    or for the machine to be free to measure on, does not count."""


_EXAMPLE, _OTHER = "dst_" + "0" * 25 + "1", "dst_" + "0" * 25 + "2"


class JobSpec(_Part):
    """Everything that a caller says about a job; `POST /v1/jobs` takes it."""

    kind: Kind = "optimize"
    """`optimize`: make an artifact and measure it against the original. `evaluate`: measure, and change nothing."""
    name: str | None = Field(default=None, max_length=200)
    model: Annotated[str, Field(pattern=r"^(mdl|art)_[0-9a-z]{26}$")]
    """The model to work on; `evaluate` takes an artifact as well."""
    datasets: DatasetRoles = Field(
        default_factory=DatasetRoles, examples=[{"calibration": _EXAMPLE, "evaluation": _OTHER}, {"all": _EXAMPLE}]
    )
    split: Split | None = Field(default=None, examples=[USUAL_SPLITS["optimize"].model_dump()])
    """Shares of the rows of `datasets.all` by role. Left out, `optimize` gives 0.2 to calibration, 0.2 to tuning and
    0.6 to evaluation, and `evaluate` all rows to evaluation; of an artifact that was made from the same dataset by a
    split, only the rows that were held out then."""
    target: str = Field(default="local", min_length=1, max_length=100)
    """Where the artifact will run; `local` is the one machine of an embedded service."""
    if_no_worker: Literal["wait", "refuse"] = "wait"
    """What to do when no worker of the target is alive."""
    recipe: Recipe | None = None
    """The technique and its options; `evaluate` has none."""
    goal: Goal | None = None
    """Without a goal there is no gate."""
    metrics: tuple[Asked, ...] = Field(default=(), max_length=32)
    """Metrics beyond those always computed, which are fidelity to the original and, where there are labels, `top1`;
    each a name, or an object that says which output it looks at. Of one name, goals use the first."""
    measure: Measure = Field(default_factory=Measure)
    priority: int = Field(default=5, ge=0, le=9)
    """9 is served first."""
    limits: Limits = Field(default_factory=Limits)
    labels: dict[Annotated[str, Field(max_length=63)], Annotated[str, Field(max_length=255)]] = Field(
        default_factory=dict, max_length=32
    )
    """The caller's own marks; lists can be filtered by them."""

    @property
    def made_with(self) -> AnyRecipe:
        """The recipe of a job that makes something."""
        assert self.recipe is not None, "a job that makes nothing has no recipe"
        return self.recipe

    @property
    def stages(self) -> tuple[Stage, ...]:
        """What the job goes through, in order."""
        return tuple(stage for stage in STAGES if self.kind == "optimize" or stage != "calibrate")

    def asked_metrics(self) -> tuple[MetricChoice, ...]:
        """The metrics that are named, and those that only constraints name."""
        bound = self.goal.constraints if self.goal is not None else ()
        return as_choices(self.metrics, [constraint.metric for constraint in bound])


class JobOutcome(BaseModel):
    """What a finished job found; kept in its row as JSON."""

    model_config = ConfigDict(frozen=True)

    rows: dict[str, int] = Field(default_factory=dict)
    """How many rows each role has."""
    chosen_rows: dict[str, str] = Field(default_factory=dict)
    """Of roles that were given some rows of `datasets.all`: the SHA-256 of their numbers."""
    baseline: dict[str, Any] | None = None
    candidates: tuple[dict[str, Any], ...] = ()
    chosen: str | None = None
    gate: Gate | None = None
    verdicts: tuple[dict[str, Any], ...] = ()
    conclusion: str | None = None
    notes: tuple[str, ...] = ()
