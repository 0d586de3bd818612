"""Starts a sandbox child, gives it steps and stops it when it goes beyond what it may."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from app.errors import SandboxError
from workers.sandbox import scratch as scratch_folder
from workers.sandbox.confinement import Confinement, Plan
from workers.sandbox.entry import MEMORY_EXIT
from workers.sandbox.errors import (
    MemoryLimitExceeded,
    ResultInvalid,
    SandboxUnavailable,
    StepCrashed,
    StepFailed,
    TimeLimitExceeded,
)
from workers.sandbox.limits import SandboxLimits
from workers.sandbox.pipes import EventPipe, LogPipe, clean_code, clean_fraction, clean_text
from workers.sandbox.syscalls import compile_filter
from workers.sandbox.watch import Watch, describe_exit, process_status

_TURN_SECONDS = 0.1  # how often limits are compared and `tick` is called
_START_SECONDS = 30.0
_EXIT_SECONDS = 0.5
_KILL_SECONDS = 10.0
# Thread counts and the like, which the operator sets for numerical libraries; never a secret.
_INHERITED = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ORT_", "LD_LIBRARY_PATH", "TZ")

_ROOT = Path(__file__).resolve().parents[2]


class SandboxChild:
    """A confined process that serves the steps of one job, one after the other.

    A context manager: entering starts and confines the child, leaving ends it. The kernel kills the child
    when the *thread* that entered ends, so keep it in the thread that runs the steps. `scratch` is a
    folder made for this job alone whose parents the child's user can traverse; all its content belongs to
    the child from then on, so inputs must be copies, never hard links. `log` is a file outside of
    `scratch` that grows by what the child prints. `target` is the `module:function` that serves the
    steps; `code` names further folders to read and import from. Where the worker is root, the child
    becomes `uid` and `gid` if they can read the interpreter, else it stays root without capabilities.

    Entering raises SandboxUnavailable, also where the platform confines too weakly and `allow_weak` is
    not set.
    """

    entry: ClassVar[Path] = Path(__file__).with_name("entry.py")

    def __init__(
        self,
        scratch: Path,
        *,
        limits: SandboxLimits,
        log: Path,
        target: str = "workers.steps.program:serve",
        uid: int = 65534,
        gid: int = 65534,
        allow_weak: bool = False,
        code: Sequence[Path] = (),
        python: Path | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.scratch = scratch
        self.limits = limits
        self._log_path = log
        self._target = target
        self._user = (uid, gid)
        self._allow_weak = allow_weak
        self._code = [str(path) for path in code]
        self._python = str(python or sys.executable)
        self._environment = dict(environment or {})
        self._confinement: Confinement | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def confinement(self) -> Confinement:
        """The layers that hold around this child, as it found them itself; once entered."""
        if self._confinement is None:
            raise RuntimeError("The child is not running.")
        return self._confinement

    @property
    def pid(self) -> int:
        return self._running.pid

    @property
    def alive(self) -> bool:
        """Whether the child can serve another step."""
        return self._process is not None and not self._events.closed and self._process.poll() is None

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("The child is not running.")
        return self._process

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self._folder = scratch_folder.open_folder(self.scratch)
            opened.callback(os.close, self._folder)
            with suppress(FileExistsError):
                os.mkdir("tmp", 0o700, dir_fd=self._folder)
            self._start(opened)
            opened.callback(self.kill)
            self._confinement = self._report()
            self._owner = self._own_scratch(self._confinement)
            self._send(b"go\n")
            self._opened = opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._opened:
            if kind is None:
                self._end()

    def _start(self, opened: ExitStack) -> None:
        filter_program = compile_filter()
        plan = Plan(
            parent_pid=os.getpid(),
            scratch=os.path.realpath(self.scratch),
            packages=(),  # the entry adds `app` and `workers`
            code=self._code,
            uid=self._user[0],
            gid=self._user[1],
            threads=self.limits.threads,
            open_files=self.limits.open_files,
            address_space_bytes=self.limits.address_space_bytes,
            file_bytes=self.limits.disk_bytes,
            cpu_seconds=self.limits.cpu_seconds,
            filter_hex=filter_program.hex() if filter_program else None,
        )
        arguments = json.dumps({"root": str(_ROOT), "target": self._target, "plan": asdict(plan)})
        events_read, events_write = os.pipe()
        self._events = EventPipe(events_read)
        opened.callback(self._events.close)
        log_read, log_write = os.pipe()
        try:
            self._log = LogPipe(log_read, self._log_path, self.limits.log_bytes)
            opened.callback(self._log.close)
            self._process = subprocess.Popen(
                [self._python, "-I", "-B", "-u", "-X", "faulthandler", str(self.entry), arguments],
                stdin=subprocess.PIPE,
                stdout=log_write,
                stderr=log_write,
                pass_fds=(events_write,),
                start_new_session=True,
                cwd=plan.scratch,
                env=self._clean_environment(plan.scratch, events_write),
            )
        except OSError as error:
            raise SandboxUnavailable(f"The sandbox child could not be started: {error.strerror}.") from error
        finally:
            os.close(events_write)
            os.close(log_write)
        opened.callback(self._close_stdin)
        self._watch = Watch(self._process.pid, self._folder, self.limits)
        self._poll = select.poll()
        self._poll.register(events_read, select.POLLIN)
        self._poll.register(log_read, select.POLLIN)

    def _clean_environment(self, scratch: str, progress_fd: int) -> dict[str, str]:
        inherited = {name: value for name, value in os.environ.items() if name.startswith(_INHERITED)}
        return inherited | {
            "HOME": scratch,
            "TMPDIR": f"{scratch}/tmp",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "ORT_DISABLE_TELEMETRY": "1",  # there is no network, and the attempt fills the log
            "PYDANTIC_DISABLE_PLUGINS": "__all__",  # there are none, and looking takes 15 ms of each child's start
            **self._environment,
            "BITPRESS_PROGRESS_FD": str(progress_fd),
        }

    def _report(self) -> Confinement:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline and not self._events.closed:
            for event in self._turn(deadline - time.monotonic()):
                return Confinement(**event["confined"])
        with suppress(subprocess.TimeoutExpired):
            self._running.wait(_EXIT_SECONDS)
        if self._running.poll() == -signal.SIGKILL:  # no fault of the platform's: somebody killed it
            raise self._crash("start")
        self.kill()
        raise SandboxUnavailable(
            f"The sandbox child could not confine itself. Its last words: {self._log.tail() or 'none'}"
        )

    def _own_scratch(self, confinement: Confinement) -> tuple[int, int]:
        """Give the scratch folder to the user that the child became; that user and its group."""
        if not confinement.strong and not self._allow_weak:
            raise SandboxUnavailable(
                "This machine cannot confine untrusted models: Landlock or seccomp is missing. Use a Linux "
                "kernel with both, or set allow_weak_sandbox if every uploader is trusted."
            )
        same = confinement.uid == os.geteuid()
        owner = (os.geteuid(), os.getegid()) if same else self._user
        scratch_folder.hand_over(self._folder, *owner)
        return owner

    def run(
        self,
        *,
        step: str,
        folder: str,
        request: Mapping[str, Any],
        seconds: float | None = None,
        on_progress: Callable[[float, str], None] | None = None,
        tick: Callable[[], None] | None = None,
    ) -> dict[str, Any]:
        """Run one step in `scratch/folder`, a new folder, and return its result.

        `request` is written there as `request.json`. `seconds` defaults to the limits'. `on_progress` gets
        a fraction from 0 to 1 and a message, ten times a second at most. `tick` is called about as often;
        what it raises, stops the child. Raises StepFailed for a failure that the step foresaw, after which
        the child serves on; any other error of `errors`, and any from the two callbacks, has killed it.
        """
        content = json.dumps(request, allow_nan=False).encode()
        scratch_folder.make_step_folder(self._folder, folder, content, self._owner)
        command = json.dumps({"step": step, "request": f"{folder}/request.json"}) + "\n"
        try:
            self._events.allow(self.limits.progress_bytes)
            self._send(command.encode())
            self._follow(step, folder, self.limits.seconds if seconds is None else seconds, on_progress, tick)
            return scratch_folder.read_result(self.scratch, folder, self.limits.result_bytes)
        except StepFailed:
            raise
        except BaseException:
            self.kill()
            raise

    def _follow(
        self,
        step: str,
        folder: str,
        seconds: float,
        on_progress: Callable[[float, str], None] | None,
        tick: Callable[[], None] | None,
    ) -> None:
        """Watch the child until it says that the step is done."""
        deadline = time.monotonic() + seconds
        next_turn = 0.0
        news: tuple[float, str] | None = None
        done = False
        while not done:
            wait = min(next_turn, deadline) - time.monotonic()
            for event in self._turn(wait):
                if event.get("failed") == folder:
                    raise _failure(event)
                if event.get("done") == folder:
                    done = True
                elif (fraction := clean_fraction(event.get("progress"))) is not None:
                    news = fraction, clean_text(event.get("message"), 500)
                else:
                    raise ResultInvalid(f"The step {step} reported something that is no progress and was stopped.")
            now = time.monotonic()
            if done or now >= next_turn:
                next_turn = now + _TURN_SECONDS
                self._watch.check(disk_now=done)
                if news is not None and on_progress is not None:
                    on_progress(*news)
                    news = None
                if tick is not None:
                    tick()
            if self._events.closed and not done:
                raise self._crash(step)
            if now > deadline and not done:
                raise TimeLimitExceeded(
                    f"The step {step} did not end in time: {_rounded(seconds)} seconds were left for it. Use a smaller "
                    "model or fewer rows; a job is given more time by its limits.run_seconds."
                )

    def _turn(self, seconds: float) -> list[dict[str, Any]]:
        """Wait up to so long for the child to say or print something; the events it reported."""
        events: list[dict[str, Any]] = []
        for fd, _ in self._poll.poll(max(0.0, seconds) * 1000):
            pipe = self._log if fd == self._log.fd else self._events
            if pipe is self._events:
                events = self._events.read()
            else:
                self._log.read()
            if pipe.closed:
                self._poll.unregister(fd)
        return events

    def _send(self, line: bytes) -> None:
        stdin = self._running.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):  # a child that died says so on the progress pipe
            stdin.write(line)
            stdin.flush()

    def _crash(self, step: str) -> StepCrashed | MemoryLimitExceeded | TimeLimitExceeded:
        with suppress(subprocess.TimeoutExpired):
            self._running.wait(_EXIT_SECONDS)
        code = self._running.poll()
        self.kill()  # a child that only closed its pipe
        if code == MEMORY_EXIT:
            return MemoryLimitExceeded(
                f"The step {step} ran out of the memory it may have. "
                "Use a smaller model or batch, or raise the worker's memory limit."
            )
        if code == -signal.SIGXCPU:
            return TimeLimitExceeded(f"The step {step} used more processor time than a job may.")
        ending = describe_exit(code) if code is not None else "a closed progress pipe"
        advice = (
            "Something outside stopped it, most likely a machine short of memory: try again."
            if code == -signal.SIGKILL
            else "The model made its runtime fail: try to load and run it on its own. A job's log may say where."
        )
        return StepCrashed(
            f"The step {step} ended with {ending}. {advice}",
            log_tail=self._log.tail(),
            retryable=code == -signal.SIGKILL,
        )

    def peak_memory(self) -> int:
        """The largest resident set of the child so far (VmHWM), in bytes; of a dead child, the last seen."""
        if self._process is None:
            return 0
        status = process_status(self._process.pid) if self._process.returncode is None else None
        if status is not None:
            self._watch.peak_bytes = max(self._watch.peak_bytes, status.peak_bytes)
        return self._watch.peak_bytes

    def kill(self) -> None:
        """Kill the child's whole process group and wait until it is gone."""
        if self._process is None or self._process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait(_KILL_SECONDS)
        while self._log.read():
            pass

    def _end(self) -> None:
        """Let an idle child end by itself, so that all it printed reaches the log."""
        self._close_stdin()
        deadline = time.monotonic() + _EXIT_SECONDS
        with suppress(SandboxError):
            while time.monotonic() < deadline and not self._events.closed:
                self._turn(deadline - time.monotonic())

    def _close_stdin(self) -> None:
        stdin = self._running.stdin
        assert stdin is not None
        with suppress(BrokenPipeError):
            stdin.close()


def _rounded(seconds: float) -> str:
    return "less than 0.1" if seconds < 0.1 else f"{seconds:.1f}".removesuffix(".0")


def _failure(event: dict[str, Any]) -> StepFailed:
    return StepFailed(
        clean_text(event.get("detail"), 2000) or "The step failed and did not say why.",
        code=clean_code(event.get("code")),
        retryable=event.get("retryable") is True,
    )
