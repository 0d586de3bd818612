"""One times alone, others compute side by side: between processes, as workers are."""

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workers.tasks.machine_lock import MachineLock

HOLD = """
import sys
from pathlib import Path
from workers.tasks.machine_lock import MachineLock

def told(text):
    print(text, flush=True)

waited = []
def wait():
    if not waited:
        told("waits")
    waited.append(1)

with MachineLock(Path(sys.argv[1]), "boot").held(alone=sys.argv[2] == "alone", wait=wait):
    told("has it")
    sys.stdin.readline()
told("gave it back")
"""


class Holder:
    """Another worker's process."""

    def __init__(self, folder: Path, how: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(folder), how], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def says(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def give_back(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        assert self.says() == "gave it back"
        assert self.process.wait(10) == 0


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Callable[[str], Holder]]:
    """Starts another worker's process that asks for the machine."""
    started: list[Holder] = []

    def start(how: str) -> Holder:
        started.append(Holder(tmp_path, how))
        return started[-1]

    yield start
    for each in started:
        each.process.kill()
        each.process.wait()
        for pipe in (each.process.stdin, each.process.stdout):
            assert pipe is not None
            pipe.close()


class _GivenUp(Exception):
    pass


def had(folder: Path, *, alone: bool, tries: int = 1, boot: str = "boot") -> bool:
    """Whether this process gets the machine within some tries."""
    left = [tries]

    def wait() -> None:
        left[0] -= 1
        if not left[0]:
            raise _GivenUp

    try:
        with MachineLock(folder, boot).held(alone=alone, wait=wait):
            return True
    except _GivenUp:
        return False


def test_who_times_is_alone_and_who_computes_is_not(worker: Callable[[str], Holder], tmp_path: Path) -> None:
    computing = worker("beside")
    assert computing.says() == "has it"
    assert had(tmp_path, alone=False)
    assert not had(tmp_path, alone=True)
    assert had(tmp_path, alone=False), "who gave up waiting stands in nobody's way"
    computing.give_back()
    timing = worker("alone")
    assert timing.says() == "has it"
    assert not had(tmp_path, alone=False)
    assert not had(tmp_path, alone=True)
    assert had(tmp_path, alone=True, boot="another"), "another machine that shares the folder"
    timing.give_back()
    assert had(tmp_path, alone=True)


def test_those_who_compute_cannot_starve_one_who_waits_to_time(worker: Callable[[str], Holder], tmp_path: Path) -> None:
    first = worker("beside")
    assert first.says() == "has it"
    timing = worker("alone")
    assert timing.says() == "waits"
    later = worker("beside")
    assert later.says() == "waits", "it comes after the one who waits"
    first.give_back()
    assert timing.says() == "has it"
    timing.give_back()
    assert later.says() == "has it"


def test_whoever_dies_gives_it_back(worker: Callable[[str], Holder], tmp_path: Path) -> None:
    timing = worker("alone")
    assert timing.says() == "has it"
    waiting = worker("alone")
    assert waiting.says() == "waits"
    timing.process.kill()
    assert waiting.says() == "has it"
    third = worker("alone")
    assert third.says() == "waits"
    third.process.kill()
    third.process.wait()
    waiting.give_back()
    assert had(tmp_path, alone=True)


def test_a_child_that_outlives_it_has_no_part_of_it(tmp_path: Path) -> None:
    with MachineLock(tmp_path, "boot").held(alone=True, wait=pytest.fail):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        assert had(tmp_path, alone=True)
    finally:
        child.kill()
        child.wait()


def test_a_file_that_was_cleared_away_locks_nobody_out(worker: Callable[[str], Holder], tmp_path: Path) -> None:
    timing = worker("alone")
    assert timing.says() == "has it"
    waiting = worker("alone")
    assert waiting.says() == "waits"
    for path in tmp_path.glob("*.lock"):
        path.unlink()
    with MachineLock(tmp_path, "boot").held(alone=True, wait=pytest.fail):
        timing.give_back()
        time.sleep(0.3)
        assert os.get_blocking(waiting.process.stdout.fileno())  # type: ignore[union-attr]
        os.set_blocking(waiting.process.stdout.fileno(), False)  # type: ignore[union-attr]
        assert waiting.says() == "", "what it waited for is no lock any more: it waits for the one that is"
        os.set_blocking(waiting.process.stdout.fileno(), True)  # type: ignore[union-attr]
    assert waiting.says() == "has it"


def lock_file(folder: Path, name: str = "gate") -> Path:
    return folder / f"bitpress-{os.geteuid()}-boot-{name}.lock"


def test_its_files_are_the_user_s_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        assert had(tmp_path, alone=True)
    finally:
        os.umask(before)
    assert {path.name for path in tmp_path.iterdir()} == {
        lock_file(tmp_path, name).name for name in ("gate", "machine")
    }
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


@pytest.mark.parametrize("trap", ["link", "dangling link", "fifo", "folder", "open to all", "no folder"])
def test_what_is_no_file_of_this_user_s_is_left_alone(
    trap: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Then nothing is locked, and said so once."""
    victim, folder = tmp_path / "victim", tmp_path / "shared"
    victim.write_text("untouched")
    folder.mkdir()
    place = lock_file(folder)
    if trap == "link":
        place.symlink_to(victim)
    elif trap == "dangling link":
        place.symlink_to(tmp_path / "nothing")
    elif trap == "fifo":
        os.mkfifo(place)
    elif trap == "folder":
        place.mkdir()
    elif trap == "open to all":
        place.touch()
        place.chmod(0o666)
    else:
        folder.rmdir()
    lock = MachineLock(folder, "boot")
    for _ in range(2):
        with lock.held(alone=True, wait=pytest.fail):
            assert victim.read_text() == "untouched"
    assert not (tmp_path / "nothing").exists()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "BITPRESS_MACHINE_LOCK_DIR" in said


def test_a_trap_at_the_second_file_leaves_the_first_free(tmp_path: Path) -> None:
    lock_file(tmp_path, "machine").mkdir()
    with MachineLock(tmp_path, "boot").held(alone=True, wait=pytest.fail):
        descriptor = os.open(lock_file(tmp_path), os.O_RDWR)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(descriptor)


@pytest.mark.parametrize("boot_id", ["../../etc/passwd", "", "a/b"])
def test_no_name_of_a_boot_leads_elsewhere(boot_id: str, tmp_path: Path) -> None:
    assert had(tmp_path, alone=True, boot=boot_id)
    assert len(list(tmp_path.iterdir())) == 2
