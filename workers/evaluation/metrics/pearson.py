"""`pearson`: the linear correlation with the labels, of numbers or of the cosines of two embeddings."""

import numpy as np

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.definition import Floats, RowMetric, Rows, by_row, row_text


def metric(options: MetricOptions) -> RowMetric:
    def score(rows: Rows) -> Floats:
        """Both numbers from their means, their squares and their product, [rows or pairs, 5]."""
        both = compared(rows, options)
        first, second = (both - both.mean(axis=0)).T
        return np.stack([first, second, first**2, second**2, first * second], axis=1)

    return RowMetric(
        "pearson",
        score,
        _value,
        ideal=None,
        range=(-1.0, 1.0),
        unfit=lambda rows: not_comparable(rows, options),
        unfit_set=lambda records: constant(records[:, :2]),
        interval="fisher",
        rows_a_draw=rows_a_draw(options),
        whole=True,
    )


def _value(means: Floats) -> Floats:
    first, second, first_square, second_square, product = np.moveaxis(means, -1, 0)
    variances = (first_square - first**2) * (second_square - second**2)
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (product - first * second) / np.sqrt(np.maximum(variances, 0.0))
    return np.asarray(np.clip(found, -1.0, 1.0))


def rows_a_draw(options: MetricOptions) -> int:
    return 2 if options.model_dump()["pairs"] == "rows" else 1


def compared(rows: Rows, options: MetricOptions) -> Floats:
    """What is correlated, [rows or pairs, 2]: the output's number or the pair's cosine, and the label."""
    chosen = options.model_dump()
    labels = rows.truth.reshape(-1).astype(np.float64)
    vectors = by_row(rows.artifact)
    if chosen["pairs"] == "rows":
        return np.stack([_cosine(vectors[::2], vectors[1::2]), labels[::2]], axis=1)
    if chosen["against"] is not None:
        others = by_row(rows.others[chosen["against"]][: len(vectors)])
        return np.stack([_cosine(vectors, others), labels], axis=1)
    return np.stack([vectors[:, 0], labels], axis=1)


def not_comparable(rows: Rows, options: MetricOptions) -> str | None:
    """Why outputs are no numbers or pairs of embeddings with a label each, or None."""
    chosen = options.model_dump()
    if rows.truth.size != len(rows.truth):
        return f"it wants one label a row, and a row of the labels is {row_text(rows.truth)}"
    width = by_row(rows.artifact[:1]).shape[1]
    if chosen["pairs"] == "rows":
        return "the rows are an odd number, and pairs are of rows 2i and 2i + 1" if len(rows.artifact) % 2 else None
    if (name := chosen["against"]) is not None:
        other = rows.others.get(name)
        if other is None or by_row(other[:1]).shape[1] != width:
            shape = "not there" if other is None else row_text(other)
            return f"a row of the output is {row_text(rows.artifact)}, and of the output {name!r} {shape}"
        return None
    if width != 1:
        return (
            f"it wants one number a row, and a row of the output is {row_text(rows.artifact)}: for embeddings say "
            "which are pairs in the options"
        )
    return None


def constant(both: Floats) -> str | None:
    """Why there is no correlation of such numbers, or None."""
    if len(both) < 2:
        return "there is one value alone, and a correlation needs several"
    for name, values in (("output", both[:, 0]), ("labels", both[:, 1])):
        if np.ptp(values) == 0:
            return f"the {name} {'does' if name == 'output' else 'do'} not vary"
    return None


def _cosine(first: Floats, second: Floats) -> Floats:
    lengths = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    return np.asarray((first * second).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))
