"""What a metric is in code: a score for each row, and the value that many scores make.

The identity, direction and needs of a metric are `app.domain.metric.METRICS`; its arithmetic is one file
here with one `METRIC`. Scores are kept per row, so that intervals and paired comparisons can be computed
after both models have run.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of one output, by the original, the artifact under test, and the labels.

    `original` and `artifact` have the shape [rows, …] and any float dtype; `labels` has [rows, …] of
    integers. `original` is None when the original itself is judged, `labels` where there are none.
    """

    artifact: NDArray[np.floating]
    original: NDArray[np.floating] | None = None
    labels: NDArray[np.integer] | None = None

    @property
    def reference(self) -> NDArray[np.floating]:
        """The original's output; only for metrics that are `relative_to_original`."""
        if self.original is None:
            raise ValueError("this metric compares with the original, and there is none")
        return self.original

    @property
    def truth(self) -> NDArray[np.integer]:
        """The labels; only for metrics that need them."""
        if self.labels is None:
            raise ValueError("this metric needs labels, and there are none")
        return self.labels


@dataclass(frozen=True, slots=True)
class RowMetric:
    """A metric whose value is a smooth function of the means of what it scores a row with.

    `score` gives [rows, columns] in float64; a row whose output is not finite where the metric needs it
    scores NaN. `value` takes means of the columns, [..., columns], and gives [...]. `ideal` is the value
    of the original compared with itself, None for metrics that do not compare with it. `range` bounds what any
    value can be. `unfit` says why an output cannot be scored, or None.
    """

    id: str
    score: Callable[[Rows], Floats]
    value: Callable[[Floats], Floats]
    ideal: float | None
    range: tuple[float, float]
    unfit: Callable[[Rows], str | None] = lambda rows: None


def mean(means: Floats) -> Floats:
    """The value of a metric with one column: its mean over rows."""
    column: Floats = means[..., 0]
    return column


def by_row(values: NDArray[np.floating]) -> Floats:
    """Everything of a row along one axis, [rows, values], in float64."""
    return values.reshape(len(values), -1).astype(np.float64)


def positions(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """The class axis last and the other axes of a row before it as one, [rows, positions, classes]."""
    return values.reshape(len(values), -1, values.shape[-1])


def no_class_axis(values: NDArray[np.floating]) -> str | None:
    """Why an output of shape [rows, …, classes] has no classes to choose from, or None."""
    if values.ndim < 2 or values.shape[-1] < 2:
        shape = " × ".join(str(size) for size in values.shape[1:]) or "one number"
        return f"the output has no class axis: a row of it is {shape}"
    return None
