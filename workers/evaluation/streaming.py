"""Metrics of more rows than a model's outputs are kept of: each row is scored as it is put out, and forgotten."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.metric import METRICS, MetricChoice, named_outputs
from workers.evaluation.metrics import arithmetic
from workers.evaluation.metrics.definition import AnyMetric, Floats, RowMetric, Rows

Array = NDArray[Any]


def scored_alone(choice: MetricChoice) -> bool:
    """Whether a row of a metric is scored by one output and its labels, without the original and without other rows."""
    metric, described = arithmetic(choice.name, choice.options), METRICS[choice.name]
    return (
        isinstance(metric, RowMetric)
        and described.needs_labels
        and not (described.relative_to_original or named_outputs(choice))
        and not (metric.whole or metric.rows_a_draw > 1)
    )


@dataclass(slots=True)
class _Scored:
    """A metric with what it has scored by now; `shape` is that of a row of its output."""

    choice: MetricChoice
    metric: AnyMetric
    labels: Array
    shape: tuple[int, ...] | None = None
    parts: list[Floats] = field(default_factory=list)

    def add(self, outputs: Mapping[str, Array], first: int) -> bool:
        """Score the rows from `first` on; whether that could be done."""
        output = outputs.get(self.choice.output or "")
        if output is None:
            return False
        if self.shape is None:
            self.shape = output.shape[1:]
            if self.metric.unfit(self.rows()) is not None:
                return False
        if output.shape[1:] != self.shape:
            return False
        self.parts.append(self.metric.score(Rows(output, labels=self.labels[first : first + len(output)])))
        return True

    def rows(self) -> Rows:
        """All rows as far as they are not forgotten: outputs of the right shape, and the labels."""
        shape = (len(self.labels), *(self.shape or ()))
        return Rows(np.broadcast_to(np.float32(0), shape), labels=self.labels)


class RowScores:
    """What metrics keep of each row of a model, row after row; of those metrics alone that can be told so."""

    def __init__(self, choices: Sequence[MetricChoice], labels: Mapping[str, Array], output: str | None) -> None:
        """Begin with no row. `labels` are the arrays of all rows, `output` is looked at where a choice names none."""
        looked = [choice.model_copy(update={"output": choice.output or output}) for choice in choices]
        self._scored = [
            _Scored(choice, arithmetic(choice.name, choice.options), labels[choice.labels])
            for number, choice in enumerate(looked)
            if choice not in looked[:number] and choice.labels in labels and scored_alone(choice)
        ]
        self._done = 0

    def __bool__(self) -> bool:
        """Whether any metric can be scored so."""
        return bool(self._scored)

    def add(self, outputs: Mapping[str, Array]) -> bool:
        """Score the next rows, arrays [rows, …] by the names of outputs; whether further rows are of use.

        A metric whose output or labels turn out not to fit is given up.
        """
        self._scored = [each for each in self._scored if each.add(outputs, self._done)]
        self._done += len(next(iter(outputs.values()))) if outputs else 0
        return bool(self._scored)

    def of(self, choice: MetricChoice) -> tuple[Rows, Floats] | None:
        """The rows and the scores, [rows, columns], of a metric; None where not every row was scored."""
        for each in self._scored:
            if each.choice == choice and self._done == len(each.labels):
                return each.rows(), np.concatenate(each.parts)
        return None
