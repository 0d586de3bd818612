"""Run the original over the rows that artifacts are compared on, and keep what it puts out."""

from pathlib import Path

import numpy as np
from pydantic import BaseModel

from app.domain.measurement import Measurement
from workers.evaluation.accuracy import Accuracy, compared_output, judge, metrics_for, save_scores
from workers.runtimes.session import Array, load
from workers.steps.artifact import artifact_bytes, describe_model
from workers.steps.outputs import Kept, run_over, worthwhile_threads
from workers.steps.requests import BaselineRequest, JobRequest, Progress
from workers.steps.rows import DatasetRows, Rows, Source, rows_of

OUTPUTS = "outputs.npz"
LABELS_FILE = "labels.npy"

_NOTES: dict[Source, tuple[str, ...]] = {
    "evaluation": (),
    "calibration": ("Nothing was held out: accuracy and fidelity are those on the calibration rows.",),
    "synthetic": ("There were no data: fidelity is that on seeded random rows, which real inputs may not be like.",),
}


class BaselineResult(BaseModel):
    """What the original put out.

    `outputs` is an `.npz` of float32 arrays [rows, …] by output, `labels` an `.npy` of integers [rows, …]
    or null; both relative to the step's folder. `output` is the one that metrics look at. `unusual`
    counts rows with infinite values, or values that are no numbers, by output.
    """

    source: Source
    rows: int
    outputs: str
    names: tuple[str, ...]
    output: str | None
    labels: str | None
    unusual: dict[str, int]
    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()


def run(request: BaselineRequest, scratch: Path, folder: Path, progress: Progress) -> BaselineResult:
    """Run the original over the evaluation rows, else the calibration rows, else random ones.

    Raises StepError as `workers.steps.outputs.run_over` does.
    """
    progress(0.0, "loading the model")
    model = scratch / request.model
    session = load(model)
    rows = rows_of(request, scratch, session)
    batch = request.spec.measure.batch[0]
    if (threads := worthwhile_threads(session, rows, batch)) > 1:
        session = load(model, threads=threads)
    kept = run_over(session, rows, folder / OUTPUTS, lambda share, text: progress(0.9 * share, text), batch=batch)
    labels = _labels(rows, kept)
    if labels is not None:
        np.save(folder / LABELS_FILE, labels, allow_pickle=False)
    output = compared_output([port for port in session.outputs if port.name in kept.names])
    progress(0.9, "computing metrics")
    accuracy = accuracy_of(request, rows.source, kept, output=output, labels=labels)
    save_scores(folder, accuracy.scores)
    return BaselineResult(
        source=rows.source,
        rows=kept.rows,
        outputs=OUTPUTS,
        names=kept.names,
        output=output,
        labels=None if labels is None else LABELS_FILE,
        unusual=kept.unusual,
        measurements=(artifact_bytes(describe_model(model)), *accuracy.measurements),
        notes=(*_NOTES[rows.source], *rows.notes, *kept.notes, *about_unusual(kept, "original")),
    )


def accuracy_of(
    request: JobRequest,
    source: Source,
    kept: Kept,
    *,
    output: str | None,
    labels: Array | None,
    original: Path | None = None,
) -> Accuracy:
    """The job's metrics of a model's outputs, compared with those in `original` where that is given."""
    metrics = metrics_for(request.spec.metrics, has_labels=labels is not None)
    conditions = {"source": source, "held_out": source == "evaluation"}
    flags = ("synthetic",) if source == "synthetic" else ()
    with np.load(kept.file, allow_pickle=False) as outputs:
        if original is None:
            return judge(metrics, outputs, output=output, labels=labels, conditions=conditions, flags=flags)
        with np.load(original, allow_pickle=False) as reference:
            return judge(
                metrics,
                outputs,
                output=output,
                original=reference,
                labels=labels,
                conditions=conditions,
                flags=flags,
            )


def about_unusual(kept: Kept, whose: str) -> tuple[str, ...]:
    """Notes about outputs that are not finite."""
    return tuple(
        f"Output {name} of the {whose} is infinite or not a number in {count} of {kept.rows} rows."
        for name, count in kept.unusual.items()
    )


def _labels(rows: Rows, kept: Kept) -> Array | None:
    if isinstance(rows, DatasetRows) and rows.has_labels:
        return rows.labels(kept.rows)
    return None
