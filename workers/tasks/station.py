"""What one worker process has at hand: its services, its machine, and the limits of its children."""

import logging
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.services import Services
from workers.sandbox.child import SandboxChild
from workers.sandbox.limits import SandboxLimits
from workers.sandbox.scratch import remove_scratch
from workers.tasks.listening import Listening

log = logging.getLogger(__name__)

# The time that describing the machine may take, the imports of a cold start included.
PROBE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Station:
    """A worker process at work.

    `stopping` tells whether the worker was asked to stop; `replicates` and `most_replicates` say in
    how many fresh children a latency is measured, and in how many more where they disagree; `measure_seconds`
    for how long in each.
    """

    worker_id: str
    queue: str
    target: str
    services: Services
    listening: Listening
    scratch_root: Path
    limits: SandboxLimits
    uid: int
    allow_weak_sandbox: bool
    fingerprint: dict[str, Any]
    sandbox: dict[str, Any]
    stopping: Callable[[], bool]
    max_unpacked_bytes: int
    inspect_seconds: float
    replicates: int
    most_replicates: int
    measure_seconds: float

    def child(self, scratch: Path, log_file: Path) -> SandboxChild:
        """A confined child that can write only inside `scratch`; not started before it is entered."""
        return SandboxChild(
            scratch,
            limits=self.limits,
            log=log_file,
            uid=self.uid,
            gid=self.uid,
            allow_weak=self.allow_weak_sandbox,
        )


def probe_machine(scratch_root: Path, limits: SandboxLimits, uid: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Describe this machine from inside a child: its fingerprint, and which layers confined the child."""
    scratch = scratch_root / f"probe-{os.getpid()}"
    scratch.mkdir(parents=True)
    log_file = scratch_root / f"probe-{os.getpid()}.log"
    try:
        # Weak confinement is reported here, and refused when a job or an upload comes.
        with SandboxChild(scratch, limits=limits, log=log_file, uid=uid, gid=uid, allow_weak=True) as child:
            fingerprint = child.run(step="probe", folder="probe", request={}, seconds=PROBE_SECONDS)
            return fingerprint, child.confinement.as_dict()
    finally:
        remove_scratch(scratch)
        log_file.unlink(missing_ok=True)


def worker_name(queue: str) -> str:
    """A name for this worker that no other has while it lives: the process that forked it is part of it."""
    return f"{queue}@{socket.gethostname()}-{os.getppid()}"
