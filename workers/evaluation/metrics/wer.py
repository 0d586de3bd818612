"""`wer`: edits of words from the decoded sequence to the labels, by words of the labels."""

import math
from itertools import groupby

import numpy as np

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.cer import decoded, edits, not_decodable
from workers.evaluation.metrics.definition import Floats, RowMetric, Rows, ratio


def metric(options: MetricOptions) -> RowMetric:
    separator: int = options.model_dump()["separator"]

    def words(sequence: list[int]) -> list[tuple[int, ...]]:
        parts = groupby(sequence, lambda token: token == separator)
        return [tuple(part) for between, part in parts if not between]

    def score(rows: Rows) -> Floats:
        """Edits of words, and words of the labels, [rows, 2]."""
        pairs = zip(*decoded(rows, options), strict=True)
        split = ((words(found), words(wanted)) for found, wanted in pairs)
        return np.array([[edits(one, other), len(other)] for one, other in split], np.float64)

    return RowMetric(
        "wer",
        score,
        ratio,
        ideal=None,
        range=(0.0, math.inf),
        unfit=lambda rows: not_decodable(rows, options),
        interval="bounded",
    )
