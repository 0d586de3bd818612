"""`wer`: edits of words from the decoded sequence to the labels, by words of the labels."""

from itertools import groupby

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.cer import error_rate
from workers.evaluation.metrics.definition import RowMetric


def metric(options: MetricOptions) -> RowMetric:
    separator: int = options.model_dump()["separator"]

    def words(sequence: list[int]) -> list[tuple[int, ...]]:
        parts = groupby(sequence, lambda token: token == separator)
        return [tuple(part) for between, part in parts if not between]

    return error_rate("wer", options, words)
