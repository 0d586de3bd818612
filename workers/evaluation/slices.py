"""Where an artifact loses most: the drops of subpopulations, and the worst of them with an honest interval."""

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from app.domain.metric import METRICS
from workers.evaluation.bounds import Bounded, drop_bounds
from workers.evaluation.metrics import arithmetic
from workers.evaluation.scores import Scores
from workers.evaluation.statistics.clusters import codes_of

LEAST_ROWS = 10
"""Slices of fewer rows are left out: their intervals would say nothing, and widen those of all others."""

_SHARE_OF_ROWS = 0.1
"""Labels are classes to slice by where there are, on average, at least ten rows of each."""


class SliceDrop(BaseModel):
    """The slice that a metric drops most on.

    `ci` are bounds of its drop, each one-sided at the confidence asked for of all `looked_at` slices together
    (Bonferroni's, which at the first step is Holm's); positive is worse.
    """

    model_config = ConfigDict(frozen=True)

    slice: str
    rows: int
    drop: float
    ci: tuple[float, float]
    looked_at: int


def named_slices(scores: Scores, names: NDArray[Any]) -> Scores:
    """Scores with their rows' slices, by name; `names` [rows] are numbers or texts."""
    return replace(scores, slices=codes_of(names), slice_names=tuple(str(name) for name in np.unique(names)))


def slices_of_labels(scores: Scores, labels: NDArray[Any]) -> Scores:
    """Scores with a slice for each class of the labels, where these are few enough classes."""
    if labels.size != len(scores) or labels.dtype.kind not in "iub":
        return scores
    classes = np.unique(labels)
    if not 2 <= len(classes) <= _SHARE_OF_ROWS * len(scores):
        return scores
    return replace(scores, slices=codes_of(labels), slice_names=tuple(f"class {int(label)}" for label in classes))


def worst_slice(name: str, original: Scores | None, artifact: Scores, confidence: float) -> SliceDrop | None:
    """The slice with the greatest drop; None where there are not two slices with enough rows for the metric."""
    if artifact.slices is None or (original is None and not METRICS[name].relative_to_original):
        return None
    rows_of = [artifact.slices == number for number in range(len(artifact.slice_names))]
    known = [number for number, rows in enumerate(rows_of) if _has_value(name, artifact.of(rows))]
    if len(known) < 2:
        return None
    together = 1 - (1 - confidence) / len(known)
    found: dict[int, Bounded] = {}
    for number in known:
        rows = rows_of[number]
        before = None if original is None else original.of(rows)
        found[number] = drop_bounds(name, before, artifact.of(rows), together)
    worst = max(known, key=lambda number: found[number].value)
    return SliceDrop(
        slice=artifact.slice_names[worst],
        rows=int(rows_of[worst].sum()),
        drop=found[worst].value,
        ci=(found[worst].lower, found[worst].upper),
        looked_at=len(known),
    )


def _has_value(name: str, scores: Scores) -> bool:
    return len(scores) >= LEAST_ROWS and arithmetic(name, scores.options).unfit_set(scores.values) is None
