"""One fresh child that calls a model as a service would: callers side by side, and calls that arrive at a rate."""

from pathlib import Path

from app.domain.measure import Load
from workers.evaluation.contention import Witness
from workers.evaluation.load import closed_loop, open_loop
from workers.evaluation.replicate import ORIGINAL, LoadPoint, LoadReplicate
from workers.evaluation.timing import no_garbage_collection, warm_up
from workers.runtimes.session import load
from workers.steps.feeds import first_feeds, free_shapes
from workers.steps.inputs import MeasuringRequest, ModelFile, Progress
from workers.steps.rows import rows_of

_WARM_UP_SECONDS = 0.5


class MeasureLoadRequest(MeasuringRequest):
    """Put one model under every load that the job names."""

    subject_model: ModelFile
    subject: str = ORIGINAL
    """Whose load this is: `original`, or a candidate's id."""
    replicate: int = 1


def run(request: MeasureLoadRequest, scratch: Path, folder: Path, progress: Progress) -> LoadReplicate:
    """Warm up, then one load after another, each for as long as the job says.

    Raises StepError `model_does_not_load` or `model_does_not_run`.
    """
    measure = request.measure
    asked = measure.load or Load()
    threads = measure.threads[0]
    file = request.subject_model
    session = load(
        scratch / file.path,
        threads=threads,
        providers=request.providers,
        session_options=file.session_options,
        runtime=request.runtime,
    )
    rows = rows_of(request, scratch, session)
    batch = rows.size(measure.batch[0])
    feeds = first_feeds(rows, batch)

    def call(index: int) -> None:
        session.run(feeds[index % len(feeds)])

    kinds = len(asked.callers) + len(asked.rates)
    points: list[LoadPoint] = []
    with no_garbage_collection():
        warm_up(call, seconds=_WARM_UP_SECONDS)
        witness = Witness(threads * max(asked.callers))
        for callers in asked.callers:
            progress(len(points) / kinds, f"{callers} callers side by side")
            points.append(closed_loop(call, callers=callers, seconds=asked.seconds))
        for rate in asked.rates:
            progress(len(points) / kinds, f"{rate:g} calls a second")
            points.append(
                open_loop(call, rate=rate, callers=asked.callers[-1], seconds=asked.seconds, seed=request.replicate)
            )
        context = witness.context()
    return LoadReplicate(
        subject=request.subject,
        threads=threads,
        batch=batch,
        shapes=free_shapes(session.inputs, feeds[0]),
        points=points,
        running_seconds=round(sum(point.seconds for point in points), 3),
        context=context,
        conditions=session.conditions,
    )
