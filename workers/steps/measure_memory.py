"""One fresh child's peak memory with one model, or with none but the smallest there is."""

from pathlib import Path

from pydantic import Field

from app.domain.job import JobSpec, Role
from workers.evaluation.memory import CALLS, one_node_model, peak_bytes, present_bytes
from workers.evaluation.replicate import ZERO, MemoryReplicate
from workers.formats.datasets.opening import open_dataset
from workers.runtimes.session import load
from workers.steps.feeds import first_feeds
from workers.steps.requests import DatasetFile, ModelFile, Progress, RowSource, StepRequest
from workers.steps.rows import rows_from


class MeasureMemoryRequest(StepRequest):
    """Load one model in this process and run it a few times."""

    spec: JobSpec
    datasets: dict[Role, DatasetFile] = Field(default_factory=dict)
    model: ModelFile | None = None
    """None: a one-node model, whose peak is subtracted from the others'."""
    subject: str = ZERO
    """Whose peak this is: `original`, or a candidate's id."""


def run(request: MeasureMemoryRequest, scratch: Path, folder: Path, progress: Progress) -> MemoryReplicate:
    """Run the model three times and read what the process holds, and the most it ever held.

    Raises StepError `model_does_not_load`, `model_does_not_run` or `memory_not_measurable`.
    """
    measure = request.spec.measure
    dataset = request.datasets.get("evaluation") or request.datasets.get("calibration")
    if request.model is None:
        _read_first_row(dataset, scratch)
        zero = folder / "zero.onnx"
        zero.write_bytes(one_node_model())
        model, source = ModelFile(path=zero.relative_to(scratch).as_posix()), RowSource()
    else:
        model, source = request.model, RowSource(dataset=dataset, shapes=measure.shapes)
    session = load(scratch / model.path, threads=measure.threads[0], session_options=model.session_options)
    loaded = present_bytes()
    [feed] = first_feeds(rows_from(source, scratch, session), measure.batch[0], most=1)
    for call in range(CALLS):
        progress(call / CALLS, "running")
        session.run(feed)
    return MemoryReplicate(
        subject=request.subject,
        peak_bytes=peak_bytes(),
        loaded_bytes=loaded,
        steady_bytes=present_bytes(),
        calls=CALLS,
    )


def _read_first_row(dataset: DatasetFile | None, scratch: Path) -> None:
    """What reading data costs is not the model's: the one-node child reads a row as the others do."""
    if dataset is None:
        return
    opened = open_dataset(scratch / dataset.path, dataset.file_name, dataset.preprocess)
    for _ in opened.batches(1, [field.name for field in opened.fields], 0, 1):
        pass
