"""What a baseline that did not end had found: metrics of the rows that had come out of the model by then.

Run in a fresh process, which opens no model: it was the model that ended the other one.
"""

from pathlib import Path

from pydantic import BaseModel

from app.domain.measurement import Measurement
from app.domain.partial import INCOMPLETE
from workers.evaluation.accuracy import compared_output, judge_all
from workers.steps.baseline import BEGUN, OUTPUTS, Begun, labels_of
from workers.steps.inputs import Progress, ScratchPath
from workers.steps.outputs import SoFar, kept_so_far
from workers.steps.requests import JobRequest
from workers.steps.rows import DatasetRows


class UnfinishedRequest(JobRequest):
    """Look at what the baseline step left."""

    baseline: ScratchPath = "baseline"


class UnfinishedResult(BaseModel):
    """What is known of the original, and where it stopped."""

    measurements: tuple[Measurement, ...]
    notes: tuple[str, ...] = ()


def run(request: UnfinishedRequest, scratch: Path, folder: Path, progress: Progress) -> UnfinishedResult:
    """Compute the job's metrics on the rows that were run, each flagged `incomplete`."""
    begun = Begun.model_validate_json((scratch / request.baseline / BEGUN).read_bytes())
    outputs = scratch / request.baseline / OUTPUTS
    found = kept_so_far(outputs)
    if found is None or not found.done:
        where = "Every row had been run; it stopped at the metrics." if outputs.exists() else "It stopped at row 0."
        return UnfinishedResult(measurements=begun.measurements, notes=(where,))
    labels = {}
    if begun.source != "synthetic":
        rows = DatasetRows(begun.inputs, request.datasets[begun.source], scratch, begun.source)
        labels = labels_of(begun.metrics, rows, found.done)
    accuracy = judge_all(
        begun.metrics,
        found.outputs,
        output=compared_output([port for port in begun.outputs if port.name in found.outputs]),
        labels=labels,
        conditions={"source": begun.source, "held_out": begun.source == "evaluation"},
        flags=(INCOMPLETE, *(("synthetic",) if begun.source == "synthetic" else ())),
    )
    return UnfinishedResult(measurements=(*begun.measurements, *accuracy.measurements), notes=(_where(found),))


def _where(found: SoFar) -> str:
    last = min(found.done + found.size, found.rows) - 1
    if last < found.done:
        return f"All {found.rows} rows had been run; it stopped at putting their outputs together."
    at = f"row {found.done}" if last == found.done else f"rows {found.done} to {last}"
    return f"{found.done} of {found.rows} rows had been run; it stopped at {at} (the first is row 0)."
