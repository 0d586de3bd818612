"""From what two models put out, and the labels, to metrics with their intervals and scores per row."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from app.domain.dataset import GROUPS, LABELS, SLICES
from app.domain.measurement import Measurement, absent
from app.domain.metric import ALWAYS, LABELLED, METRICS, MetricChoice, is_float, named_outputs, options_of
from app.errors import StepError
from workers.evaluation.bounds import HEAVY_TAIL, TWO_SIDED_95, metric_bounds
from workers.evaluation.metrics import arithmetic
from workers.evaluation.metrics.definition import AnyMetric, Floats, Rows
from workers.evaluation.scores import Scores
from workers.evaluation.slices import named_slices, slices_of_labels
from workers.evaluation.statistics.clusters import codes_of
from workers.evaluation.streaming import RowScores
from workers.runtimes.session import Port

Array = NDArray[Any]
Outputs = Mapping[str, Array]
"""Arrays [rows, …] by the names of outputs; an open `.npz` file is one."""

NON_FINITE = "non_finite"
"""Flag of a metric that is absent because the artifact's output is not finite somewhere."""

_ELEMENTS = 1_000_000  # scored at once: some 8 MB in float64, a few times over


@dataclass(frozen=True, slots=True)
class Accuracy:
    """The metrics of one model, and the scores behind them, which the gate pairs row by row."""

    measurements: tuple[Measurement, ...]
    scores: dict[str, Scores]


def metrics_for(asked: Sequence[MetricChoice], *, has_labels: bool) -> tuple[MetricChoice, ...]:
    """The metrics of a job: those asked for, and of the others those always computed, `top1` where there are labels.

    Where a metric that is asked for says that the labels are no classes, `top1` is not computed unasked. In the order
    of the catalogue, those of one name as they were asked for. Raises StepError `unknown_metric` or
    `metric_options_invalid`.
    """
    for choice in asked:
        if choice.name not in METRICS:
            detail = f"There is no metric {choice.name!r}; there are {', '.join(METRICS)}."
            raise StepError(detail, code="unknown_metric")
        try:
            options_of(choice.name, choice.options)
        except ValidationError as error:
            wrong = "; ".join(f"{'/'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
            detail = f"The options of {choice.name} are not valid ({wrong}): GET /v1/metrics has their schema."
            raise StepError(detail, code="metric_options_invalid") from error
    named = {choice.name for choice in asked}
    others = any(METRICS[choice.name].labels not in (None, "classes") and choice.labels == LABELS for choice in asked)
    unasked = {*ALWAYS, *(LABELLED if has_labels and not others else ())} - named
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
    scored: RowScores | None = None,
) -> Accuracy:
    """Compute metrics, each of the output that it names.

    `output` is the one that is looked at where a choice names none. `labels` are the arrays of labels by name, and
    beside them `groups` and `slices`, where there are any. Without `original` the original itself is judged, and
    metrics that compare with it are left out. Outputs and labels are cut to the rows that each has. `flags` and
    `conditions` are added to every measurement. `scored` has the scores of metrics whose rows were scored before, which
    may be more than there are outputs of. What cannot be computed is absent with a reason. Scores are those of the
    first of each name, which is the one that goals use.
    """
    measurements: list[Measurement] = []
    scores: dict[str, Scores] = {}
    seen: list[MetricChoice] = []
    named: set[str] = set()
    for choice in choices:
        if METRICS[choice.name].relative_to_original and original is None:
            continue
        looked = choice.model_copy(update={"output": choice.output or output})
        if looked in seen:
            continue
        seen.append(looked)
        measurement, found = _judge(looked, artifact, original, labels or {}, conditions or {}, tuple(flags), scored)
        measurements.append(measurement)
        if found is not None and choice.name not in named:
            scores[choice.name] = found
        named.add(choice.name)
    return Accuracy(tuple(measurements), scores)


def _judge(
    choice: MetricChoice,
    artifact: Outputs,
    original: Outputs | None,
    arrays: Mapping[str, Array],
    conditions: Mapping[str, Any],
    flags: tuple[str, ...],
    scored: RowScores | None,
) -> tuple[Measurement, Scores | None]:
    """One metric of one output, with its scores; absent, and none, where it cannot be computed."""
    described, metric = METRICS[choice.name], arithmetic(choice.name, choice.options)
    stated = {**conditions, **({} if choice.output is None else {"output": choice.output})}
    if described.needs_labels and choice.labels != LABELS:
        stated["labels"] = choice.labels
    if choice.options:
        stated["options"] = choice.options
    if scored is not None and (before := scored.of(choice)) is not None:
        rows, values = before
        return _measure(choice, metric, rows, values, arrays, {**stated, "rows": len(values)}, flags)
    if (reason := _no_output(artifact, original, choice.output)) is not None:
        return _absent(choice.name, reason, stated), None
    assert choice.output is not None
    result = artifact[choice.output]
    reference = None if original is None else original[choice.output]
    if reference is not None and reference.shape[1:] != result.shape[1:]:
        reason = f"the artifact's output has the shape {list(result.shape)}, the original's {list(reference.shape)}"
        return _absent(choice.name, reason, stated), None
    labels = arrays.get(choice.labels) if described.needs_labels else None
    count = min(len(values) for values in (result, reference, labels) if values is not None)
    stated["rows"] = count
    if described.needs_labels and labels is None:
        return _absent(choice.name, "the rows have no labels", stated), None
    rows = Rows(
        result[:count],
        None if reference is None else reference[:count],
        None if labels is None else labels[:count],
        {name: artifact[name][:count] for name in named_outputs(choice).values() if name in artifact},
    )
    reason = "there are no rows" if count == 0 else metric.unfit(rows)
    if reason is not None:
        return _absent(choice.name, reason, stated), None
    values = np.concatenate([metric.score(part) for part in _parts(rows, whole=metric.whole)])
    return _measure(choice, metric, rows, values, arrays, stated, flags)


def _measure(
    choice: MetricChoice,
    metric: AnyMetric,
    rows: Rows,
    values: Floats,
    arrays: Mapping[str, Array],
    conditions: dict[str, Any],
    flags: tuple[str, ...],
) -> tuple[Measurement, Scores | None]:
    described, count = METRICS[choice.name], len(rows.artifact)
    undefined = int(np.isnan(values).any(axis=1).sum())
    if undefined:
        missing = _absent(choice.name, f"the output is not finite in {undefined} of {count} rows", conditions)
        return missing.model_copy(update={"flags": (*flags, NON_FINITE)}), None
    if (reason := metric.unfit_set(values)) is not None:
        return _absent(choice.name, reason, conditions), None
    scores = _with_parts(Scores(values, choice.options), metric.rows_a_draw, arrays, rows)
    found = metric_bounds(choice.name, scores, TWO_SIDED_95)
    if not np.isfinite(found.value):
        return _absent(choice.name, "its value is not finite on these rows", conditions), None
    ends = (found.lower, found.upper)
    measurement = Measurement(
        name=choice.name,
        value=found.value,
        unit=described.unit,
        better=described.better,
        ci95=ends if np.isfinite(ends).all() else None,
        count=len(values),
        conditions=conditions if scores.groups is None else {**conditions, "groups": int(scores.groups.max()) + 1},
        flags=(*flags, HEAVY_TAIL) if found.heavy_tail else flags,
    )
    return measurement, scores


def _with_parts(scores: Scores, rows_a_draw: int, arrays: Mapping[str, Array], rows: Rows) -> Scores:
    """Scores with the groups and slices of their rows; without slices of its own the classes of the labels."""
    count = len(rows.artifact)
    if (groups := arrays.get(GROUPS)) is not None:
        found = codes_of(groups[:count:rows_a_draw])
        # Groups of one row each are rows.
        scores = replace(scores, groups=found) if found.max() + 1 < len(found) else scores
    if (slices := arrays.get(SLICES)) is not None:
        return named_slices(scores, slices[:count:rows_a_draw])
    return scores if rows.labels is None or rows_a_draw > 1 else slices_of_labels(scores, rows.labels)


def _parts(rows: Rows, *, whole: bool) -> Iterator[Rows]:
    """The rows in pieces that fit the processor's caches better than the whole."""
    if whole:
        yield rows
        return
    a_row = max(int(np.prod(rows.artifact.shape[1:])), 1)
    step = max(_ELEMENTS // a_row, 1)
    for start in range(0, len(rows.artifact), step):
        part = slice(start, start + step)
        yield Rows(
            rows.artifact[part],
            None if rows.original is None else rows.original[part],
            None if rows.labels is None else rows.labels[part],
            {name: values[part] for name, values in rows.others.items()},
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
