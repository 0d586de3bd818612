"""Try recovery steps in order, keep what brings the outputs nearer to the original's, and undo the rest."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from itertools import islice

from app.errors import StepError
from workers.quantization.calibration.collect import Feeds
from workers.quantization.qdq.plan import Array, Plan
from workers.quantization.recovery.bias_correction import bias_correction, correctable, uncorrected
from workers.quantization.recovery.material import Material, Step
from workers.quantization.recovery.measuring import Fidelity, Judge
from workers.quantization.recovery.range_tuning import range_tuning

LEAST_GAIN_DB = 0.05
"""Less than this is no gain: the rows that judge are few."""
CORRECTED_DB = 0.25
"""Corrected biases may cost so much: what they take back is common to all rows, and SQNR counts it like any noise."""
JUDGING_FEEDS = 48
JUDGED_OF = 4
"""Of so many feeds in a row one judges."""
LEAST_FEEDS = 16
"""With fewer, half of them judge."""

_NOT_TAKEN = frozenset(
    {"step_not_applicable", "needs_torch", "operator_not_differentiable", "graph_parity", "not_emulated"}
)
"""Why a step may not be taken: the model, or this worker, has not what it needs."""


@dataclass(frozen=True, slots=True)
class Rung:
    """What became of one step: the outputs' SQNR in dB before and after, and that of each quantized tensor.

    `after_db` is null where the step could not be taken; `reason` says why it was not, or not kept.
    """

    step: str
    kept: bool
    before_db: float
    after_db: float | None = None
    reason: str | None = None
    layers_db: dict[str, tuple[float, float]] = field(default_factory=dict)


def divided(feeds: Feeds) -> tuple[Feeds, Feeds]:
    """The feeds that steps may fit to, and those that judge them: disjoint, however few there are.

    One of every few in a row judges, drawn by chance but always the same: rows often come sorted, or in a pattern. Of
    few feeds every other one does, and a single one judges alone: on rows that it was fitted to, SmoothQuant gained at
    up to 8 rows what cost 8 to 10 dB on others (measured on random rows).
    """
    if sum(1 for _ in islice(feeds(), LEAST_FEEDS)) < LEAST_FEEDS:
        return lambda: islice(feeds(), 1, None, 2), lambda: islice(feeds(), 0, None, 2)

    def drawn(*, judging: bool) -> Iterator[tuple[Mapping[str, Array], int]]:
        chance = random.Random(0)
        for number, given in enumerate(feeds()):
            if number % JUDGED_OF == 0:
                chosen = number + chance.randrange(JUDGED_OF)
            if (number == chosen) == judging:
                yield given

    return lambda: drawn(judging=False), lambda: drawn(judging=True)


def judge_for(plan: Plan, material: Material, judging: Feeds | None = None) -> Judge:
    """What compares plans with this one's model: on the first of the judging feeds, or the material's own."""
    feeds = [dict(feed) for feed, _ in islice((judging or material.feeds)(), JUDGING_FEEDS)]
    return Judge(plan.model, plan.placement.activations, feeds, material.work, threads=material.threads)


@dataclass(frozen=True, slots=True)
class Climbed:
    """The best plan that steps led to, how near it is to its original, and what each step brought."""

    plan: Plan
    fidelity: Fidelity
    rungs: list[Rung]


def climb(
    plan: Plan,
    material: Material,
    steps: Sequence[str],
    judge: Judge,
    fidelity: Fidelity | None = None,
    *,
    correcting: bool = False,
) -> Climbed:
    """Take these steps, each from the best plan so far; `fidelity` is the first plan's, where that is known.

    A step is `workers.quantization.recovery.<name>.<name>`. With `correcting`, what each step leaves is tried with its
    biases corrected too.
    """
    rungs: list[Rung] = []
    best = fidelity or judge.fidelity(plan)
    if steps and next(material.feeds(), None) is None:
        why = "One calibration row cannot both fit a step and judge it: give more."
        return Climbed(
            plan, best, [Rung(name, kept=False, before_db=round(best.output_db, 3), reason=why) for name in steps]
        )
    for name in steps:
        try:
            tried = [(each, judge.fidelity(each)) for each in _taken(name, plan, material, correcting)]
        except StepError as error:
            if error.code not in _NOT_TAKEN:
                raise
            rungs.append(Rung(name, kept=False, before_db=round(best.output_db, 3), reason=error.detail))
            continue
        changed, after = max(tried, key=lambda each: each[1].output_db + CORRECTED_DB * bool(each[0].shifts))
        rung = rung_of(name, best.output_db, after.output_db)
        rungs.append(replace(rung, layers_db=_layers(best, after)))
        if rung.kept:
            plan, best = changed, after
    return Climbed(plan, best, rungs)


def _taken(name: str, plan: Plan, material: Material, correcting: bool) -> Iterator[Plan]:
    """What a step makes of a plan.

    Where biases have been corrected, the step is taken as if they were not, since the correction makes up for what it
    changes; then its result is given without a correction, and with one of its own. Range tuning begins from corrected
    biases, for it moves them itself.
    """
    step = _step(name)
    if step is bias_correction:
        yield step(plan, material)
        return
    changed = step(plan if step is range_tuning else uncorrected(plan), material)
    yield changed
    if plan.shifts or (correcting and any(True for _ in correctable(changed))):
        yield bias_correction(changed, material)


def _step(name: str) -> Step:
    step: Step = getattr(import_module(f"workers.quantization.recovery.{name}"), name)
    return step


def rung_of(name: str, before_db: float, after_db: float) -> Rung:
    """What became of a step that brought the outputs' SQNR from one figure to another: kept if it is worth it."""
    kept = after_db >= before_db + LEAST_GAIN_DB
    return Rung(
        step=name,
        kept=kept,
        before_db=round(before_db, 3),
        after_db=round(after_db, 3),
        reason=None if kept else f"undone: the outputs' SQNR changed by {after_db - before_db:+.2f} dB",
    )


def told(rung: Rung) -> str:
    """What the report says of a step."""
    name = rung.step.replace("_", " ").capitalize()
    if rung.kept:
        return f"{name}: SQNR of the outputs {rung.before_db:.1f} → {rung.after_db:.1f} dB."
    return f"{name}: {rung.reason}"


def _layers(before: Fidelity, after: Fidelity) -> dict[str, tuple[float, float]]:
    return {
        tensor: (round(before.layers_db[tensor], 2), round(value, 2))
        for tensor, value in after.layers_db.items()
        if tensor in before.layers_db
    }
