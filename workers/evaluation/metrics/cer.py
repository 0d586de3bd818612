"""`cer`: edits from the decoded sequence to the labels, by length of the labels."""

import math
from collections.abc import Callable, Sequence

import numpy as np

from app.domain.metric_options import MetricOptions
from workers.evaluation.metrics.definition import Floats, RowMetric, Rows, chosen, positions, ratio, row_text
from workers.evaluation.metrics.token_accuracy import counted_labels, not_sequences

Sequences = list[list[int]]


def metric(options: MetricOptions) -> RowMetric:
    return error_rate("cer", options, lambda sequence: sequence)


def error_rate(name: str, options: MetricOptions, units: Callable[[list[int]], Sequence[object]]) -> RowMetric:
    """Edits (insertions, deletions, substitutions) by length of the labels, both in the units of a decoded sequence."""

    def score(rows: Rows) -> Floats:
        """Edits, and units of the labels, [rows, 2]."""
        pairs = zip(*decoded(rows, options), strict=True)
        split = ((units(found), units(wanted)) for found, wanted in pairs)
        return np.array([[edits(one, other), len(other)] for one, other in split], np.float64)

    return RowMetric(
        name,
        score,
        ratio,
        ideal=None,
        range=(0.0, math.inf),
        unfit=lambda rows: not_decodable(rows, options),
        interval="bounded",
    )


def decoded(rows: Rows, options: MetricOptions) -> tuple[Sequences, Sequences]:
    """What each row's output says, and what its labels say, as lists of classes."""
    chosen_options = options.model_dump()
    ignore, blank = chosen_options["ignore"], chosen_options["blank"]
    labels, counted = counted_labels(rows, ignore)
    best = chosen(positions(rows.artifact)).astype(np.int64)
    wanted = [row[kept].tolist() for row, kept in zip(labels, counted, strict=True)]
    if blank is None:
        return [row[kept].tolist() for row, kept in zip(best, counted, strict=True)], wanted
    # Greedy decoding of CTC: A. Graves and others, "Connectionist temporal classification", ICML 2006, section 3.2.
    first = np.ones(best.shape, bool)
    first[:, 1:] = best[:, 1:] != best[:, :-1]
    return [row[kept].tolist() for row, kept in zip(best, first & (best != blank), strict=True)], wanted


def edits(one: Sequence[object], other: Sequence[object]) -> int:
    """The least insertions, deletions and substitutions that turn one sequence into the other."""
    from rapidfuzz.distance import Levenshtein

    return int(Levenshtein.distance(one, other))


def not_decodable(rows: Rows, options: MetricOptions) -> str | None:
    """Why outputs and labels are no sequences of classes, or None."""
    chosen_options = options.model_dump()
    blank = chosen_options["blank"]
    if (reason := not_sequences(rows, chosen_options["ignore"], aligned=blank is None)) is not None:
        return reason
    if blank is not None and not 0 <= blank < rows.artifact.shape[-1]:
        return f"the blank is class {blank}, and the output has {rows.artifact.shape[-1]} classes"
    labels_a_row = rows.truth.size // len(rows.truth)
    if blank is not None and rows.artifact.ndim < 3 and labels_a_row > 1:
        return (
            f"a row of the output is one vector of {row_text(rows.artifact)} classes, of which CTC wants one for each "
            f"moment, and of the labels {labels_a_row}"
        )
    return None
