"""Run the original over the rows that artifacts are compared on, and keep what it puts out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from app.domain.dataset import GROUPS, SLICES
from app.domain.measure import RUNTIMES_OF, Runtime
from app.domain.measurement import Measurement
from app.domain.metric import METRICS, MetricChoice, named_outputs
from app.errors import StepError
from workers.evaluation.accuracy import NON_FINITE, Accuracy, compared_output, judge_all, metrics_for
from workers.evaluation.scores import save_scores
from workers.evaluation.streaming import RowScores
from workers.runtimes.session import Array, Port, load, usual_runtime
from workers.steps.artifact import artifact_bytes, describe_model
from workers.steps.decoding import TOKENS, decoder_cases
from workers.steps.inputs import Progress
from workers.steps.outputs import Kept, run_over, worthwhile_threads
from workers.steps.requests import BaselineRequest, JobRequest
from workers.steps.rows import DatasetRows, Rows, Source, rows_of

OUTPUTS = "outputs.npz"
BEGUN = "begun.json"
"""Beside them until the step ends: what it knew before the first row, for the case that it does not end."""

_NOTES: dict[Source, tuple[str, ...]] = {
    "evaluation": (),
    "calibration": ("Nothing was held out: accuracy and fidelity are those on the calibration rows.",),
    "synthetic": ("There were no data: fidelity is that on seeded random rows, which real inputs may not be like.",),
}


class Begun(BaseModel):
    """What is known before the first row is run."""

    source: Source
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    metrics: tuple[MetricChoice, ...]
    measurements: tuple[Measurement, ...]


class BaselineResult(BaseModel):
    """What the original put out.

    `outputs` is an `.npz` of float32 arrays [rows, …] by output, `labels` an `.npy` by array of labels, and of groups
    and slices where there are any, of all rows of the source; both relative to the step's folder. `output` is the one
    that metrics look at unless told otherwise. `unusual` counts rows with infinite values, or values that are no
    numbers, by output. `metrics` are those of the job, of the candidates too. `batches` are the rows a call that
    latency is measured with, `cases` the further shapes by name: the job's, or the two that a decoder is served in.
    `runtimes` are those that latency is measured on; metrics are those of the first.
    """

    source: Source
    rows: int
    outputs: str
    names: tuple[str, ...]
    output: str | None
    labels: dict[str, str]
    unusual: dict[str, int]
    metrics: tuple[MetricChoice, ...]
    batches: tuple[int, ...]
    cases: dict[str, dict[str, tuple[int, ...]]]
    runtimes: tuple[Runtime, ...]
    measurements: tuple[Measurement, ...]
    running_seconds: float = 0.0
    notes: tuple[str, ...] = ()


def run(request: BaselineRequest, scratch: Path, folder: Path, progress: Progress) -> BaselineResult:
    """Run the original over the evaluation rows, else the calibration rows, else random ones.

    Raises StepError as `workers.steps.outputs.run_over` does.
    """
    progress(0.0, "loading the model")
    model = scratch / request.model
    options = request.session_options
    runtimes, left_out = _runtimes(request, model)
    session = load(model, providers=request.providers, session_options=options, runtime=runtimes[0])
    rows = rows_of(request, scratch, session)
    metrics = _metrics(request, rows)
    of_file = artifact_bytes(describe_model(model))
    begun = Begun(
        source=rows.source, inputs=session.inputs, outputs=session.outputs, metrics=metrics, measurements=(of_file,)
    )
    (folder / BEGUN).write_text(begun.model_dump_json(), encoding="utf-8")
    batch = request.spec.measure.batch[0]
    if (threads := worthwhile_threads(session, rows, batch)) > 1:
        session = load(
            model, threads=threads, providers=request.providers, session_options=options, runtime=runtimes[0]
        )
    labels = labels_of(metrics, rows, rows.count)
    scored = RowScores(metrics, labels, compared_output(session.outputs))
    kept = run_over(
        session,
        rows,
        folder / OUTPUTS,
        lambda share, text: progress(0.9 * share, text),
        batch=batch,
        needed=_needed(metrics, session.outputs),
        every=scored.add if scored else None,
    )
    files = {name: f"labels-{number}.npy" for number, name in enumerate(labels)}
    for name, values in labels.items():
        np.save(folder / files[name], values, allow_pickle=False)
    output = compared_output([port for port in session.outputs if port.name in kept.names])
    progress(0.9, "computing metrics")
    accuracy = accuracy_of(metrics, rows.source, kept, output=output, labels=labels, scored=scored)
    save_scores(folder, accuracy.scores)
    batches = tuple(dict.fromkeys(rows.size(size) for size in request.spec.measure.batch))
    (folder / BEGUN).unlink()
    return BaselineResult(
        source=rows.source,
        rows=kept.rows,
        outputs=OUTPUTS,
        names=kept.names,
        output=output,
        labels=files,
        unusual=kept.unusual,
        metrics=metrics,
        batches=batches,
        runtimes=runtimes,
        cases=request.spec.measure.cases or decoder_cases(session.inputs, _tokens(rows)),
        measurements=(of_file, *accuracy.measurements),
        running_seconds=kept.running_seconds,
        notes=(
            *_NOTES[rows.source],
            *rows.notes,
            *kept.notes,
            *about_unusual(kept, "original"),
            *_fixed(request.spec.measure.batch, batches),
            *left_out,
        ),
    )


def _runtimes(request: BaselineRequest, model: Path) -> tuple[tuple[Runtime, ...], tuple[str, ...]]:
    """The runtimes to measure on, the one for metrics first, and notes on those that cannot run the model."""
    asked, usual = request.measure.runtime, usual_runtime(model)
    if asked != "auto":
        return (asked or usual,), ()
    found, notes = [usual], []
    others = [runtime for runtimes in RUNTIMES_OF.values() if usual in runtimes for runtime in runtimes]
    for runtime in others:
        if runtime == usual:
            continue
        try:
            load(model, providers=request.providers, session_options=request.session_options, runtime=runtime).close()
        except StepError as error:
            notes.append(f"{runtime} was not timed: {error.detail.rstrip('. ')}.")
        else:
            found.append(runtime)
    return tuple(found), tuple(notes)


def accuracy_of(
    metrics: Sequence[MetricChoice],
    source: Source,
    kept: Kept,
    *,
    output: str | None,
    labels: Mapping[str, Array],
    original: Path | None = None,
    scored: RowScores | None = None,
) -> Accuracy:
    """Metrics of a model's outputs, compared with those in `original` where that is given.

    `scored` has the scores of rows beyond those that are kept.
    """
    conditions = {"source": source, "held_out": source == "evaluation"}
    flags = ("synthetic",) if source == "synthetic" else ()
    with np.load(kept.file, allow_pickle=False) as outputs:
        if original is None:
            found = judge_all(
                metrics, outputs, output=output, labels=labels, conditions=conditions, flags=flags, scored=scored
            )
            return _flagged(found, kept)
        with np.load(original, allow_pickle=False) as reference:
            found = judge_all(
                metrics,
                outputs,
                output=output,
                original=reference,
                labels=labels,
                conditions=conditions,
                flags=flags,
                scored=scored,
            )
            return _flagged(found, kept)


def _flagged(found: Accuracy, kept: Kept) -> Accuracy:
    """Values of outputs that are no numbers in some rows say so: there, say, a class that nobody chose is wrong."""

    def flag(measured: Measurement) -> Measurement:
        if NON_FINITE in measured.flags or measured.conditions.get("output") not in kept.undefined:
            return measured
        return measured.model_copy(update={"flags": (*measured.flags, NON_FINITE)})

    return replace(found, measurements=tuple(map(flag, found.measurements)))


def about_unusual(kept: Kept, whose: str) -> tuple[str, ...]:
    """Notes about outputs that are not finite."""
    return tuple(
        f"Output {name} of the {whose} is infinite or not a number in {count} of {kept.rows} rows."
        for name, count in kept.unusual.items()
    )


def _needed(metrics: Sequence[MetricChoice], outputs: Sequence[Port]) -> set[str]:
    """The outputs that metrics look at: those they name, and the one that is meant where they name none."""
    found = {compared_output(outputs), *(choice.output for choice in metrics)}
    found.update(name for choice in metrics for name in named_outputs(choice).values())
    return {name for name in found if name is not None}


def _metrics(request: JobRequest, rows: Rows) -> tuple[MetricChoice, ...]:
    """What the job measures of a model's outputs; its constraints name what must be measured too."""
    return metrics_for(request.spec.asked_metrics(), has_labels=isinstance(rows, DatasetRows) and rows.has_labels())


def _tokens(rows: Rows) -> int:
    """How long a row of the data is, where rows are whole numbers."""
    feeds = next(rows.feeds(rows.size(1)), {}) if isinstance(rows, DatasetRows) else {}
    lengths = [values.shape[1] for values in feeds.values() if values.dtype.kind in "iu" and values.ndim == 2]
    return max(lengths, default=TOKENS)


def labels_of(metrics: Sequence[MetricChoice], rows: Rows, count: int) -> dict[str, Array]:
    """The arrays that metrics compare with or go by, as far as they are there, of the first rows."""
    names = dict.fromkeys(choice.labels for choice in metrics if METRICS[choice.name].needs_labels)
    names |= dict.fromkeys((GROUPS, SLICES))
    if not isinstance(rows, DatasetRows):
        return {}
    return {name: rows.labels(count, name) for name in names if rows.has_labels(name)}


def _fixed(asked: Sequence[int], batches: Sequence[int]) -> tuple[str, ...]:
    if set(asked) <= set(batches):
        return ()
    size = batches[0]
    return (f"The model takes {size} {'row' if size == 1 else 'rows'} a call, whatever measure.batch says.",)
