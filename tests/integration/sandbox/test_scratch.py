"""Removing and handing over what hostile programs left."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.sandbox.conftest import NOBODY
from tests.integration.sandbox.trial import CHECKOUT, new_folder
from workers.sandbox.errors import DiskLimitExceeded, SandboxUnavailable
from workers.sandbox.scratch import hand_over, measure, open_folder, remove_scratch

# Thousands of folders go in no time from memory; ext4 was seen to take 1.4 ms for each.
QUICK = "/dev/shm" if os.access("/dev/shm", os.W_OK) else "/var/tmp"

LEAVE = """
import os, sys
os.chdir(sys.argv[1])
for _ in range(3000):
    os.mkdir("d"); os.chdir("d")
open("deepest", "w").close()
os.chdir(sys.argv[1])
os.makedirs("closed/inner")
open("closed/inner/file", "w").close()
os.symlink(sys.argv[2], "link")
os.symlink(sys.argv[2], "closed/link")
os.symlink("nowhere", "broken")
os.mkfifo("fifo")
open(b"not-utf8-\\xff", "w").close()
open("x" * 255, "w").close()
os.chmod("closed/inner", 0)
os.chmod("closed", 0)
os.mkdir("shut", 0)
os.chmod(".", 0)
"""
REMOVE = "import sys; sys.path.insert(0, sys.argv[1])\n" + (
    "from pathlib import Path; from workers.sandbox.scratch import remove_scratch; remove_scratch(Path(sys.argv[2]))"
)


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    folder = tmp_path / "outside"
    folder.mkdir()
    (folder / "kept").write_text("kept")
    return folder


def test_any_tree_is_removed_and_no_link_followed(outside: Path) -> None:
    path = new_folder("left", 0o700, QUICK)
    subprocess.run([sys.executable, "-I", "-c", LEAVE, path, outside], check=True)
    remove_scratch(path)
    assert not os.path.lexists(path)
    assert (outside / "kept").read_text() == "kept"


def test_another_user_s_tree_is_removed(outside: Path, as_another_user: dict[str, Any]) -> None:
    path = new_folder("left", 0o700, QUICK)
    os.chown(path, NOBODY, NOBODY)
    python = as_another_user["python"]
    subprocess.run([python, "-I", "-c", LEAVE, path, outside], check=True, user=NOBODY, group=NOBODY, cwd="/")
    remove_scratch(path)
    assert not os.path.lexists(path)
    assert (outside / "kept").read_text() == "kept"


def test_a_user_without_privileges_removes_it_as_well(outside: Path, as_another_user: dict[str, Any]) -> None:
    """Root passes closed folders; a worker that is not root has to open them first."""
    parent = new_folder("parent", 0o777, QUICK)
    path = parent / "left"
    try:
        for arguments in (["-c", f"import os; os.mkdir({str(path)!r})"], ["-c", LEAVE, path, outside]):
            command = [as_another_user["python"], "-I", *arguments]
            subprocess.run(command, check=True, user=NOBODY, group=NOBODY, cwd="/")
        command = [as_another_user["python"], "-I", "-B", "-c", REMOVE, CHECKOUT, path]
        subprocess.run(command, check=True, user=NOBODY, group=NOBODY, cwd="/")
        assert not os.path.lexists(path)
    finally:
        remove_scratch(parent)


def test_removing_twice_is_no_error(scratch: Path) -> None:
    remove_scratch(scratch)
    remove_scratch(scratch)


def test_a_link_is_no_scratch_folder(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        remove_scratch(tmp_path / "link")
    assert (outside / "kept").exists()


@pytest.fixture
def folder(scratch: Path) -> int:
    return open_folder(scratch)


def test_usage_counts_blocks_and_names_and_follows_no_link(scratch: Path, folder: int, outside: Path) -> None:
    (outside / "big").write_bytes(bytes(10 << 20))
    (scratch / "a").mkdir()
    (scratch / "a" / "file").write_bytes(bytes(1 << 20))
    (scratch / "link").symlink_to(outside)
    with open(scratch / "sparse", "wb") as file:
        file.truncate(1 << 30)
    for _ in range(2):  # a descriptor keeps its place between looks
        usage = measure(folder, 100)
        assert usage.entries == 4
        assert 1 << 20 <= usage.bytes < 2 << 20
    with pytest.raises(DiskLimitExceeded):
        measure(folder, 3)
    assert measure(folder, 100).entries == 4


def test_a_folder_is_handed_over_with_all_in_it(scratch: Path, folder: int, as_another_user: dict[str, Any]) -> None:
    (scratch / "inputs").mkdir()
    (scratch / "inputs" / "model").write_bytes(b"x")
    (scratch / "link").symlink_to("/etc/passwd")
    hand_over(folder, NOBODY, NOBODY)
    for path in (scratch, scratch / "inputs", scratch / "inputs" / "model", scratch / "link"):
        assert path.lstat().st_uid == NOBODY
    assert Path("/etc/passwd").stat().st_uid == 0


def test_a_hard_link_is_never_handed_over(scratch: Path, folder: int, tmp_path: Path) -> None:
    store = scratch.with_name(scratch.name + "-object")
    store.write_bytes(b"an object of the store")
    try:
        os.link(store, scratch / "model")
        with pytest.raises(SandboxUnavailable, match="hard link"):
            hand_over(folder, os.geteuid(), os.getegid())
    finally:
        store.unlink()
