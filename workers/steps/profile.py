"""One fresh child's profile of one model: where its time goes, operator by operator."""

from pathlib import Path

from pydantic import Field

from app.domain.measure import RUNTIMES_OF
from workers.evaluation.operators import OperatorProfile, profile_operators
from workers.evaluation.replicate import ORIGINAL
from workers.evaluation.roofline import MachinePeaks, Roofline, roofline
from workers.runtimes.session import load
from workers.steps.feeds import first_feeds
from workers.steps.inputs import MeasuringRequest, ModelFile, Progress
from workers.steps.rows import rows_of


class ProfileRequest(MeasuringRequest):
    """Profile one model in this process."""

    model: ModelFile
    subject: str = ORIGINAL
    """Whose profile this is: `original`, or a candidate's id."""
    threads: int | None = Field(default=None, ge=1, le=256)
    """Left out: the first that the job asks for."""
    batch: int | None = Field(default=None, ge=1, le=4096)
    """Left out: the first that the job asks for."""
    seconds: float = Field(default=2.0, gt=0)
    """About how long the model is run; at least ten profiled runs are made."""
    peaks: MachinePeaks | None = None
    """The machine's with that many threads; left out, there is no roofline."""


class ProfileResult(OperatorProfile):
    """A profile, and what it is of."""

    subject: str
    batch: int
    """Rows a call."""
    rows: int
    """Different rows that the calls cycled through."""
    roofline: Roofline | None = None
    """Null where the request has no peaks, and for other formats than ONNX."""


def run(request: ProfileRequest, scratch: Path, folder: Path, progress: Progress) -> ProfileResult:
    """Run the model with the runtime's profiler and without it.

    Raises StepError `model_does_not_load`, `model_does_not_run`, `runtime_unavailable` or `profile_unavailable`.
    """
    measure = request.measure
    session = load(
        scratch / request.model.path,
        threads=request.threads or measure.threads[0],
        providers=request.providers,
        session_options=request.model.session_options,
        runtime=request.runtime,
    )
    rows = rows_of(request, scratch, session)
    batch = rows.size(request.batch or measure.batch[0])
    feeds = first_feeds(rows, batch)
    progress(0.1, "profiling by operator")
    profile = profile_operators(session, feeds, seconds=request.seconds, scratch=folder)
    session.close()
    found = ProfileResult(
        **dict(profile), subject=request.subject, batch=batch, rows=min(len(feeds) * batch, rows.count)
    )
    # Operations are counted node by node of an ONNX file.
    if request.peaks is None or request.runtime not in RUNTIMES_OF["onnx"]:
        return found
    progress(0.8, "counting operations")
    # These load `onnx`.
    from workers.evaluation.operator_work import work_of
    from workers.runtimes.onnx_profile import observe

    observed = observe(scratch / request.model.path, feeds[0], folder, request.model.session_options)
    work = work_of(observed, profile.operators)
    return found.model_copy(update={"roofline": roofline(profile.operators, work, request.peaks)})
