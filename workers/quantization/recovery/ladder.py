"""Try recovery steps in order, keep what brings the outputs nearer to the original's, and undo the rest."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from itertools import islice

from app.errors import StepError
from workers.quantization.qdq.plan import Plan
from workers.quantization.recovery.material import Material, Step
from workers.quantization.recovery.measuring import Fidelity, Judge

LEAST_GAIN_DB = 0.05
"""Less than this is no gain: the rows that judge are few."""
JUDGING_ROWS = 48

_CORRECTION = "bias_correction"


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


def judge_for(plan: Plan, material: Material, *, rows: int = JUDGING_ROWS) -> Judge:
    """What compares plans with this one's model: on the first feeds of the material, at most `rows` of them."""
    feeds = [dict(feed) for feed, _ in islice(material.feeds(), rows)]
    return Judge(plan.model, plan.placement.activations, feeds, material.work, threads=material.threads)


def climb(plan: Plan, material: Material, steps: Sequence[str], judge: Judge) -> tuple[Plan, list[Rung]]:
    """Take these steps, each from the best plan so far; returns that plan and what each step brought.

    A step is `workers.quantization.recovery.<name>.<name>`. Where biases have been corrected, they are again after a
    step that changes what they make up for.
    """
    rungs: list[Rung] = []
    if not steps:
        return plan, rungs
    best = judge.fidelity(plan)
    for name in steps:
        try:
            changed = _step(name)(plan, material)
            if plan.shifts and name != _CORRECTION:
                changed = _step(_CORRECTION)(changed, material)
        except StepError as error:
            if error.code not in ("step_not_applicable", "needs_torch"):
                raise
            rungs.append(Rung(name, kept=False, before_db=round(best.output_db, 3), reason=error.detail))
            continue
        after = judge.fidelity(changed)
        kept = after.output_db >= best.output_db + LEAST_GAIN_DB
        rungs.append(_rung(name, best, after, kept=kept))
        if kept:
            plan, best = changed, after
    return plan, rungs


def _step(name: str) -> Step:
    step: Step = getattr(import_module(f"workers.quantization.recovery.{name}"), name)
    return step


def _rung(name: str, before: Fidelity, after: Fidelity, *, kept: bool) -> Rung:
    gain = after.output_db - before.output_db
    return Rung(
        step=name,
        kept=kept,
        before_db=round(before.output_db, 3),
        after_db=round(after.output_db, 3),
        reason=None if kept else f"undone: the outputs' SQNR changed by {gain:+.2f} dB",
        layers_db={
            tensor: (round(before.layers_db[tensor], 2), round(value, 2))
            for tensor, value in after.layers_db.items()
            if tensor in before.layers_db
        },
    )
