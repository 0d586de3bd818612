"""One fresh child's timings: the original against itself, then against a candidate.

The parent starts several such children. Nothing here imports more than it measures with.
"""

import time
from collections.abc import Callable
from pathlib import Path

from pydantic import Field

from workers.evaluation.contention import Witness
from workers.evaluation.energy import EnergyCounter
from workers.evaluation.memory import one_node_model
from workers.evaluation.replicate import LatencyReplicate, Pair, Subject, Warmth
from workers.evaluation.timing import Blocks, Call, WarmUp, alternate, no_garbage_collection, plan_blocks, warm_up
from workers.runtimes.session import Array, Session, load
from workers.steps.feeds import first_feeds
from workers.steps.requests import JobRequest, ModelFile, Progress
from workers.steps.rows import rows_of

_STOP_SPINNING = {"session.force_spinning_stop": "1"}
"""Threads of a session end their busy wait when its last call returns. Measured at 2 threads on 2 cores
(onnxruntime 1.32): the processor time of an idle session falls from 104 % to under 1 %, and single calls that
alternate between two sessions from 17.4 to 11.8 ms, where one alone takes 9.7."""

_SAME_SHARE = 0.4
"""Of the time, for the original against itself."""
_WARM_UP_SHARE = 0.3
"""Of the time, at most, for each of three warm-ups, and besides it."""


class MeasureLatencyRequest(JobRequest):
    """Time the original and a candidate in this process."""

    baseline: ModelFile
    candidate: ModelFile
    candidate_id: str
    replicate: int = Field(default=1, ge=1)
    """Which child this is; even ones take the candidate first."""
    threads: int | None = Field(default=None, ge=1, le=256)
    """Left out: the first that the job asks for."""
    batch: int | None = Field(default=None, ge=1, le=4096)
    """Left out: the first that the job asks for."""
    seconds: float = Field(default=2.0, gt=0)
    """About how long blocks are timed. A model whose blocks take longer is given one round."""


def run(request: MeasureLatencyRequest, scratch: Path, folder: Path, progress: Progress) -> LatencyReplicate:
    """Load, warm up, and alternate blocks.

    Raises StepError `model_does_not_load` or `model_does_not_run`.
    """
    begun = time.monotonic()
    threads = request.threads or request.spec.measure.threads[0]
    original, candidate, load_ms = _load(request, scratch, folder, threads)
    again = _open(request.baseline, scratch, threads)
    rows = rows_of(request, scratch, original)
    batch = rows.size(request.batch or request.spec.measure.batch[0])
    feeds = first_feeds(rows, batch)
    first, second = _calls(original, feeds), _calls(again, feeds)
    # The same rows with the candidate's own types: its inputs may be in half precision.
    other = _calls(candidate, first_feeds(rows_of(request, scratch, candidate), batch))

    with no_garbage_collection():
        witness = Witness(threads)
        progress(0.1, "warming up")
        most = request.seconds * _WARM_UP_SHARE
        warm, warm_again, warm_other = (warm_up(call, seconds=most) for call in (first, second, other))
        candidate_leads = request.replicate % 2 == 0

        progress(0.3, "timing the original against itself")
        plan = plan_blocks(warm.call_ms, warm_again.call_ms, request.seconds * _SAME_SHARE)
        same = alternate(first, second, plan, second_leads=candidate_leads)
        witness.check_clock()

        progress(0.6, "timing the original against the candidate")
        plan = plan_blocks(warm.call_ms, warm_other.call_ms, request.seconds * (1 - _SAME_SHARE))
        meter = _Meter(EnergyCounter())
        against = alternate(first, other, plan, second_leads=candidate_leads, around=meter.around)
        context = witness.context()

    return LatencyReplicate(
        candidate=request.candidate_id,
        replicate=request.replicate,
        threads=threads,
        batch=batch,
        rows=min(len(feeds) * batch, rows.count),
        load_ms=load_ms,
        warm_up={"original": _warmth(warm), "artifact": _warmth(warm_other)},
        same=_pair(same),
        against=_pair(against),
        energy_joules=meter.joules_a_call(len(against.first) * plan.calls),
        context=context,
        conditions={"original": original.conditions, "artifact": candidate.conditions},
        seconds=round(time.monotonic() - begun, 3),
    )


def _load(
    request: MeasureLatencyRequest, scratch: Path, folder: Path, threads: int
) -> tuple[Session, Session, dict[Subject, float]]:
    """Load both models, in turn first, after the runtime itself has been woken by the smallest model."""
    zero = folder / "zero.onnx"
    zero.write_bytes(one_node_model())
    _open(ModelFile(path=zero.relative_to(scratch).as_posix()), scratch, threads)
    zero.unlink()
    if request.replicate % 2:
        original = _open(request.baseline, scratch, threads)
        candidate = _open(request.candidate, scratch, threads)
    else:
        candidate = _open(request.candidate, scratch, threads)
        original = _open(request.baseline, scratch, threads)
    return original, candidate, {"original": round(original.load_ms, 6), "artifact": round(candidate.load_ms, 6)}


def _open(model: ModelFile, scratch: Path, threads: int) -> Session:
    # One thread is the caller's own: there is no pool whose spinning could be stopped.
    options = model.session_options | (_STOP_SPINNING if threads > 1 else {})
    return load(scratch / model.path, threads=threads, session_options=options)


def _calls(session: Session, feeds: list[dict[str, Array]]) -> Call:
    count, run_once = len(feeds), session.run
    return lambda index: run_once(feeds[index % count])


class _Meter:
    """Adds up the energy of each session's blocks, where there is a counter."""

    def __init__(self, counter: EnergyCounter) -> None:
        self._counter = counter
        self._joules = [0.0, 0.0]
        self._inside = False
        self.around: Callable[[int], None] = self._read if counter.readable else lambda session: None

    def _read(self, session: int) -> None:
        used = self._counter.since_last()
        if self._inside:
            self._joules[session] += used
        self._inside = not self._inside

    def joules_a_call(self, calls: int) -> dict[Subject, float] | None:
        if not self._counter.readable:
            return None
        return {"original": self._joules[0] / calls, "artifact": self._joules[1] / calls}


def _pair(blocks: Blocks) -> Pair:
    return Pair(first=blocks.first, second=blocks.second)


def _warmth(warm: WarmUp) -> Warmth:
    return Warmth(calls=warm.calls, seconds=round(warm.seconds, 3), settled=warm.settled)
