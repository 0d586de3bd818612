"""One fresh child's measurements: memory of one model, then times of the original against itself and a candidate.

The parent starts several such children. Nothing here imports more than it measures with.
"""

import time
from pathlib import Path

import numpy as np
from pydantic import Field

from app.domain.measure import RUNTIMES_OF
from app.errors import StepError
from workers.evaluation.contention import WindowWatch, Witness
from workers.evaluation.energy import EnergyCounter
from workers.evaluation.memory import CALLS, one_node_model, one_operator_tflite, peak_bytes, present_bytes
from workers.evaluation.replicate import ORIGINAL, LatencyReplicate, Memory, Pair, Subject, Warmth
from workers.evaluation.timing import Blocks, Call, WarmUp, alternate, no_garbage_collection, plan_blocks, warm_up
from workers.runtimes.session import Array, Session, load, wake
from workers.steps.feeds import first_feeds, free_shapes
from workers.steps.inputs import MeasuringRequest, ModelFile, Progress, RowSource
from workers.steps.rows import Rows, opened, rows_from, rows_of

_SPIN = {"session.intra_op.spin_duration_us": "1000"}
_REST_SECONDS = 0.002
"""Threads of a session wait busily for the next call, and would do so through the other session's block: they are told
to rest after a millisecond, and each block waits for that. Within a block nothing changes. Measured at 2 threads on 2
cores (onnxruntime 1.32) with calls of 0.05 ms, medians of processes in their faster mode: one session as it comes
0.0455 ms, two that take turns like this 0.0453, as they come 0.062, and with `session.force_spinning_stop`, whose
threads sleep between any two calls, 0.050."""

_IDLE_SECONDS = 0.2
"""How long the machine is watched at rest, where its energy can be read."""

_SAME_SHARE = 0.4
"""Of the time, for the original against itself where there is a candidate."""
_WARM_UP_SHARE = 0.3
"""Of the time, at most, for each of the warm-ups, and besides it."""


class MeasureLatencyRequest(MeasuringRequest):
    """Time the original, and a candidate beside it, in this process."""

    baseline: ModelFile
    candidate: ModelFile | None = None
    """None where the original is timed alone."""
    candidate_id: str = ORIGINAL
    replicate: int = Field(default=1, ge=1)
    """Which child this is; even ones take the candidate first."""
    case: str | None = None
    """A name for the shapes that the feeds have; None: those of the data."""
    shapes: dict[str, tuple[int, ...]] = Field(default_factory=dict)
    """Shape of each input in that case, the batch axis included."""
    threads: int | None = Field(default=None, ge=1, le=256)
    """Left out: the first that the job asks for."""
    batch: int | None = Field(default=None, ge=1, le=4096)
    """Left out: the first that the job asks for."""
    seconds: float = Field(default=2.0, gt=0)
    """About how long blocks are timed, at most. A model whose blocks take longer is given one round."""


def run(request: MeasureLatencyRequest, scratch: Path, folder: Path, progress: Progress) -> LatencyReplicate:
    """Load, see what memory the first model takes, warm up, and alternate blocks.

    Raises StepError `model_does_not_load` or `model_does_not_run`.
    """
    begun = time.monotonic()
    threads = request.threads or request.measure.threads[0]
    progress(0.05, "loading")
    loaded = _Loaded(request, scratch, folder, threads)
    sessions = loaded.sessions
    again = _open(request.baseline, scratch, threads, request)
    rows = _rows(request, scratch, sessions["original"])
    batch = rows.size(_rows_a_call(request))
    feeds = first_feeds(rows, batch)
    # The same rows with each model's own types: a candidate's inputs may be in half precision.
    calls: dict[Subject, Call] = {"original": _calls(sessions["original"], feeds)}
    if "artifact" in sessions:
        calls["artifact"] = _calls(
            sessions["artifact"], first_feeds(_rows(request, scratch, sessions["artifact"]), batch)
        )
    second = _calls(again, feeds)

    width, most = request.measure.width, request.seconds * _WARM_UP_SHARE
    with no_garbage_collection():
        witness = Witness(threads)
        progress(0.1, "warming up")
        warm = {subject: warm_up(call, seconds=most) for subject, call in calls.items()}
        warm_again = warm_up(second, seconds=most)
        candidate_leads = request.replicate % 2 == 0

        progress(0.3, "timing the original against itself")
        pause = _REST_SECONDS if threads > 1 else 0.0
        counter = EnergyCounter()
        idle_watts = counter.watts(_IDLE_SECONDS) if counter.readable else None
        share = _SAME_SHARE if "artifact" in calls else 1.0
        watch = WindowWatch(threads)
        meter = _Meter(counter, watch, idle_watts or 0.0)
        plan = plan_blocks(warm["original"].call_ms, warm_again.call_ms, request.seconds * share)
        same = alternate(
            calls["original"], second, plan, second_leads=candidate_leads, window=meter, width=width, pause=pause
        )
        witness.check_clock()
        against: Blocks | None = None
        if "artifact" in calls:
            progress(0.6, "timing the original against the candidate")
            meter = _Meter(counter, watch, idle_watts or 0.0)
            plan = plan_blocks(warm["original"].call_ms, warm["artifact"].call_ms, request.seconds * (1 - share))
            against = alternate(
                calls["original"],
                calls["artifact"],
                plan,
                second_leads=candidate_leads,
                window=meter,
                width=width,
                pause=pause,
            )
        context = witness.context()

    subjects: tuple[Subject, ...] = tuple(calls)
    series: list[WarmUp | Blocks] = [*warm.values(), warm_again, same, *([] if against is None else [against])]
    return LatencyReplicate(
        candidate=request.candidate_id,
        case=request.case,
        replicate=request.replicate,
        threads=threads,
        batch=batch,
        rows=min(len(feeds) * batch, rows.count),
        shapes=free_shapes(sessions["original"].inputs, feeds[0]),
        load_ms={subject: round(session.load_ms, 6) for subject, session in sessions.items()},
        first_ms=loaded.first_ms,
        warm_up={subject: _warmth(warm[subject]) for subject in subjects},
        memory=loaded.memory,
        same=_pair(same),
        against=None if against is None else _pair(against),
        cpu_seconds=meter.cpu_seconds(subjects),
        energy_joules=meter.joules(subjects),
        idle_watts=idle_watts,
        repeated=same.repeated + (against.repeated if against is not None else 0),
        doubtful=same.doubtful + (against.doubtful if against is not None else 0),
        context=context,
        conditions={subject: sessions[subject].conditions for subject in subjects},
        running_seconds=round(loaded.running_seconds + sum(each.seconds for each in series), 3),
        seconds=round(time.monotonic() - begun, 3),
    )


class _Loaded:
    """The models, loaded in turn first, and what the first one did to the process's memory while it was alone."""

    def __init__(self, request: MeasureLatencyRequest, scratch: Path, folder: Path, threads: int) -> None:
        files: list[tuple[Subject, ModelFile]] = [("original", request.baseline)]
        if request.candidate is not None:
            files.append(("artifact", request.candidate))
        self.sessions: dict[Subject, Session] = {}
        self.first_ms: dict[Subject, float] = {}
        self.memory: Memory | None = None
        self.running_seconds = 0.0
        self._request, self._scratch = request, scratch
        # What reading data and waking the runtime cost is not the model's.
        _read_first_row(request, scratch)
        _run_the_smallest_model(request, scratch, folder, threads)
        before = _bytes_or_none()
        for subject, file in files if request.replicate % 2 else reversed(files):
            session = self.sessions[subject] = _open(file, scratch, threads, request)
            loaded = _bytes_or_none()
            rows = _rows(request, scratch, session)
            [feed] = first_feeds(rows, _rows_a_call(request), most=1)
            first_ms = self._call(session, feed)
            # Where a runtime had to be run to know what it may be fed, it remembers.
            self.first_ms[subject] = round(getattr(session, "first_run_ms", first_ms), 6)
            if len(self.sessions) == 1 and before is not None and loaded is not None:
                for _ in range(CALLS - 1):
                    self._call(session, feed)
                self.memory = Memory(
                    subject=subject,
                    loaded_bytes=max(loaded - before, 0),
                    steady_bytes=max(present_bytes() - before, 0),
                    peak_bytes=max(peak_bytes() - before, 0),
                )

    def _call(self, session: Session, feed: dict[str, Array]) -> float:
        """Milliseconds of one call."""
        started = time.perf_counter_ns()
        session.run(feed)
        taken = time.perf_counter_ns() - started
        self.running_seconds += taken / 1e9
        return round(taken / 1e6, 6)


def _read_first_row(request: MeasureLatencyRequest, scratch: Path) -> None:
    dataset = request.datasets.get("evaluation") or request.datasets.get("calibration")
    if dataset is None or request.case is not None:
        return
    rows = opened(dataset, scratch)
    for _ in rows.batches(1, [field.name for field in rows.fields], 0, 1):
        pass


def _run_the_smallest_model(request: MeasureLatencyRequest, scratch: Path, folder: Path, threads: int) -> None:
    """Wake the runtime up, with a model of the format that it runs where one can be made of nothing."""
    runtime = request.runtime
    if runtime == "torch":
        wake(scratch / request.baseline.path, threads=threads, runtime=runtime, scratch=folder)
        return
    zero = folder / "zero"
    zero.write_bytes(one_operator_tflite() if runtime in RUNTIMES_OF["tflite"] else one_node_model())
    session = _open(ModelFile(path=zero.relative_to(scratch).as_posix()), scratch, threads, request)
    session.run({"x": np.zeros(1, np.float32)})
    zero.unlink()


def _bytes_or_none() -> int | None:
    """What this process holds, where the platform tells."""
    try:
        return present_bytes()
    except StepError:
        return None


def _open(model: ModelFile, scratch: Path, threads: int, request: MeasureLatencyRequest) -> Session:
    # One thread is the caller's own: there is no pool that could spin.
    options = (_SPIN if threads > 1 and request.runtime == "onnxruntime" else {}) | model.session_options
    return load(
        scratch / model.path,
        threads=threads,
        providers=request.providers,
        session_options=options,
        runtime=request.runtime,
    )


def _rows(request: MeasureLatencyRequest, scratch: Path, session: Session) -> Rows:
    if request.case is None:
        return rows_of(request, scratch, session)
    return rows_from(RowSource(shapes=request.shapes), scratch, session)


def _rows_a_call(request: MeasureLatencyRequest) -> int:
    if request.case is None:
        return request.batch or request.measure.batch[0]
    return max((shape[0] for shape in request.shapes.values() if shape), default=1)


def _calls(session: Session, feeds: list[dict[str, Array]]) -> Call:
    count, run_once = len(feeds), session.run
    return lambda index: run_once(feeds[index % count])


class _Meter:
    """Adds up the processor time of each session's blocks, and their energy above what the machine takes at rest, and
    tells which were disturbed."""

    def __init__(self, counter: EnergyCounter, watch: WindowWatch, idle_watts: float) -> None:
        self._counter, self._idle_watts = counter, idle_watts
        self._watch = watch
        self._joules = [0.0, 0.0]
        self._processor_ns = [0, 0]
        self._calls = [0, 0]
        self._begun = 0
        self._begun_at = 0.0

    def begin(self, session: int) -> None:
        self._watch.start()
        if self._counter.readable:
            self._counter.since_last()
        self._begun_at = time.monotonic()
        self._begun = time.process_time_ns()

    def end(self, session: int, calls: int) -> bool:
        self._processor_ns[session] += time.process_time_ns() - self._begun
        if self._counter.readable:
            rest = self._idle_watts * (time.monotonic() - self._begun_at)
            self._joules[session] += self._counter.since_last() - rest
        self._calls[session] += calls
        return not self._watch.stop()

    def cpu_seconds(self, subjects: tuple[Subject, ...]) -> dict[Subject, float]:
        """Seconds a call."""
        return {
            subject: used / 1e9 / count
            for subject, used, count in zip(subjects, self._processor_ns, self._calls, strict=False)
        }

    def joules(self, subjects: tuple[Subject, ...]) -> dict[Subject, float] | None:
        """Joules a call; None without a counter."""
        if not self._counter.readable:
            return None
        return {
            subject: max(used, 0.0) / count
            for subject, used, count in zip(subjects, self._joules, self._calls, strict=False)
        }


def _pair(blocks: Blocks) -> Pair:
    return Pair(first=blocks.first, second=blocks.second)


def _warmth(warm: WarmUp) -> Warmth:
    return Warmth(calls=warm.calls, seconds=round(warm.seconds, 3), settled=warm.settled)
