"""From what two models put out, and the labels, to metrics with their intervals and scores per row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from app.domain.dataset import LABELS
from app.domain.measurement import Measurement, absent
from app.domain.metric import ALWAYS, LABELLED, METRICS, MetricChoice, is_float
from app.errors import StepError
from workers.evaluation.bounds import TWO_SIDED_95, metric_bounds
from workers.evaluation.metrics import row_metric
from workers.evaluation.metrics.definition import Floats, Rows
from workers.runtimes.session import Port

Array = NDArray[Any]
Outputs = Mapping[str, Array]
"""Arrays [rows, …] by the names of outputs; an open `.npz` file is one."""

SCORES = "scores.npz"
"""Where a step keeps its scores: one float64 array [rows, columns] a metric."""

NON_FINITE = "non_finite"
"""Flag of a metric that is absent because the artifact's output is not finite somewhere."""

_ELEMENTS = 1_000_000  # scored at once: some 8 MB in float64, a few times over


_Place = tuple[str | None, str | None]
"""The output that a metric looks at, and the array of labels that it needs."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The metrics of one model, and the scores behind them, which the gate pairs row by row."""

    measurements: tuple[Measurement, ...]
    scores: dict[str, Floats]


def metrics_for(asked: Sequence[MetricChoice], *, has_labels: bool) -> tuple[MetricChoice, ...]:
    """The metrics of a job: those asked for, and of the others those always computed, `top1` where there are labels.

    In the order of the catalogue, those of one name as they were asked for. Raises StepError `unknown_metric`.
    """
    unknown = [choice.name for choice in asked if choice.name not in METRICS]
    if unknown:
        raise StepError(f"There is no metric {unknown[0]!r}; there are {', '.join(METRICS)}.", code="unknown_metric")
    named = {choice.name for choice in asked}
    unasked = {*ALWAYS, *(LABELLED if has_labels else ())} - named
    choices = [*asked, *(MetricChoice(name=name) for name in unasked)]
    order = list(METRICS)
    return tuple(sorted(choices, key=lambda choice: order.index(choice.name)))


def compared_output(ports: Sequence[Port]) -> str | None:
    """The output that metrics look at unless told otherwise: the first of a float type, else None."""
    return next((port.name for port in ports if is_float(port.dtype)), None)


def judge_all(
    choices: Sequence[MetricChoice],
    artifact: Outputs,
    *,
    output: str | None,
    original: Outputs | None = None,
    labels: Mapping[str, Array] | None = None,
    conditions: Mapping[str, Any] | None = None,
    flags: Sequence[str] = (),
) -> Accuracy:
    """Compute metrics of several outputs, as `judge` does of one.

    `output` is the one that is looked at where a choice names none; `labels` are the arrays of labels by name. Scores
    are those of the first of each name, which is the one that goals use.
    """
    wanted = dict.fromkeys((choice.name, _place(choice, output)) for choice in choices)
    groups: dict[_Place, list[str]] = {}
    for name, place in wanted:
        groups.setdefault(place, []).append(name)
    found = {
        place: judge(
            names,
            artifact,
            output=place[0],
            original=original,
            labels=None if place[1] is None else (labels or {}).get(place[1]),
            conditions={**(conditions or {}), **({} if place[1] in (None, LABELS) else {"labels": place[1]})},
            flags=flags,
        )
        for place, names in groups.items()
    }
    first: dict[str, Accuracy] = {}
    for name, place in wanted:
        first.setdefault(name, found[place])
    return Accuracy(
        tuple(each for name, place in wanted for each in found[place].measurements if each.name == name),
        {name: known.scores[name] for name, known in first.items() if name in known.scores},
    )


def _place(choice: MetricChoice, output: str | None) -> _Place:
    return choice.output or output, choice.labels if METRICS[choice.name].needs_labels else None


def judge(
    metrics: Sequence[str],
    artifact: Outputs,
    *,
    output: str | None,
    original: Outputs | None = None,
    labels: Array | None = None,
    conditions: Mapping[str, Any] | None = None,
    flags: Sequence[str] = (),
) -> Accuracy:
    """Compute metrics of one output of a model.

    Without `original` the original itself is judged, and metrics that compare with it are left out.
    `output` names the array to look at, `labels` has [rows] or [rows, positions] of whole numbers. All are cut
    to the rows that each has. `flags` and `conditions` are added to every measurement. What cannot be
    computed is absent with a reason.
    """
    wanted = [name for name in metrics if original is not None or not METRICS[name].relative_to_original]
    stated = {**(conditions or {}), **({} if output is None else {"output": output})}
    reason = _no_output(artifact, original, output)
    if reason is not None:
        return Accuracy(tuple(_absent(name, reason, stated) for name in wanted), {})
    assert output is not None
    result = artifact[output]
    reference = None if original is None else original[output]
    if reference is not None and reference.shape[1:] != result.shape[1:]:
        reason = f"the artifact's output has the shape {list(result.shape)}, the original's {list(reference.shape)}"
        return Accuracy(tuple(_absent(name, reason, stated) for name in wanted), {})
    lengths = [len(values) for values in (result, reference, labels) if values is not None]
    rows = Rows(
        result[: min(lengths)],
        None if reference is None else reference[: min(lengths)],
        None if labels is None else labels[: min(lengths)],
    )
    measurements: list[Measurement] = []
    scores: dict[str, Floats] = {}
    stated["rows"] = min(lengths)
    for name in wanted:
        measurement, found = _measure(name, rows, stated, tuple(flags))
        measurements.append(measurement)
        if found is not None:
            scores[name] = found
    return Accuracy(tuple(measurements), scores)


def save_scores(folder: Path, scores: Mapping[str, Floats]) -> None:
    """Keep the scores of a model in a step's folder."""
    np.savez(folder / SCORES, allow_pickle=False, **scores)


def read_scores(folder: Path) -> dict[str, Floats]:
    """The scores that were kept there; none where nothing was."""
    if not (folder / SCORES).exists():
        return {}
    with np.load(folder / SCORES, allow_pickle=False) as kept:
        return {name: kept[name] for name in kept.files}


def _measure(
    name: str, rows: Rows, conditions: dict[str, Any], flags: tuple[str, ...]
) -> tuple[Measurement, Floats | None]:
    metric, described = row_metric(name), METRICS[name]
    count = len(rows.artifact)
    if described.needs_labels and rows.labels is None:
        return _absent(name, "the rows have no labels", conditions), None
    reason = "there are no rows" if count == 0 else metric.unfit(rows)
    if reason is not None:
        return _absent(name, reason, conditions), None
    scores = np.concatenate([metric.score(part) for part in _parts(rows)])
    undefined = int(np.isnan(scores).any(axis=1).sum())
    if undefined:
        missing = _absent(name, f"the output is not finite in {undefined} of {count} rows", conditions)
        return missing.model_copy(update={"flags": (*flags, NON_FINITE)}), None
    found = metric_bounds(name, scores, TWO_SIDED_95)
    ends = (found.lower, found.upper)
    measurement = Measurement(
        name=name,
        value=found.value,
        unit=described.unit,
        better=described.better,
        ci95=ends if np.isfinite(ends).all() else None,
        count=count,
        conditions=conditions,
        flags=flags,
    )
    return measurement, scores


def _parts(rows: Rows) -> Iterator[Rows]:
    """The rows in pieces that fit the processor's caches better than the whole."""
    a_row = max(int(np.prod(rows.artifact.shape[1:])), 1)
    step = max(_ELEMENTS // a_row, 1)
    for start in range(0, len(rows.artifact), step):
        part = slice(start, start + step)
        yield Rows(
            rows.artifact[part],
            None if rows.original is None else rows.original[part],
            None if rows.labels is None else rows.labels[part],
        )


def _no_output(artifact: Outputs, original: Outputs | None, output: str | None) -> str | None:
    if output is None:
        return "the model has no float output"
    for owner, outputs in (("artifact", artifact), ("original", original)):
        if outputs is None:
            continue
        if output not in outputs:
            return f"the {owner} has no comparable output {output!r}"
        if not np.issubdtype(outputs[output].dtype, np.floating):
            return f"the output {output!r} holds integers, which have no class axis and no distance"
    return None


def _absent(name: str, reason: str, conditions: Mapping[str, Any]) -> Measurement:
    described = METRICS[name]
    missing = absent(name, reason, unit=described.unit, better=described.better)
    return missing.model_copy(update={"conditions": dict(conditions)})
