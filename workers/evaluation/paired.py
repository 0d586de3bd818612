"""What an artifact loses of what the task asks for, judged on the same rows as the original."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict

from app.domain.metric import METRICS
from workers.evaluation.bounds import HEAVY_TAIL, TWO_SIDED_95, drop_bounds
from workers.evaluation.scores import Scores


class Drop(BaseModel):
    """By how much the artifact is worse in a metric than the original, paired by rows; negative is better.

    `value` and the two-sided `ci95` are in the metric's unit. `p_value` is two-sided, of there being no drop; null
    where no test of it is at hand. `flags` say what speaks against it, as in a measurement.
    """

    model_config = ConfigDict(frozen=True)

    metric: str
    value: float
    ci95: tuple[float, float]
    p_value: float | None = None
    flags: tuple[str, ...] = ()


def paired_drops(original: Mapping[str, Scores], artifact: Mapping[str, Scores]) -> list[Drop]:
    """The drop of every metric that both have, but for those that compare with the original anyway.

    A metric whose drop has no bounds on these rows is left out.
    """
    found = []
    for name, scores in artifact.items():
        before = original.get(name)
        if METRICS[name].relative_to_original or before is None or len(before) != len(scores):
            continue
        try:
            bounds = drop_bounds(name, before, scores, TWO_SIDED_95)
        except ValueError:
            continue
        found.append(
            Drop(
                metric=name,
                value=bounds.value,
                ci95=(bounds.lower, bounds.upper),
                p_value=bounds.p_value,
                flags=(HEAVY_TAIL,) if bounds.heavy_tail else (),
            )
        )
    return found
