"""What happens when a worker starts, forks and stops: Celery's signals, all in one place."""

import compileall
import logging
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
from celery import signals
from sqlalchemy.exc import ProgrammingError

from app import wiring
from app.domain.profiles import providers_of, refuse_false_name
from app.domain.target import Fingerprint
from app.errors import BitpressError, Unavailable
from app.queue.names import INSPECTIONS, jobs_queue
from app.queue.wake_up import WakeUps
from app.services import Services
from app.settings import Settings
from workers.hardware.state import read_state
from workers.sandbox.identity import die_with
from workers.sandbox.limits import SandboxLimits
from workers.sandbox.scratch import remove_scratch
from workers.tasks.listening import Listening
from workers.tasks.machine_lock import MachineLock
from workers.tasks.station import TRIED_FILE, Station, probe_machine, read_tried, worker_name

log = logging.getLogger(__name__)

PATIENCE_SECONDS = 60.0
"""How long a starting worker waits for the database and its schema."""

# Shared with the forked process that runs the tasks: the main one alone hears that it should stop.
_stopping = multiprocessing.get_context("fork").Event()
_station: Station | None = None
_queues: list[str] = []
_asked_to_end = False


def station() -> Station:
    """This process's station. Only the forked process that runs tasks has one."""
    assert _station is not None, "tasks run in a process that was started by connect()"
    return _station


def connect(settings: Settings) -> None:
    """Attach to Celery's signals."""

    @signals.celeryd_after_setup.connect(weak=False)
    def on_setup(instance: Any, **_: Any) -> None:
        _queues.extend(instance.app.amqp.queues.consume_from)
        refuse_several(_queues, instance.concurrency)
        compile_steps()

    @signals.worker_process_init.connect(weak=False)
    def on_fork(**_: Any) -> None:
        global _station
        # Without its main process nobody would hear of this one again.
        die_with(os.getppid())
        try:
            _station = open_station(settings, _queues[0] if _queues else jobs_queue(settings.target))
            _station.listening.watch(every_seconds=max(settings.wake_seconds, 1.0))
        except Exception as error:
            # A worker that takes messages and can do nothing is worse than none: whoever runs us starts us again.
            expected = isinstance(error, BitpressError)
            log.error("this worker cannot start: %s", error, exc_info=not expected)
            os.kill(os.getppid(), signal.SIGTERM)
            if not expected:  # what is has said what to do
                raise

    @signals.worker_ready.connect(weak=False)
    def on_ready(**_: Any) -> None:
        # Rows may have waited since before this worker was there.
        wake_ups = WakeUps(wiring.broker_url(settings))
        for queue in _queues:
            wake_ups.send(queue)
        wake_ups.close()

    @signals.worker_shutting_down.connect(weak=False)
    def on_stop(**_: Any) -> None:
        _stopping.set()

    @signals.worker_process_shutdown.connect(weak=False)
    def on_exit(**_: Any) -> None:
        if _station is not None:
            _station.services.targets.leave(_station.worker_id)
            _station.services.close()

    @signals.setup_logging.connect(weak=False)
    def on_logging(**_: Any) -> None:
        logging.basicConfig(
            level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
        )


def refuse_several(queues: Iterable[str], processes: int) -> None:
    """Let no worker of jobs run two at a time: one would work while the other is timed.

    Raises SystemExit with a sentence for whoever started it.
    """
    if processes > 1 and any(queue != INSPECTIONS for queue in queues):
        raise SystemExit(
            f"A worker that serves jobs runs one at a time, and this one was started for {processes}: start it with "
            "--concurrency 1. To use a machine for several targets start one worker for each; they take turns to "
            "measure."
        )


def compile_steps() -> None:
    """Compile what children import: they may write nothing there, and would each compile it anew.

    Where this process may not write there either, somebody compiled it when it was installed.
    """
    compileall.compile_dir(Path(__file__).parent, quiet=2)


def open_station(settings: Settings, queue: str) -> Station:
    """Make a process ready to work: services, this machine's fingerprint, the limits of its children."""
    services = wiring.build(settings)
    await_schema(services)
    worker_id = worker_name(queue)
    root = own_scratch(wiring.scratch_dir(settings), queue)
    limits = SandboxLimits(
        memory_bytes=settings.sandbox_memory_bytes or default_memory(), disk_bytes=settings.sandbox_disk_bytes
    )
    file = wiring.scratch_dir(settings) / TRIED_FILE
    state, providers = read_state(), settings.providers or providers_of(settings.target)
    fingerprint, confinement = probe_machine(root, limits, settings.sandbox_uid, known=read_tried(file))
    serves_jobs = queue == jobs_queue(settings.target)
    if serves_jobs:
        refuse_false_name(settings.target, fingerprint.features)
    made = Station(
        worker_id=worker_id,
        queue=queue,
        target=settings.target,
        services=services,
        listening=Listening(
            waits=lambda: services.work.waits(queue), wake=lambda: services.wake_ups.send(queue), give_up=end_worker
        ),
        scratch_root=root,
        limits=limits,
        uid=settings.sandbox_uid,
        allow_weak_sandbox=settings.allow_weak_sandbox,
        trust_torch_files=settings.trust_torch_files,
        state=state,
        fingerprint=fingerprint.running_on(providers).model_dump(mode="json"),
        machine_lock=MachineLock(wiring.machine_lock_dir(settings), fingerprint.boot_id),
        tried_file=file,
        providers=providers,
        sandbox=confinement,
        stopping=_stopping.is_set,
        max_unpacked_bytes=settings.max_unpacked_bytes,
        inspect_seconds=settings.inspect_seconds,
        replicates=settings.replicates,
        most_replicates=settings.most_replicates,
        measure_seconds=settings.measure_seconds,
    )
    made.register()
    log.info("serving %s on %s", queue, fingerprint.model_name)
    if serves_jobs:
        made.measure_machine()
        warn_of_providers(made)
    return made


def warn_of_providers(made: Station) -> None:
    """Tell the log where jobs will fail, because what they are to run on does not open."""
    found = Fingerprint.model_validate(made.fingerprint).providers
    if found is None:
        return
    reasons = {provider.name: provider.reason for provider in found if not provider.loads}
    missing = dict.fromkeys(set(made.providers) - {provider.name for provider in found}, "onnxruntime does not have it")
    for name, reason in {**reasons, **missing}.items():
        if name in made.providers:
            log.warning("jobs here run on %s, which does not open: %s", name, reason)


def end_worker() -> None:
    """End this worker's main process, and with it this one: first asked to, then made to."""
    global _asked_to_end
    os.kill(os.getppid(), signal.SIGKILL if _asked_to_end else signal.SIGTERM)
    _asked_to_end = True


def await_schema(services: Services) -> None:
    """Wait until the database answers and has its tables. Raises `Unavailable` when it takes too long."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            services.targets.all()
            return
        except (Unavailable, ProgrammingError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.5)


def own_scratch(root: Path, queue: str) -> Path:
    """A scratch folder for this worker; what killed ones of the same queue left is removed."""
    for left in root.glob(f"{queue}-*"):
        owner = left.name.rpartition("-")[2]
        if owner == str(os.getppid()) or not (owner.isdigit() and psutil.pid_exists(int(owner))):
            remove_scratch(left)
    folder = root / f"{queue}-{os.getppid()}"
    folder.mkdir(parents=True, exist_ok=True, mode=0o711)
    return folder


def default_memory() -> int:
    """Three quarters of the machine's memory, in bytes."""
    return int(psutil.virtual_memory().total * 3 // 4)
