"""One inspection: bring the upload into a scratch folder, let a confined child look, record what it found."""

import logging
from pathlib import Path

from app.errors import BitpressError, SandboxError, Unavailable
from app.services.work import ClaimedUpload, LeaseLost
from workers.tasks.files import fetch
from workers.tasks.heartbeat import Heartbeat
from workers.tasks.station import Station

log = logging.getLogger(__name__)

# A child that was killed from outside is no fault of the upload's; one that dies every time is.
TRIES = 3
# Counts lost workers and unreachable stores alike, so it is generous.
MAX_CLAIMS = 10


def run_inspection(station: Station, upload: ClaimedUpload, scratch: Path) -> None:
    """Inspect an upload; it ends `ready`, or `rejected` with a sentence that helps."""
    work = station.services.work
    log_file = scratch.with_name(scratch.name + ".log")
    every = min(1.0, work.lease_seconds / 4)
    scratch.mkdir(parents=True)
    try:
        with Heartbeat(lambda: work.renew_upload(upload), every_seconds=every) as heartbeat:
            try:
                if upload.attempt > MAX_CLAIMS:
                    raise SandboxError(
                        f"Inspection was begun {MAX_CLAIMS} times and never ended. Upload it again; if that happens "
                        "again too, the operator will find the reason in the worker's log.",
                        code="inspection_failed",
                        retryable=True,
                    )
                fetch(station.services.blobs, upload.input, scratch / "inputs" / "file")
                inspection = _look(station, upload, scratch, log_file, heartbeat)
            except Unavailable:
                # The store or the disk, not the upload: the lease lapses and somebody tries again.
                log.exception("inspection of %s put off", upload.id)
                return
            except BitpressError as error:
                heartbeat.check()
                work.end_upload(upload, error=error)
            else:
                work.end_upload(upload, inspection=inspection)
    except LeaseLost:
        log.warning("inspection of %s was lost or its upload deleted", upload.id)
    finally:
        log_file.unlink(missing_ok=True)


def _look(
    station: Station, upload: ClaimedUpload, scratch: Path, log_file: Path, heartbeat: Heartbeat
) -> dict[str, object]:
    step = "inspect_model" if upload.is_model else "inspect_dataset"
    request = {
        "path": "inputs/file",
        "file_name": upload.input.file_name,
        "preprocess": upload.input.preprocess,
        "limits": {"unpacked_bytes": station.max_unpacked_bytes},
    }
    for attempt in range(1, TRIES + 1):
        try:
            with station.child(scratch, log_file) as child:
                return child.run(
                    step=step,
                    folder=f"look-{attempt}",
                    request=request,
                    seconds=station.inspect_seconds,
                    tick=heartbeat.check,
                )
        except SandboxError as error:
            if error.code != "step_crashed" or attempt == TRIES:
                raise
            log.warning("the child inspecting %s died, once more: %s", upload.id, error.detail)
    raise AssertionError("the last try returns or raises")
