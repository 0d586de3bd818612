"""What one worker process has at hand: its services, its machine, and the limits of its children."""

import logging
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.domain.target import Fingerprint, Tried
from app.errors import SandboxError
from app.services import Services
from workers.hardware.state import MachineState, read_state
from workers.sandbox.child import SandboxChild
from workers.sandbox.limits import SandboxLimits
from workers.sandbox.scratch import remove_scratch
from workers.tasks.listening import Listening
from workers.tasks.machine_lock import MachineLock

log = logging.getLogger(__name__)

# The time that describing the machine may take, the imports of a cold start included.
PROBE_SECONDS = 60.0

TRUST_TORCH = "BITPRESS_TRUST_TORCH_FILES"
"""In a child's environment: it may load files of torch (`workers.formats.torch.trust`)."""

TRIED_FILE = "machine.json"
"""In the scratch folder, what was measured of the machine, so that it is measured once a boot."""

# Another worker that starts measures for two seconds; one at a job for minutes, which a start should not wait for.
_LOCK_SECONDS = 6.0
_LOCK_LEASE_SECONDS = 10.0


class MachineBusy(Exception):
    """Others measure on this machine for longer than a worker waits that only wants to know its peaks."""


@dataclass(slots=True)
class Station:
    """A worker process at work.

    `fingerprint` is this machine's as it was when `state` was read, which is done anew before each job; what was
    measured of it is kept in `tried_file`. `providers` are
    onnxruntime's execution providers that jobs run on.

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
    trust_torch_files: bool
    state: MachineState
    fingerprint: dict[str, Any]
    machine_lock: MachineLock
    tried_file: Path
    providers: tuple[str, ...]
    sandbox: dict[str, Any]
    stopping: Callable[[], bool]
    max_unpacked_bytes: int
    inspect_seconds: float
    replicates: int
    most_replicates: int
    measure_seconds: float

    def register(self) -> None:
        """Write down who serves this queue, and on what machine."""
        self.services.targets.register(self.worker_id, self.queue, self.target, self.fingerprint, self.sandbox)

    def measure_machine(self, *, at_once: bool = False) -> None:
        """Find out what the machine does at most, unless that is known, and write it down.

        With `at_once` only if nobody else is at work there now, and otherwise if that is so within some seconds.
        A machine that stays busy, or fails to be measured, is left as it was described: jobs run all the same.
        """
        peaks = Fingerprint.model_validate(self.fingerprint).peaks
        if peaks is not None and peaks.steady:
            return
        try:
            with self._alone_for_a_moment(0.0 if at_once else _LOCK_SECONDS):
                found, _ = probe_machine(
                    self.scratch_root, self.limits, self.uid, known=read_tried(self.tried_file), measure=True
                )
        except MachineBusy:
            log.info("others measure on this machine: it is described without its peaks")
            return
        except SandboxError as error:
            log.warning("the machine could not be measured: %s", error.detail)
            return
        keep_tried(self.tried_file, found)
        self.fingerprint = found.running_on(self.providers).model_dump(mode="json")
        self.register()

    def look_again(self) -> bool:
        """Describe the machine anew if it has changed since; returns whether it had.

        Raises `SandboxError` where it has and cannot be described: what is measured then would go by another's name.
        """
        state = read_state()
        if state == self.state:
            return False
        found, self.sandbox = probe_machine(self.scratch_root, self.limits, self.uid, known=read_tried(self.tried_file))
        log.warning("this machine has changed: %s", self.state.told_apart(state))
        self.fingerprint, self.state = found.running_on(self.providers).model_dump(mode="json"), state
        self.register()
        self.measure_machine()
        return True

    @contextmanager
    def _alone_for_a_moment(self, patience: float) -> Iterator[None]:
        """Hold both locks of the machine. Raises `MachineBusy` when they are not to be had for so many seconds."""
        deadline = time.monotonic() + patience

        def wait() -> None:
            if time.monotonic() >= deadline:
                raise MachineBusy

        targets, boot_id = self.services.targets, str(self.fingerprint["boot_id"])
        with self.machine_lock.held(alone=True, wait=wait):
            while not targets.take_measuring_lock(boot_id, self.worker_id, lease_seconds=_LOCK_LEASE_SECONDS):
                wait()
                time.sleep(0.2)
            try:
                yield
            finally:
                targets.give_back_measuring_lock(boot_id, self.worker_id)

    def child(self, scratch: Path, log_file: Path) -> SandboxChild:
        """A confined child that can write only inside `scratch`; not started before it is entered."""
        return SandboxChild(
            scratch,
            limits=self.limits,
            log=log_file,
            uid=self.uid,
            gid=self.uid,
            allow_weak=self.allow_weak_sandbox,
            environment={TRUST_TORCH: "1"} if self.trust_torch_files else None,
        )


def probe_machine(
    scratch_root: Path, limits: SandboxLimits, uid: int, *, known: Tried | None = None, measure: bool = False
) -> tuple[Fingerprint, dict[str, Any]]:
    """Describe this machine from inside a child: its fingerprint, and which layers confined the child.

    `known` is what an earlier worker found by measuring. With `measure`, what is not known is measured: hold the
    machine's measuring lock.
    """
    scratch = scratch_root / f"probe-{os.getpid()}"
    scratch.mkdir(parents=True)
    log_file = scratch_root / f"probe-{os.getpid()}.log"
    request = {"known": known.model_dump(mode="json") if known else None, "measure": measure}
    try:
        # Weak confinement is reported here, and refused when a job or an upload comes.
        with SandboxChild(scratch, limits=limits, log=log_file, uid=uid, gid=uid, allow_weak=True) as child:
            found = child.run(step="probe", folder="probe", request=request, seconds=PROBE_SECONDS)
            return Fingerprint.model_validate(found), child.confinement.as_dict()
    finally:
        remove_scratch(scratch)
        log_file.unlink(missing_ok=True)


def read_tried(file: Path) -> Tried | None:
    """What an earlier worker found by measuring; null where none did, or what it left cannot be read any more."""
    try:
        return Tried.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        return None


def keep_tried(file: Path, machine: Fingerprint) -> None:
    """Leave what was measured to the next worker that starts in this folder."""
    if machine.peaks is None:
        return
    kept = Tried.of(machine)
    unfinished = file.with_name(f"{file.name}.{os.getpid()}")
    unfinished.write_text(kept.model_dump_json(), encoding="utf-8")
    unfinished.replace(file)


def worker_name(queue: str) -> str:
    """A name for this worker that no other has while it lives: the process that forked it is part of it."""
    return f"{queue}@{socket.gethostname()}-{os.getppid()}"
