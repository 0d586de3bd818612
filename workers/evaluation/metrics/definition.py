"""What a metric is in code: what it keeps of each row, and the value that many rows make.

The identity, direction, needs and options of a metric are `app.domain.metric.METRICS`; its arithmetic is one file
here with one `METRIC`, or, where it has options, a `metric(options)` that gives it. What is kept of each row is saved,
so that intervals and paired comparisons can be computed after both models have run.

There are two forms. A `RowMetric` is a smooth function of the means of its rows' columns. A `SetMetric` is anything
else (ranks, areas under curves, shares of shares): it tells its value and the influence of each row on it.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from workers.evaluation.statistics.clusters import Codes
from workers.evaluation.statistics.linear import Ends, Linearised

Floats = NDArray[np.float64]

Interval = Literal["studentised", "bounded", "fisher"]
"""How a value's interval is found: the studentised bootstrap, of what has no bounds; Student's t of the influence of
rows, on the scale of log odds; or on Fisher's."""


@dataclass(frozen=True, slots=True)
class Rows:
    """Some rows of one output, by the original, the artifact under test, and the labels.

    `original` and `artifact` have the shape [rows, …] and any float dtype; `labels` has [rows, …] of numbers.
    `original` is None when the original itself is judged, `labels` where there are none. `others` are the artifact's
    outputs by name, for metrics whose options name more than one.
    """

    artifact: NDArray[np.floating]
    original: NDArray[np.floating] | None = None
    labels: NDArray[Any] | None = None
    others: Mapping[str, NDArray[np.floating]] = field(default_factory=dict)

    @property
    def reference(self) -> NDArray[np.floating]:
        """The original's output; only for metrics that are `relative_to_original`."""
        if self.original is None:
            raise ValueError("this metric compares with the original, and there is none")
        return self.original

    @property
    def truth(self) -> NDArray[Any]:
        """The labels; only for metrics that need them."""
        if self.labels is None:
            raise ValueError("this metric needs labels, and there are none")
        return self.labels


@dataclass(frozen=True, slots=True)
class RatioForm:
    """A value as a rising or falling function of the ratio of two sums over rows.

    `parts` takes what is kept of rows, [rows, columns], and gives the numerators and the denominators, [rows] each, or
    None where these rows make no such ratio. `value` takes any ratio, infinite ones too; `grows`: in proportion to
    itself, as an exponential does.
    """

    parts: Callable[[Floats], tuple[Floats, Floats] | None]
    value: Callable[[float], float]
    grows: bool = False


@dataclass(frozen=True, slots=True)
class RowMetric:
    """A metric whose value is a smooth function of the means of what it scores a row with.

    `score` gives [rows, columns] in float64; a row whose output is not finite where the metric needs it
    scores NaN. `value` takes means of the columns, [..., columns], and gives [...]. `ideal` is the value
    of the original compared with itself, None for metrics that do not compare with it. `range` bounds what any
    value can be. `unfit` says why an output cannot be scored, or None. `interval` says how a value's is found, `form`
    of which ratio where that is known, `rows_a_draw` how many rows one score is of, `whole` that rows cannot be scored
    apart. `unfit_set` says why scores have no value, such as those of labels that do not vary.
    """

    id: str
    score: Callable[[Rows], Floats]
    value: Callable[[Floats], Floats]
    ideal: float | None
    range: tuple[float, float]
    unfit: Callable[[Rows], str | None] = lambda rows: None
    unfit_set: Callable[[Floats], str | None] = lambda scores: None
    interval: Interval = "studentised"
    form: RatioForm | None = None
    rows_a_draw: int = 1
    whole: bool = False


@dataclass(frozen=True, slots=True)
class OwnBounds:
    """The intervals of a metric that those of its form do not serve, each bound one-sided.

    `value` takes records, groups and a confidence; `drop`, where there is one, the records of the original and of the
    artifact, and gives the bounds of original minus artifact.
    """

    value: Callable[[Floats, Codes | None, float], Ends]
    drop: Callable[[Floats, Floats, Codes | None, float], Ends] | None = None


@dataclass(frozen=True, slots=True)
class SetMetric:
    """A metric of a set of rows that no means make.

    `score` gives what is kept of each row, [rows, columns] in float64, NaN where an output is not finite.
    `linearise` takes that of all rows, and their groups, and gives the value with the rows' influence. The rest is as
    in `RowMetric`.
    """

    id: str
    score: Callable[[Rows], Floats]
    linearise: Callable[[Floats, Codes | None], Linearised]
    range: tuple[float, float]
    unfit: Callable[[Rows], str | None] = lambda rows: None
    unfit_set: Callable[[Floats], str | None] = lambda records: None
    interval: Interval = "bounded"
    own: OwnBounds | None = None
    ideal: float | None = None
    rows_a_draw: int = 1
    whole: bool = False


AnyMetric = RowMetric | SetMetric


def mean(means: Floats) -> Floats:
    """The value of a metric with one column: its mean over rows."""
    column: Floats = means[..., 0]
    return column


def ratio(means: Floats) -> Floats:
    """The value of a metric with two columns: the sum of the first over that of the second."""
    with np.errstate(divide="ignore", invalid="ignore"):
        found: Floats = means[..., 0] / means[..., 1]
    return found


MEAN = RatioForm(lambda scores: (scores[:, 0], np.ones(len(scores))), float)
"""Of a metric with one column, its mean over rows."""


def by_row(values: NDArray[np.floating]) -> Floats:
    """Everything of a row along one axis, [rows, values], in float64."""
    return values.reshape(len(values), -1).astype(np.float64)


def positions(values: NDArray[np.floating]) -> NDArray[np.floating]:
    """The class axis last and the other axes of a row before it as one, [rows, positions, classes]."""
    return values.reshape(len(values), -1, values.shape[-1])


def no_class_axis(values: NDArray[np.floating]) -> str | None:
    """Why an output of shape [rows, …, classes] has no classes to choose from, or None."""
    if values.ndim < 2 or values.shape[-1] < 2:
        return f"the output has no class axis: a row of it is {row_text(values)}"
    return None


def row_text(values: NDArray[Any]) -> str:
    """The shape of a row, as people say it."""
    return " × ".join(str(size) for size in values.shape[1:]) or "one number"


def not_whole(labels: NDArray[Any]) -> str | None:
    """Why labels are no places of classes, or None."""
    if labels.dtype.kind not in "iub":
        return f"the labels are {labels.dtype}, and classes are whole numbers"
    return None


def outside(labels: NDArray[Any], classes: int) -> str | None:
    """Why labels, the ignored ones left out, are not all places on an axis of so many classes, or None."""
    if not labels.size:
        return "no label is left that is not ignored"
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        return f"labels run from {low} to {high}, and the output has {classes} classes, 0 to {classes - 1}"
    return None


def one_class_a_row(rows: Rows) -> str | None:
    """Why outputs and labels are not one vector of classes and one whole number for each row, or None."""
    if (reason := no_class_axis(rows.artifact) or not_whole(rows.truth)) is not None:
        return reason
    if positions(rows.artifact).shape[1] != 1 or rows.truth.size != len(rows.truth):
        return (
            f"it wants one vector of classes and one label a row; a row of the output is {row_text(rows.artifact)}, "
            f"of the labels {row_text(rows.truth)}"
        )
    return outside(rows.truth, rows.artifact.shape[-1])


def class_scores(rows: Rows) -> NDArray[np.floating]:
    """The one vector of classes of each row, [rows, classes]."""
    return rows.artifact.reshape(len(rows.artifact), -1)


def class_labels(rows: Rows) -> NDArray[np.int64]:
    """The one label of each row, [rows]."""
    return rows.truth.reshape(-1).astype(np.int64)


def chosen(scores: NDArray[np.floating]) -> Floats:
    """The place of the highest score (the first of equals) on the last axis; -1 where one is not a number."""
    return np.where(np.isnan(scores).any(axis=-1), -1.0, scores.argmax(axis=-1).astype(np.float64))
