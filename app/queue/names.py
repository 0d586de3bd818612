"""Queue and task names: all that the server and the workers agree on about messages."""

LOOK_FOR_JOBS = "bitpress.look_for_jobs"
LOOK_FOR_INSPECTIONS = "bitpress.look_for_inspections"

INSPECTIONS = "inspections"
"""Queue of the worker that inspects uploads, so that none waits behind an hour-long job."""

_JOBS = "jobs."


def jobs_queue(target: str) -> str:
    """The queue of one target's jobs."""
    return _JOBS + target


def task_of(queue: str) -> str:
    """The task that a message on a queue asks for."""
    return LOOK_FOR_JOBS if queue.startswith(_JOBS) else LOOK_FOR_INSPECTIONS
