"""A program that has taken over the child: each act works in a bare child and is refused in a confined one."""

import os
import platform
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.integration.sandbox.trial import CHECKOUT, Trial, new_folder
from tests.parts.redis_server import redis_server_binary

SECRET = "the-api-key"
REFUSALS = {"PermissionError", "OSError", "OperationalError", "gaierror"}  # not ImportError, not FileNotFoundError

TRACEABLE = """
import ctypes, sys, time
secret = ctypes.create_string_buffer(b"password")
ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # traceable by anyone, where Yama asks
print(ctypes.addressof(secret), flush=True)
time.sleep(60)
"""


@dataclass
class World:
    """What lies around a child: secrets, servers and other processes, none of them guarded by file modes."""

    outside: Path  # world-writable
    data_folder: Path  # inside the checkout, as `BITPRESS_DATA_DIR=.bitpress` makes it
    home_file: Path
    redis_port: int
    redis_socket: Path
    postgres: str
    udp_port: int
    abstract: str
    victim: int
    victim_address: int
    made: list[Path] = field(default_factory=list)

    def secret(self) -> str:
        """A new file, readable and writable for all."""
        path = self.outside / f"secret-{os.urandom(4).hex()}"
        path.write_text(SECRET)
        path.chmod(0o666)
        self.made.append(path)
        return str(path)

    def database(self) -> str:
        path = self.secret()
        os.unlink(path)
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE vault (secret TEXT)")
            connection.execute("INSERT INTO vault VALUES (?)", [SECRET])
        connection.close()
        os.chmod(path, 0o666)
        return path

    def new_file(self, folder: Path) -> str:
        self.made.append(folder / f"planted-{os.urandom(4).hex()}")
        return str(self.made[-1])

    def link(self, trial: Trial, target: Path | str) -> str:
        """A link in the scratch folder, made by the parent, as an unpacked upload could hold one."""
        name = f"link-{os.urandom(4).hex()}"
        (trial.child.scratch / name).symlink_to(target)
        return name

    def bystander(self) -> int:
        """A new process that anything may end."""
        process = subprocess.Popen(["sleep", "60"])
        self.bystanders.append(process)
        return process.pid

    bystanders: list["subprocess.Popen[bytes]"] = field(default_factory=list)


@pytest.fixture(scope="module")
def world(postgres: str) -> Iterator[World]:
    with ExitStack() as stack:
        outside = new_folder("outside", 0o777)
        stack.callback(shutil.rmtree, outside)
        data_folder = CHECKOUT / f".bitpress-{os.urandom(4).hex()}"
        data_folder.mkdir()
        stack.callback(shutil.rmtree, data_folder)
        (data_folder / "api_key").write_text(SECRET)
        home_file = Path.home() / f".bitpress-{os.urandom(4).hex()}"
        home_file.write_text(SECRET)
        stack.callback(home_file.unlink)
        port, address = stack.enter_context(_free_port()), outside / "redis.sock"
        redis = subprocess.Popen(
            [redis_server_binary(), "--port", str(port), "--unixsocket", str(address), "--unixsocketperm", "777",
             "--save", "", "--dir", str(outside)],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip
        stack.callback(redis.wait)
        stack.callback(redis.terminate)
        datagrams = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
        datagrams.bind(("127.0.0.1", 0))
        abstract = f"bitpress-{os.urandom(4).hex()}"
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(f"\0{abstract}")
        listener.listen()
        victim = subprocess.Popen([sys.executable, "-c", TRACEABLE], stdout=subprocess.PIPE, text=True)
        assert victim.stdout is not None
        stack.callback(victim.communicate)
        stack.callback(victim.kill)
        deadline = time.monotonic() + 10
        while not address.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        made = World(
            outside=outside, data_folder=data_folder, home_file=home_file, redis_port=port, redis_socket=address,
            postgres=postgres, udp_port=datagrams.getsockname()[1], abstract=abstract, victim=victim.pid,
            victim_address=int(victim.stdout.readline()),
        )  # fmt: skip
        yield made
        for process in made.bystanders:
            process.kill()
            process.wait()
        for path in made.made:
            if path.exists() and path.parent != outside:
                path.unlink() if path.is_file() else path.rmdir()


class _free_port:  # noqa: N801 - reads as a function
    """A port that was free a moment ago."""

    def __enter__(self) -> int:
        with socket.create_server(("127.0.0.1", 0)) as server:
            return int(server.getsockname()[1])

    def __exit__(self, *_: object) -> None: ...


Arguments = Callable[[World, Trial], dict[str, Any]]


@dataclass(frozen=True)
class Case:
    act: str
    arguments: Arguments = lambda world, trial: {}
    raw: bool = False  # by x86-64 call number

    def run(self, trial: Trial, world: World) -> dict[str, Any]:
        if self.raw and platform.machine() != "x86_64":
            pytest.skip("written for x86-64 call numbers")
        return trial.attempt(self.act, **self.arguments(world, trial))


def _path(find: Callable[[World], object]) -> Arguments:
    return lambda world, trial: {"path": str(find(world))}


def _linked(find: Callable[[World], Path | str], below: str = "") -> Arguments:
    return lambda world, trial: {"path": world.link(trial, find(world)) + below}


def _library(world: World, trial: Trial) -> dict[str, Any]:
    path = trial.library / f"library-{os.urandom(4).hex()}"
    path.write_text(SECRET)
    path.chmod(0o644)
    return {"path": str(path)}


def _pid(find: Callable[[World], int]) -> Arguments:
    return lambda world, trial: {"pid": find(world)}


CASES = {
    "read the key in the checkout's data folder": Case("read_file", _path(lambda w: w.data_folder / "api_key")),
    "read a key elsewhere": Case("read_file", _path(World.secret)),
    "read the checkout": Case("read_file", _path(lambda w: CHECKOUT / "pyproject.toml")),
    "list the checkout": Case("list_folder", _path(lambda w: CHECKOUT)),
    "list the data folder": Case("list_folder", _path(lambda w: w.data_folder)),
    "read the home": Case("read_file", _path(lambda w: w.home_file)),
    "read the users": Case("read_file", _path(lambda w: "/etc/passwd")),
    "list the root": Case("list_folder", _path(lambda w: "/")),
    "list the devices": Case("list_folder", _path(lambda w: "/dev")),
    "read by way of /proc": Case("read_file", _path(lambda w: f"/proc/self/root{w.secret()}")),
    "read the parent's environment": Case("read_file", _path(lambda w: f"/proc/{os.getpid()}/environ")),
    "read another process's status": Case("read_file", _path(lambda w: "/proc/1/status")),
    "list the machine's sockets": Case("read_file", _path(lambda w: "/proc/self/net/tcp")),
    "open the SQLite database": Case("query_sqlite", _path(World.database)),
    "read through a link": Case("read_file", _linked(World.secret)),
    "write through a link": Case("append_to_file", _linked(World.secret)),
    "write through a folder's link": Case("write_file", _linked(lambda w: w.outside, "/planted")),
    "write outside": Case("write_file", _path(lambda w: w.new_file(w.outside))),
    "write to /tmp": Case("write_file", _path(lambda w: w.new_file(Path("/tmp")))),
    "write to /dev/shm": Case("write_file", _path(lambda w: w.new_file(Path("/dev/shm")))),
    "write to the checkout": Case("write_file", _path(lambda w: w.new_file(CHECKOUT))),
    "write into our packages": Case("write_file", _path(lambda w: w.new_file(CHECKOUT / "workers"))),
    "write to the home": Case("write_file", _path(lambda w: w.new_file(Path.home()))),
    "append to a file": Case("append_to_file", _path(World.secret)),
    "empty a file by its path": Case("empty_by_path", _path(World.secret)),
    "empty a file without writing": Case("empty_by_opening_for_reading", _path(World.secret)),
    "empty even an own file by its path": Case("empty_own_file_by_path"),
    "empty even an own file without writing": Case("empty_own_file_by_opening_for_reading"),
    "write into a library": Case("append_to_file", _library),
    "delete a file": Case("delete_file", _path(World.secret)),
    "rename a file": Case("rename_file", _path(World.secret)),
    "move a file into scratch": Case("steal_by_rename", _path(World.secret)),
    "link a file into scratch": Case("steal_by_hard_link", _path(World.secret)),
    "make a link in scratch": Case("make_link", _path(World.secret)),
    "make a folder outside": Case("make_folder", _path(lambda w: w.new_file(w.outside))),
    "make a FIFO in scratch": Case("make_fifo"),
    "make a file executable as its owner": Case("open_mode", _path(World.secret)),
    "change a file's mode by descriptor": Case("open_mode_of_readable", _library),
    "change a file's times": Case("change_times", _path(World.secret)),
    "change a file's attributes": Case("change_attributes", _library),
    "change extended attributes": Case("set_extended_attribute", _path(World.secret)),
    "reach Redis over TCP": Case("ping_tcp", lambda w, t: {"port": w.redis_port}),
    "reach Redis over its socket": Case("ping_unix", _path(lambda w: w.redis_socket)),
    "reach an abstract socket": Case("connect_abstract", lambda w, t: {"name": w.abstract}),
    "query Postgres": Case("query_postgres", lambda w, t: {"url": w.postgres}),
    "send a datagram": Case("send_datagram", lambda w, t: {"port": w.udp_port}),
    "resolve a name": Case("resolve"),
    "listen": Case("listen"),
    "pair sockets": Case("pair_sockets"),
    "fork": Case("fork"),
    "fork without the C library": Case("fork_raw", raw=True),
    "clone without the C library": Case("clone_raw", raw=True),
    "run a program": Case("run_program"),
    "spawn a program": Case("spawn_program"),
    "end another process": Case("end_process", _pid(World.bystander)),
    "end a process by its descriptor": Case("end_process_by_descriptor", _pid(World.bystander)),
    "hold a process by a descriptor": Case("hold_process", _pid(lambda w: w.victim)),
    "queue a signal": Case("end_process_by_queue", _pid(lambda w: w.victim), raw=True),
    "signal the parent": Case("probe_process", _pid(lambda w: os.getpid())),
    "signal the group": Case("signal_group"),
    "direct own signals at another": Case("own_signals_to", _pid(lambda w: w.victim)),
    "trace another process": Case("trace", _pid(lambda w: w.victim)),
    "read another's memory": Case(
        "read_memory_of", lambda w, t: {"pid": w.victim, "address": w.victim_address}, raw=True
    ),
    "limit another process": Case("limit_process", _pid(lambda w: w.victim)),
    "outlive the parent": Case("survive_parent"),
    "outlive the parent by high bits": Case("survive_parent_by_high_bits", raw=True),
    "hide memory in a file": Case("make_memory_file"),
    "queue calls past the filter": Case("queue_calls", raw=True),
    "hide memory in shared pages": Case("share_memory"),
    "hide memory in a segment": Case("share_memory_sysv", raw=True),
    "leave a namespace": Case("leave_namespace", raw=True),
    "read the keyring": Case("read_keyring", raw=True),
    "open files by handle": Case("open_handle", raw=True),
    "ask for another filter": Case("loosen_filter", raw=True),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_hostile_act_is_refused(case: Case, confined: Trial, world: World) -> None:
    known = set(world.outside.iterdir())
    answer = case.run(confined, world)
    assert answer.get("refused") in REFUSALS, answer
    for path in set(world.outside.iterdir()) - known:  # what the case made, and nothing that the act did to it
        assert path in world.made
        status = path.stat()
        assert stat_is_untouched(status), status
        assert SECRET in path.read_bytes().decode(errors="replace")
    assert all(process.poll() is None for process in world.bystanders if process.pid not in ENDED)


def stat_is_untouched(status: os.stat_result) -> bool:
    return status.st_mode & 0o7777 == 0o666 and status.st_nlink == 1 and status.st_mtime > 1e9


ENDED: set[int] = set()  # bystanders that the control was allowed to end


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_the_act_works_where_nothing_confines(case: Case, bare: Trial, world: World) -> None:
    answer = case.run(bare, world)
    ENDED.update(process.pid for process in world.bystanders)
    if case.raw and "refused" in answer and "not permitted" in answer["because"]:
        pytest.skip(f"this machine refuses it to everyone: {answer['because']}")  # as Docker's own filter does
    assert answer.get("value"), answer


def test_a_process_that_was_ended_for_the_control_is_really_gone(bare: Trial, world: World) -> None:
    pid = world.bystander()
    bare.expect("end_process", pid=pid)
    ENDED.add(pid)
    assert world.bystanders[-1].wait(5) == -signal.SIGTERM


def test_a_child_cannot_become_another_program(confined: Trial) -> None:
    answer = confined.attempt("become_program")
    assert answer["refused"] == "PermissionError"


def test_what_a_step_needs_still_works(confined: Trial) -> None:
    assert confined.expect("work_in_scratch") == "b c"
