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
from workers.quantization.recovery.measuring import Fidelity, Judge, followed_db, level_db
from workers.quantization.recovery.range_tuning import range_tuning

LEAST_GAIN_DB = 0.05
"""Less than this is no gain: the rows that judge are few."""
CORRECTED_DB = 0.25
"""Corrected biases may cost so much: what they take back is common to all rows, and SQNR counts it like any noise."""
MOST_LOST_DB = 0.5
"""More than this one output of several may not lose, or more than all gain in the mean, where that is more: what is
good for one is not bought by another. The few rows that judge make smaller differences by chance, and among the many
outputs of a decoder some always lose a little of what all gain."""
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
    """What became of one step: the outputs' SQNR in dB before and after, that of each quantized tensor, and of each
    output where there are several; the figure for all of them is then `measuring.level_db`.

    `after_db` is null where the step could not be taken; `reason` says why it was not, or not kept.
    """

    step: str
    kept: bool
    before_db: float
    after_db: float | None = None
    reason: str | None = None
    layers_db: dict[str, tuple[float, float]] = field(default_factory=dict)
    outputs_db: dict[str, tuple[float, float]] = field(default_factory=dict)


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
        changed, after = max(tried, key=lambda each: _worth(best, each[0], each[1]))
        rung = rung_of(name, best.outputs_db, after.outputs_db)
        rungs.append(replace(rung, layers_db=_pairs(best.layers_db, after.layers_db)))
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
    if (plan.shifts or correcting) and any(True for _ in correctable(changed)):
        yield bias_correction(changed, material)


def _step(name: str) -> Step:
    step: Step = getattr(import_module(f"workers.quantization.recovery.{name}"), name)
    return step


def _worth(before: Fidelity, changed: Plan, after: Fidelity) -> tuple[bool, float]:
    """Of a step's results the one with the largest is tried: first of all none that would be undone for one output."""
    unharmed = _harmed(before.outputs_db, after.outputs_db) is None
    return unharmed, after.output_db + CORRECTED_DB * bool(changed.shifts)


def rung_of(name: str, before: Mapping[str, float], after: Mapping[str, float]) -> Rung:
    """What became of a step that brought the outputs' SQNR from some figures to others: kept if it is worth it."""
    reason = _why_undone(before, after)
    return Rung(
        step=name,
        kept=reason is None,
        before_db=round(level_db(before), 3),
        after_db=round(level_db(after), 3),
        reason=reason,
        outputs_db=_pairs(before, after) if len(before) > 1 else {},
    )


def told(rung: Rung) -> str:
    """What the report says of a step."""
    name = rung.step.replace("_", " ").capitalize()
    if not rung.kept:
        return f"{name}: {rung.reason}"
    gained = f"{name}: SQNR of the outputs {rung.before_db:.1f} → {rung.after_db:.1f} dB"
    if not rung.outputs_db:
        return f"{gained}."
    before, after = ({output: pair[place] for output, pair in rung.outputs_db.items()} for place in (0, 1))
    gained_by = {output: after[output] - value for output, value in before.items()}
    gainer = max(gained_by, key=lambda output: gained_by[output])
    loser = min(gained_by, key=lambda output: gained_by[output])
    named = [gainer, loser] if gained_by[loser] <= -LEAST_GAIN_DB else [gainer]
    each = (f"of {output!r} {before[output]:.1f} → {after[output]:.1f} dB" for output in named)
    return f"{gained} taken together, {', '.join(each)}."


def _why_undone(before: Mapping[str, float], after: Mapping[str, float]) -> str | None:
    """Why a step is not worth it; None where it is.

    Of several outputs the mean would hide what is lost by one, and what is gained by one among many.
    """
    gained = level_db(after) >= level_db(before) + LEAST_GAIN_DB
    why = f"undone: the outputs' SQNR changed by {level_db(after) - level_db(before):+.2f} dB"
    if len(before) < 2:
        return None if gained else why
    harmed = _harmed(before, after)
    if harmed is not None:
        return f"undone: the SQNR of {harmed!r} would fall from {before[harmed]:.1f} to {after[harmed]:.1f} dB"
    nearer = _nearer(before, after)
    one_alone = max(nearer.values()) >= LEAST_GAIN_DB and min(nearer.values()) > -LEAST_GAIN_DB
    if gained or one_alone:
        return None
    return f"{why} taken together, and at most by {max(nearer.values()):+.2f} dB"


def _harmed(before: Mapping[str, float], after: Mapping[str, float]) -> str | None:
    """The output of several that loses most, where that is too much."""
    if len(before) < 2:
        return None
    nearer = _nearer(before, after)
    worst = min(nearer, key=lambda output: nearer[output])
    mean = sum(nearer.values()) / len(nearer)
    return worst if nearer[worst] < -max(MOST_LOST_DB, mean) else None


def _nearer(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """What each output gains in dB, as far as it is followed."""
    return {output: followed_db(after[output]) - followed_db(value) for output, value in before.items()}


def _pairs(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, tuple[float, float]]:
    """Figures before and after, of what has both."""
    return {name: (round(before[name], 2), round(value, 2)) for name, value in after.items() if name in before}
