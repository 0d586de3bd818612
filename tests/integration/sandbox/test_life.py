"""A child's life: confined from the start, several steps, and an end in every case."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.sandbox.conftest import Start
from tests.integration.sandbox.trial import CHECKOUT, PROGRAMS, Trial, is_gone
from workers.sandbox.errors import Cancelled, SandboxUnavailable, StepCrashed, StepFailed
from workers.sandbox.landlock import landlock_abi
from workers.sandbox.support import probe


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


@pytest.mark.parametrize("user", ["own user", "another user"])
def test_the_layers_hold_as_the_kernel_sees_them(start: Start, user: str, request: pytest.FixtureRequest) -> None:
    options = {} if user == "own user" else request.getfixturevalue("as_another_user")
    with start(**options) as child:
        status = status_of(child.pid)
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
        if os.geteuid() == 0:
            assert status["CapBnd"] == "0" * 16
        assert status["Uid"].split() == [str(child.confinement.uid)] * 4
        expected = {"landlock_abi": landlock_abi(), "seccomp": True, "capabilities": "none", "strong": True}
        assert child.confinement.as_dict() == expected | {"uid": options.get("uid", child.confinement.uid)}


def test_the_platform_is_known_without_a_child() -> None:
    support = probe()
    assert support.as_dict() == {"landlock_abi": landlock_abi(), "seccomp": True, "missing": (), "strong": True}


def test_a_weak_confinement_is_refused_unless_allowed(start_bare: Start) -> None:
    child = start_bare(allow_weak=False)
    with pytest.raises(SandboxUnavailable, match="allow_weak_sandbox"):
        child.__enter__()
    assert is_gone(child.pid)


def test_a_child_that_cannot_start_says_so(start: Start) -> None:
    with pytest.raises(SandboxUnavailable, match="could not be started"):
        start(python=Path("/no/such/python")).__enter__()
    with pytest.raises(SandboxUnavailable, match="could not confine itself"):
        start(python=Path("/bin/true")).__enter__()


def test_secrets_are_neither_in_the_environment_nor_in_open_files(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in os.environ:
        if name.startswith(("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "ORT_")):
            monkeypatch.delenv(name)  # what tunes this machine's libraries is handed on
    monkeypatch.setenv("BITPRESS_API_KEY", "the-api-key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    secret = tmp_path / "secret"
    secret.touch()
    with secret.open() as file:
        os.set_inheritable(file.fileno(), True)
        with start(environment={"EXTRA": "1"}) as child:
            trial = Trial(child)
            environment = trial.expect("names_in_environment")
            held = trial.expect("open_files")
    assert set(environment) - {"TZ", "LD_LIBRARY_PATH", "LC_CTYPE"} == {
        "EXTRA", "HOME", "LANG", "OMP_NUM_THREADS", "ORT_DISABLE_TELEMETRY", "PYDANTIC_DISABLE_PLUGINS",
        "PYTHONDONTWRITEBYTECODE", "TMPDIR",
    }  # fmt: skip
    assert environment["HOME"] == str(child.scratch)
    assert [secret.stat().st_dev, secret.stat().st_ino] not in held


def test_one_process_serves_several_steps(start: Start) -> None:
    with start() as child:
        trial = Trial(child)
        pid = child.pid
        for _ in range(3):
            assert trial.expect("list_folder", path="tmp") == []
        assert child.pid == pid
        assert child.alive
        assert 1 << 20 < child.peak_memory() < 200 << 20
    assert is_gone(pid)
    assert not child.alive


def test_progress_arrives_thinned_and_clean(start: Start) -> None:
    seen: list[tuple[float, str]] = []
    ticks: list[float] = []
    with start(target="dishonest:report_progress") as child:
        result = child.run(
            step="x", folder="x", request={}, on_progress=lambda *news: seen.append(news), tick=lambda: ticks.append(0)
        )
    assert result == {"rows": 100_000}
    assert 1 <= len(seen) < 40
    assert seen[-1] == (1.0, "all rows\ufffd[0m")
    assert all(re.fullmatch(r"row \d+\ufffd\[31m", message) for _, message in seen[:-1])
    assert seen == sorted(seen)
    assert ticks


def test_a_foreseen_failure_is_told_and_the_child_serves_on(start: Start) -> None:
    with start(target="dishonest:fail") as child:
        for number, (said, code, detail, retryable) in enumerate(FAILURES):
            with pytest.raises(StepFailed) as failed:
                child.run(step="x", folder=f"x-{number}", request=said)
            assert (failed.value.code, failed.value.detail, failed.value.retryable) == (code, detail, retryable)
        assert child.alive


NO_REASON = "The step failed and did not say why."
FAILURES: list[tuple[dict[str, Any], str, str, bool]] = [
    ({"code": "model_invalid", "detail": "No.", "retryable": True}, "model_invalid", "No.", True),
    ({"code": "model_invalid", "detail": "x" * 3000}, "model_invalid", "x" * 2000, False),
    ({"code": "DROP TABLE", "detail": "a\x00b\ud800", "retryable": "yes"}, "step_failed", "a\ufffdb\ufffd", False),
    ({"code": 5, "detail": ["no"]}, "step_failed", NO_REASON, False),
    ({}, "step_failed", NO_REASON, False),
]


@pytest.mark.parametrize(
    ("act", "arguments", "ending", "retryable"),
    [
        ("die_by", {"number": signal.SIGSEGV}, "signal SIGSEGV", False),
        ("die_by", {"number": signal.SIGKILL}, "signal SIGKILL", True),
        ("abort", {}, "signal SIGABRT", False),
        ("leave", {"code": 0}, "exit code 0", False),
        ("leave", {"code": 3}, "exit code 3", False),
        ("close_pipes", {}, "a closed progress pipe", False),
    ],
)
def test_a_dead_child_is_told_by_how_it_died(
    start: Start, act: str, arguments: dict[str, int], ending: str, retryable: bool
) -> None:
    with start() as child:
        trial = Trial(child)
        with pytest.raises(StepCrashed, match=ending) as crashed:
            trial.attempt(act, **arguments)
        assert crashed.value.retryable is retryable
        if act == "die_by":
            assert "about to die" in crashed.value.log_tail
        assert is_gone(child.pid)
        with pytest.raises(StepCrashed):  # and again, for whoever asks a dead child
            trial.attempt("list_folder", path=".")


def test_a_program_that_cannot_be_imported_is_a_crash_with_the_reason(start: Start) -> None:
    with start(target="dishonest:cannot_be_imported") as child, pytest.raises(StepCrashed) as crashed:
        child.run(step="x", folder="x", request={})
    assert "no such model library" in crashed.value.log_tail


def test_a_cancelled_step_is_gone_within_a_second(start: Start) -> None:
    with start() as child:
        began = time.monotonic()

        def tick() -> None:
            if time.monotonic() - began > 0.3:
                raise Cancelled("The job was cancelled.")

        with pytest.raises(Cancelled):
            child.run(step="spin", folder="spin", request={"seconds": 60}, tick=tick)
        assert time.monotonic() - began < 1.3
        assert is_gone(child.pid)


def test_the_whole_process_group_dies(start_bare: Start) -> None:
    """Of a child that nothing confines, and that started processes of its own."""

    def tick() -> None:
        if (child.scratch / "started").exists():
            raise Cancelled("The job was cancelled.")

    with start_bare() as child:
        with pytest.raises(Cancelled):
            child.run(step="start_a_program_and_wait", folder="x", request={}, tick=tick)
        pid = int((child.scratch / "started").read_text())
        deadline = time.monotonic() + 1
        while not is_gone(pid) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert is_gone(pid)


PARENT = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from workers.sandbox.child import SandboxChild
from workers.sandbox.limits import SandboxLimits
with SandboxChild(Path(sys.argv[2]), limits=SandboxLimits(memory_bytes=1 << 30), log=Path(sys.argv[3]),
                  target="hostile:serve", code=[Path(sys.argv[4])]) as child:
    print(child.pid, flush=True)
    if sys.argv[5] == "busy":
        child.run(step="spin", folder="spin", request={"seconds": 60})
    time.sleep(60)
"""


@pytest.fixture(params=["busy", "idle"])
def parent(request: pytest.FixtureRequest, scratch: Path, tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds a child, and prints the child's process id."""
    arguments = [CHECKOUT, scratch, tmp_path / "log", PROGRAMS, request.param]
    command = [sys.executable, "-c", PARENT, *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def test_kill_9_of_the_parent_leaves_no_orphan(parent: "subprocess.Popen[str]") -> None:
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.2)
    assert not is_gone(pid)
    parent.kill()
    deadline = time.monotonic() + 1
    while not is_gone(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert is_gone(pid)
