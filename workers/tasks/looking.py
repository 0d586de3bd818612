"""The two tasks. A message says only "look"; what there is to do stands in the database."""

import logging

from workers.sandbox.scratch import remove_scratch
from workers.tasks.inspection import run_inspection
from workers.tasks.run import JobRun
from workers.tasks.station import Station

log = logging.getLogger(__name__)


def look_for_jobs(station: Station) -> int:
    """Run queued jobs of this worker's target until none waits; returns how many were run."""
    with station.listening.at_work():
        return _run_jobs(station)


def look_for_inspections(station: Station) -> int:
    """Inspect uploads until none waits; returns how many were inspected."""
    with station.listening.at_work():
        return _run_inspections(station)


def _run_jobs(station: Station) -> int:
    done = 0
    services = station.services
    services.targets.seen(station.worker_id)
    while not station.stopping():
        station.look_again()
        job = services.work.claim_job(
            station.target, station.worker_id, fingerprint=str(station.fingerprint.get("id", ""))
        )
        if job is None:
            if station.fingerprint.get("peaks") is None:
                station.measure_machine(at_once=True)  # it was busy before
            break
        log.info("job %s, attempt %d", job.id, job.attempt)
        scratch = station.scratch_root / f"{job.id}-{job.attempt}"
        try:
            JobRun(station, job, scratch).run()
        finally:
            remove_scratch(scratch)
        services.targets.seen(station.worker_id)
        done += 1
    return done


def _run_inspections(station: Station) -> int:
    done = 0
    services = station.services
    services.targets.seen(station.worker_id)
    while not station.stopping():
        upload = services.work.claim_upload(station.worker_id)
        if upload is None:
            break
        scratch = station.scratch_root / f"{upload.id}-{upload.attempt}"
        try:
            run_inspection(station, upload, scratch)
        finally:
            remove_scratch(scratch)
        services.targets.seen(station.worker_id)
        done += 1
    return done
