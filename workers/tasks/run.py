"""One attempt at a job: inputs into scratch, step after step in confined children, results into the store."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, get_args

from app.domain.dataset import ALL
from app.domain.job import Stage
from app.domain.partial import UNFINISHED, partial_outcome
from app.domain.target import PROCESSOR, Fingerprint, Resource
from app.errors import BitpressError, SandboxError, StepError
from app.services.blobs import Received
from app.services.observations import Observed
from app.services.work import CancelRequested, ClaimedJob, FinishedStep, Input, LeaseLost, MadeArtifact
from workers.sandbox.errors import StepFailed
from workers.tasks.crew import Crew
from workers.tasks.files import fetch, keep, keep_log, regular_files, write_json
from workers.tasks.heartbeat import Heartbeat
from workers.tasks.measuring import Measured, Measuring
from workers.tasks.observations import observation_key
from workers.tasks.plan import Step, progress_at
from workers.tasks.station import Station

log = logging.getLogger(__name__)

_OBSERVED_BEFORE = "Activations were observed by an earlier job, with the same model, data and versions."

_UNFINISHED_SECONDS = 30.0
"""For looking at what a failed step left, beyond the job's own time."""

_OTHERS_MEASURE = "waiting until another job has been measured on this machine, which nothing may disturb"
_OTHERS_WORK = "waiting until the machine is free to measure: another worker of it is at work"

LOG_BYTES = 1 << 20
"""The end of a longer log is what is kept."""


class WorkerStopping(Exception):
    """The worker was asked to stop: the job goes back into the queue."""


class JobRun:
    """Runs one claimed job to an end that is recorded once, whatever happens on the way."""

    def __init__(self, station: Station, job: ClaimedJob, scratch: Path) -> None:
        self._station = station
        self._job = job
        self._scratch = scratch
        self._log_file = scratch.with_name(scratch.name + ".log")
        self._aside = scratch.with_name(scratch.name + ".aside")
        self._work = station.services.work
        self._blobs = station.services.blobs
        self._fingerprint = str(station.fingerprint.get("id", ""))
        self._boot_id = str(station.fingerprint.get("boot_id", ""))
        self._deadline = time.monotonic() + job.spec.limits.run_seconds
        self._measuring = False
        self._progress = 0.0
        # Files in the store that no row has yet.
        self._loose: list[Received] = []
        self._results: dict[str, dict[str, Any]] = {}
        self._seconds: dict[str, float] = {}
        self._heartbeat = Heartbeat(self._beat, every_seconds=min(0.5, self._work.lease_seconds / 4))

    def run(self) -> None:
        """Run the job; every outcome but a lost lease is written to its row."""
        self._scratch.mkdir(parents=True)
        self._aside.mkdir(parents=True)
        try:
            with self._heartbeat:
                end = self._attempt()
            end()
        except LeaseLost:
            log.warning("job %s: others have given up attempt %d", self._job.id, self._job.attempt)
        except CancelRequested:
            # The cancel came after the last beat and won; the child is dead already.
            self._work.cancelled(self._job, log=self._kept_log())
        finally:
            for received in self._loose:
                self._blobs.discard(received)
            self._log_file.unlink(missing_ok=True)
            for path in self._aside.iterdir():
                path.unlink()
            self._aside.rmdir()

    def _attempt(self) -> Callable[[], object]:
        """Do the work; returns what will record its end once the heartbeat has stopped."""
        work, job = self._work, self._job
        failure: BitpressError
        try:
            outcome, gate, artifacts, report, page = self._work_through()
            kept_log = self._kept_log()

            def succeed() -> None:
                work.succeed(
                    job, outcome=outcome, gate=gate, artifacts=artifacts, report=report, page=page, log=kept_log
                )
                self._loose.clear()

            return succeed
        except CancelRequested:
            return lambda: work.cancelled(job, log=self._kept_log())
        except WorkerStopping:
            return lambda: work.give_back(job)
        except LeaseLost:
            raise
        except BitpressError as error:
            failure = error
            log.warning("job %s failed: %s: %s", job.id, error.code, error.detail)
        except Exception:
            log.exception("job %s failed unexpectedly", job.id)
            failure = StepError(
                "Something went wrong inside the worker; its log has the details. Trying again may help.",
                code="internal_error",
                retryable=True,
            )
        return lambda: work.fail(job, failure, log=self._kept_log(), outcome=partial_outcome(self._results))

    def _work_through(self) -> tuple[dict[str, Any], str | None, list[MadeArtifact], Received, Received | None]:
        """Every step, then the artifacts and the report into the store."""
        self._show("inspect", 0.0, "fetching the model and the data")
        self._fetch_inputs()
        self._restore_finished()
        with self._crew() as crew:
            self._step(crew, Step("inspect", "inspect", "inspect", self._request()))
            self._baseline(crew)
            if self._job.spec.kind == "optimize":
                self._calibrate(crew)
                self._step(crew, Step("candidates", "candidates", "candidates", self._request()))
            measured = self._measure(crew)
            request = self._request() | {"measurements": measured.folders, "profiles": measured.profiles}
            request["notes"] = measured.notes
            gate = self._step(crew, Step("gate", "gate", "gate", request))
            package = self._step(crew, Step("package", "package", "package", request | self._sources()))
            artifacts = self._made(package)
            report = self._keep("package", package["report"])
            page = self._keep("package", package["page"]) if package["page"] else None
        return self._outcome(gate), gate.get("gate"), artifacts, report, page

    # One step

    def _step(self, crew: Crew, step: Step) -> dict[str, Any]:
        """Run a step unless an earlier attempt finished it, and record it with its files."""
        if (known := self._results.get(step.folder)) is not None:
            return known
        if self._measuring:
            return self._run_step(crew, step)
        with self._machine(alone=False, stage=step.stage, text=_OTHERS_MEASURE):
            return self._run_step(crew, step)

    def _run_step(self, crew: Crew, step: Step) -> dict[str, Any]:
        begun = time.monotonic()
        seconds = self._deadline - begun
        if seconds <= 0:
            raise StepError(
                "The job ran longer than its limits.run_seconds. Allow it more, or give it less data.",
                code="time_limit_exceeded",
            )
        if not self._measuring:
            self._show(step.stage, 0.0, None)
        try:
            result = crew.run(
                step, seconds=seconds, on_progress=lambda share, text: self._show(step.stage, share, text)
            )
        except BitpressError as error:
            error.stage = step.stage
            raise
        self._finish(step.folder, result, time.monotonic() - begun)
        return result

    def _finish(self, folder: str, result: dict[str, Any], seconds: float) -> None:
        """Take up what a step left and record it."""
        self._results[folder] = result
        self._seconds[folder] = round(seconds, 3)
        # What the last step leaves becomes the job's artifacts; only a takeover needs the others.
        if folder == "package":
            return
        besides = ("request.json", "result.json")
        files = {path: self._keep(folder, path) for path in regular_files(self._scratch / folder, besides=besides)}
        finished = FinishedStep(folder, result, self._seconds[folder])
        self._work.record_step(self._job, finished, files, fingerprint=self._fingerprint)
        self._loose.clear()

    def _baseline(self, crew: Crew) -> None:
        """Run the original; where it does not come to its end, what it came to is kept, and told with the failure."""
        try:
            self._step(crew, Step("baseline", "baseline", "baseline", self._request()))
        except SandboxError as error:
            if not (self._scratch / "baseline" / "begun.json").is_file():
                raise
            step = Step(UNFINISHED, UNFINISHED, "baseline", self._request())
            try:
                found = crew.run(step, seconds=_UNFINISHED_SECONDS, on_progress=lambda share, text: None)
            except SandboxError as other:
                log.warning("job %s keeps nothing of its baseline: %s", self._job.id, other.detail)
                raise error from None
            self._results[UNFINISHED] = found
            # What the child foresaw names the row already.
            if not isinstance(error, StepFailed):
                error.detail = " ".join([error.detail, *map(str, found.get("notes", []))])
            raise

    def _calibrate(self, crew: Crew) -> None:
        """Observe the activations, unless an earlier job of the same model and data did."""
        folder = "calibrate"
        if folder in self._results:
            return
        observations = self._station.services.observations
        chosen = self._results["inspect"].get("split", {}).get("calibration", {}).get("sha256")
        key = observation_key(self._job, self._station.fingerprint, chosen)
        if key is not None and (known := observations.find(key)) is not None and self._take_up(folder, known):
            return
        result = self._step(crew, Step(folder, folder, "calibrate", self._request()))
        if key is not None and result.get("file"):
            observations.keep(key, result, result["file"], self._keep(folder, result["file"]))
            self._loose.clear()

    def _take_up(self, folder: str, known: Observed) -> bool:
        """Lay out what an earlier job observed as if this one had; False where it cannot be had any more."""
        begun = time.monotonic()
        try:
            fetch(self._blobs, known.file, self._scratch / folder / known.file.file_name)
        except BitpressError as error:
            log.warning("job %s observes anew: %s", self._job.id, error.detail)
            (self._scratch / folder).rmdir()  # the step makes it itself
            return False
        result = known.result | {"notes": [*known.result.get("notes", []), _OBSERVED_BEFORE]}
        write_json(self._scratch / folder / "result.json", result)
        self._finish(folder, result, time.monotonic() - begun)
        return True

    def _made(self, package: dict[str, Any]) -> list[MadeArtifact]:
        """The artifacts that were packaged, with the manifest that they share; none where nothing was made."""
        if not package["artifacts"]:
            return []
        manifest = self._keep("package", package["manifest"])
        return [
            MadeArtifact(made["candidate"], made["file_name"], self._keep("package", made["file"]), manifest)
            for made in package["artifacts"]
        ]

    def _measure(self, crew: Crew) -> Measured:
        """Measure in fresh children while no other worker of this machine measures or computes.

        The child that waits meanwhile takes no processor.
        """
        common = self._request()
        original = {"path": common["model"], "session_options": common["session_options"]}
        candidates = [
            {
                "id": found["id"],
                "path": f"candidates/{found['file']}",
                "session_options": found["session_options"],
            }
            for found in self._candidates()
        ]
        measuring = Measuring(
            original,
            candidates,
            common,
            batches=self._results["baseline"].get("batches"),
            cases=self._results["baseline"].get("cases", {}),
            runtimes=self._results["baseline"].get("runtimes") or ("onnxruntime",),
            peaks=self._peaks(),
            replicates=self._station.replicates,
            most_replicates=self._station.most_replicates,
            seconds=self._station.measure_seconds,
            fresh=self._in_fresh_child,
            beside=lambda step: self._step(crew, step),
            show=lambda share, text: self._show("candidates", share, text),
        )
        with self._machine_alone():
            return measuring.run()

    def _peaks(self) -> dict[str, Any] | None:
        """What the machine does at most; null where jobs run on something else than its processor."""
        if self._station.providers != (PROCESSOR,):
            return None
        return _peaks(self._station.fingerprint, self._job.spec.measure.threads[0])

    def _in_fresh_child(self, step: Step) -> dict[str, Any]:
        with self._crew() as crew:
            return self._step(crew, step)

    def _candidates(self) -> list[dict[str, Any]]:
        """What was made, as the step that made it tells; nothing where a job only measures."""
        found: list[dict[str, Any]] = self._results.get("candidates", {}).get("candidates", [])
        return found

    @contextmanager
    def _machine_alone(self) -> Iterator[None]:
        """Hold the machine, and its measuring lock in the database, which the heartbeat extends."""
        targets, holder = self._station.services.targets, f"{self._job.id}-{self._job.attempt}"
        seconds = self._work.lease_seconds
        # The database's lock comes second: nobody who has it waits for the other.
        with self._machine(alone=True, stage="candidates", text=_OTHERS_WORK):
            begun = time.monotonic()
            while not targets.take_measuring_lock(self._boot_id, holder, lease_seconds=seconds):
                self._show("candidates", 0.0, _OTHERS_WORK)
                self._tick()
                time.sleep(0.2)
            self._deadline += time.monotonic() - begun
            self._measuring = True
            try:
                yield
            finally:
                self._measuring = False
                targets.give_back_measuring_lock(self._boot_id, holder)

    @contextmanager
    def _machine(self, *, alone: bool, stage: Stage, text: str) -> Iterator[None]:
        """Hold the machine of all its workers; waiting for it takes nothing of the job's time."""
        begun = time.monotonic()

        def wait() -> None:
            self._show(stage, 0.0, text)
            self._tick()

        with self._station.machine_lock.held(alone=alone, wait=wait):
            self._deadline += time.monotonic() - begun
            yield

    def _crew(self) -> Crew:
        return Crew(self._station, self._scratch, self._log_file, self._tick)

    def _tick(self) -> None:
        self._heartbeat.check()
        if self._station.stopping():
            raise WorkerStopping

    def _beat(self, **changes: Any) -> None:
        self._work.renew(self._job, **changes)
        if self._measuring:
            self._station.services.targets.take_measuring_lock(
                self._boot_id, f"{self._job.id}-{self._job.attempt}", lease_seconds=self._work.lease_seconds
            )

    def _show(self, stage: Stage, share: float, text: str | None) -> None:
        # Within an attempt progress only grows: a measuring child's own begins anew with each.
        self._progress = max(self._progress, progress_at(stage, share, measuring=self._measuring))
        self._heartbeat.show(stage=stage, progress=self._progress, message=text[:300] if text else None)

    # Files

    def _fetch_inputs(self) -> None:
        fetch(self._blobs, self._job.model, self._scratch / self._model_path())
        for role, dataset in self._job.datasets.items():
            fetch(self._blobs, dataset, self._scratch / "inputs" / role)
        self._tick()

    def _restore_finished(self) -> None:
        """Lay out what an earlier attempt left, so that the next step finds it where it expects it."""
        for folder, step in self._job.finished.items():
            for path, kept in step.files.items():
                fetch(self._blobs, kept, self._scratch / folder / path)
            write_json(self._scratch / folder / "result.json", step.result)
            self._results[folder] = step.result
            self._seconds[folder] = step.seconds
            self._tick()

    def _model_path(self) -> str:
        return "inputs/model/" + Path(self._job.model.file_name).name

    def _keep(self, folder: str, path: str) -> Received:
        received = keep(self._blobs, self._scratch, folder, path, self._aside)
        self._loose.append(received)
        return received

    def _kept_log(self) -> Received | None:
        """The end of the children's output, in the store."""
        if not self._log_file.exists() or self._log_file.stat().st_size == 0:
            return None
        try:
            return keep_log(self._blobs, self._log_file, self._aside, LOG_BYTES)
        except BitpressError as error:
            log.warning("log of job %s not kept: %s", self._job.id, error.detail)
            return None

    # Requests and results

    def _request(self) -> dict[str, Any]:
        """What every step is told."""
        model = self._results.get("inspect", {}).get("model") or self._model_path()
        return {
            "spec": self._job.spec.model_dump(mode="json"),
            "model": model,
            "session_options": self._job.session_options,
            "datasets": self._datasets(),
            "whole": _dataset(ALL, whole) if (whole := self._job.datasets.get(ALL)) is not None else None,
            "fingerprint": self._station.fingerprint,
            "providers": self._station.providers,
            "unpacked_bytes": self._station.max_unpacked_bytes,
        }

    def _datasets(self) -> dict[str, Any]:
        """The dataset of each role; the rows of one that is for all have roles only once it is inspected."""
        given = self._job.datasets
        if (whole := given.get(ALL)) is None:
            return {role: _dataset(role, found) for role, found in given.items()}
        return {
            role: _dataset(ALL, whole) | {"rows": f"inspect/{rows['file']}" if rows["file"] else None}
            for role, rows in self._results.get("inspect", {}).get("split", {}).items()
        }

    def _sources(self) -> dict[str, Any]:
        """What the manifest says about where the artifact comes from."""
        inspected = self._results["inspect"]
        split = inspected.get("split", {})
        return {
            "job": self._job.id,
            "source": _source(self._job.model),
            "data": {
                role: _source(self._job.datasets[ALL if role in split else role])
                | {"rows": rows, "rows_sha256": split.get(role, {}).get("sha256")}
                for role, rows in inspected.get("rows", {}).items()
            },
            "steps": [
                {
                    "step": folder,
                    "seconds": seconds,
                    "running_seconds": self._results[folder].get("running_seconds"),
                    "attempt": self._job.attempt,
                }
                for folder, seconds in self._seconds.items()
            ],
        }

    def _outcome(self, gate: dict[str, Any]) -> dict[str, Any]:
        """What the job's row says: the numbers, not the samples behind them."""
        made = {found["id"]: found for found in self._candidates()}
        drops = gate.get("drops", {})
        notes = [
            note
            for folder in ("inspect", "baseline", "calibrate", "candidates", "gate")
            for note in self._results.get(folder, {}).get("notes", [])
        ]
        inspected = self._results["inspect"]
        return {
            "rows": inspected.get("rows", {}),
            "chosen_rows": {
                role: rows["sha256"] for role, rows in inspected.get("split", {}).items() if rows["sha256"]
            },
            "baseline": {"measurements": gate["baseline"]},
            "candidates": [
                {
                    "recipe": made[judged["id"]]["recipe"],
                    "session_options": made[judged["id"]].get("session_options", {}),
                    "notes": made[judged["id"]].get("notes", []),
                    "drops": drops.get(judged["id"], []),
                    **judged,
                }
                for judged in gate["candidates"]
            ],
            "chosen": gate.get("chosen"),
            "verdicts": gate.get("verdicts", []),
            "conclusion": gate.get("conclusion"),
            "notes": list(dict.fromkeys(notes)),
        }


def _peaks(fingerprint: dict[str, Any], threads: int) -> dict[str, Any] | None:
    """What the machine does at most with so many threads; null where the rate of floats or memory is not known."""
    machine = Fingerprint.model_validate(fingerprint)
    found = {
        resource: peak.value
        for resource in get_args(Resource)
        if machine.peaks is not None and (peak := machine.peaks.of(resource, threads)) is not None
    }
    if not {"fp32", "memory_read"} <= found.keys():
        return None
    last = max((cache.bytes for cache in machine.last_caches), default=None)
    return {
        "fp32_gflops": found["fp32"],
        "int8_gops": found.get("int8"),
        "bandwidth_gbs": found["memory_read"],
        "cache_bytes": last,
        "cache_bandwidth_gbs": found.get("cache_read"),
    }


def _dataset(name: str, found: Input) -> dict[str, Any]:
    return {"path": f"inputs/{name}", "file_name": found.file_name, "preprocess": found.preprocess}


def _source(found: Input) -> dict[str, Any]:
    return {"id": found.id, "name": found.name, "sha256": found.sha256, "bytes": found.bytes}
