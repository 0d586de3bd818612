"""What a model that has taken over the child might try. Each act returns evidence that it worked, or raises."""

import ctypes
import fcntl
import mmap
import os
import resource
import select
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

sys.path.append(os.path.dirname(__file__))  # a control runs this file without the sandbox's import path

from serving import Progress, serve_acts

libc = ctypes.CDLL(None, use_errno=True)


def system_call(*arguments: int) -> int:
    """A raw call by the x86-64 number, as a model with native code would make it."""
    result = libc.syscall(*(ctypes.c_long(argument) for argument in arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


# Files


def read_file(path: str) -> str:
    with open(path, "rb") as file:
        return repr(file.read(64)) or "empty"


def list_folder(path: str) -> list[str]:
    return os.listdir(path)


def query_sqlite(path: str) -> Any:
    with sqlite3.connect(path) as connection:
        return connection.execute("SELECT secret FROM vault").fetchone()


def write_file(path: str) -> str:
    with open(path, "w") as file:
        file.write("planted")
    return path


def append_to_file(path: str) -> str:
    with open(path, "a") as file:
        file.write("planted")
    return path


def empty_by_path(path: str) -> str:
    os.truncate(path, 0)
    return path


def empty_by_opening_for_reading(path: str) -> str:
    os.close(os.open(path, os.O_RDONLY | os.O_TRUNC))
    return path


def delete_file(path: str) -> str:
    os.unlink(path)
    return path


def rename_file(path: str) -> str:
    os.rename(path, path + ".gone")
    return path


def steal_by_rename(path: str) -> str:
    os.rename(path, "stolen")
    return Path("stolen").read_text()


def steal_by_hard_link(path: str) -> str:
    os.link(path, "linked")
    return Path("linked").read_text()


def make_link(path: str) -> str:
    os.symlink(path, "link-to-outside")
    return os.readlink("link-to-outside")


def make_folder(path: str) -> str:
    os.mkdir(path)
    return path


def make_fifo() -> str:
    os.mkfifo("fifo")
    return "fifo"


def empty_own_file_by_path() -> int:
    return _emptied(lambda path: os.truncate(path, 0))


def empty_own_file_by_opening_for_reading() -> int:
    """Where Landlock is old, it would let this happen to files outside as well."""
    return _emptied(lambda path: os.close(os.open(path, os.O_RDONLY | os.O_TRUNC)))


def _emptied(empty: Callable[[str], None]) -> int:
    Path("full").write_text("full")
    empty("full")
    return 1 + os.stat("full").st_size


def open_mode(path: str) -> str:
    os.chmod(path, 0o4777)
    return path


def open_mode_of_readable(path: str) -> str:
    """By a descriptor, which Landlock lets one have of a library."""
    fd = os.open(path, os.O_RDONLY)
    os.fchmod(fd, 0o4777)
    return path


def change_times(path: str) -> str:
    os.utime(path, (0, 0))
    return path


def change_attributes(path: str) -> str:
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.ioctl(fd, 0x40086602, b"\x40" + bytes(7))  # FS_IOC_SETFLAGS, no-dump
    except PermissionError:
        raise
    except OSError as error:  # a file system without such attributes; the call as such went through
        return str(error)
    return path


def set_extended_attribute(path: str) -> str:
    os.setxattr(path, "user.planted", b"1")
    return path


# Network


def ping_tcp(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"PING\r\n")
        return connection.recv(64).decode()


def ping_unix(path: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(path)
        connection.sendall(b"PING\r\n")
        return connection.recv(64).decode()


def connect_abstract(name: str) -> str:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(f"\0{name}")
        return name


def query_postgres(url: str) -> int:
    import psycopg

    with psycopg.connect(url, connect_timeout=5) as connection:
        row = connection.execute("SELECT 42").fetchone()
        assert row is not None
        return int(row[0])


def send_datagram(port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        return sender.sendto(b"secret", ("127.0.0.1", port))


def resolve() -> str:
    return str(socket.getaddrinfo("localhost", 80)[0][4])


def listen() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def pair_sockets() -> str:
    left, right = socket.socketpair()
    left.close()
    right.close()
    return "pair"


# Processes


def fork() -> int:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def fork_raw() -> int:
    child = system_call(57)
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def clone_raw() -> int:
    arguments = (ctypes.c_uint64 * 8)(0, 0, 0, 0, signal.SIGCHLD)
    child = system_call(435, ctypes.addressof(arguments), ctypes.sizeof(arguments))
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    return child


def run_program() -> str:
    return subprocess.run(["/bin/echo", "ran"], check=True, capture_output=True, text=True).stdout


def spawn_program() -> int:
    child = os.posix_spawn("/bin/true", ["true"], {})
    return os.waitpid(child, 0)[1] + 1


def become_program() -> None:
    os.execv("/bin/true", ["true"])


def end_process(pid: int) -> int:
    os.kill(pid, signal.SIGTERM)
    return pid


def end_process_by_descriptor(pid: int) -> int:
    signal.pidfd_send_signal(os.pidfd_open(pid), signal.SIGTERM)
    return pid


def end_process_by_queue(pid: int) -> int:
    info = (ctypes.c_int * 32)(signal.SIGCONT, 0, -1)  # si_code SI_QUEUE
    return 1 + system_call(129, pid, signal.SIGCONT, ctypes.addressof(info))


def probe_process(pid: int) -> int:
    os.kill(pid, 0)
    return pid


def signal_group() -> str:
    os.kill(0, 0)
    return "group"


def own_signals_to(pid: int) -> int:
    readable, _ = os.pipe()
    fcntl.fcntl(readable, fcntl.F_SETOWN, pid)
    return pid


def hold_process(pid: int) -> int:
    return os.pidfd_open(pid)


def trace(pid: int) -> int:
    attach, detach = 16, 17
    if libc.ptrace(attach, pid, None, None) != 0:
        raise OSError(ctypes.get_errno(), "ptrace")
    os.waitpid(pid, 0x40000000)  # __WALL
    libc.ptrace(detach, pid, None, None)
    return pid


def read_memory_of(pid: int, address: int) -> str:
    """process_vm_readv of eight bytes."""
    into = ctypes.create_string_buffer(8)
    vectors = (ctypes.c_uint64 * 4)(ctypes.addressof(into), 8, address, 8)
    base = ctypes.addressof(vectors)
    system_call(310, pid, base, 1, base + 16, 1, 0)
    return into.raw.hex()


def limit_process(pid: int) -> int:
    resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
    return pid


def survive_parent() -> str:
    if libc.prctl(1, 0, 0, 0, 0) != 0:  # PR_SET_PDEATHSIG, none
        raise OSError(ctypes.get_errno(), "prctl")
    return "would survive"


def survive_parent_by_high_bits() -> int:
    """The kernel reads 32 bits of the option; a filter that compares 64 would let this through."""
    return system_call(157, 1 | 1 << 32, 0, 0, 0, 0) + 1


# The kernel


def make_memory_file() -> int:
    fd = os.memfd_create("hidden")
    os.close(fd)
    return fd


def queue_calls() -> int:
    parameters = ctypes.create_string_buffer(120)
    return 1 + system_call(425, 1, ctypes.addressof(parameters))  # io_uring_setup


def share_memory() -> str:
    mmap.mmap(-1, 4096).close()  # anonymous and shared
    return "shared"


def share_memory_sysv() -> int:
    segment = system_call(29, 0, 4096, 0o600 | 0o1000)
    system_call(31, segment, 0, 0)
    return segment + 1


def leave_namespace() -> int:
    return 1 + system_call(272, 0x200)  # unshare(CLONE_FS)


def read_keyring() -> int:
    return system_call(250, 0, -3, 1)  # KEYCTL_GET_KEYRING_ID, session


def open_handle() -> str:
    path = ctypes.create_string_buffer(b"/tmp")
    handle = (ctypes.c_uint32 * 34)(128)
    mount = ctypes.c_int()
    at_cwd = -100
    addresses = [ctypes.addressof(place) for place in (path, handle, mount)]
    system_call(303, at_cwd, *addresses, 0)  # name_to_handle_at
    return f"mount {mount.value}"


def loosen_filter() -> int:
    allow = ctypes.c_uint32(0x7FFF0000)
    return 1 + system_call(317, 2, 0, ctypes.addressof(allow))  # seccomp(SECCOMP_GET_ACTION_AVAIL)


# Beyond the limits


def allocate_endlessly(stop_bytes: int) -> int:
    held: list[bytearray] = []
    while sum(map(len, held)) < stop_bytes:
        held.append(bytearray(os.urandom(1 << 20) * 16))
    return sum(map(len, held))


def allocate_at_once(size: int) -> int:
    return len(bytearray(size))


def reserve_memory(size: int) -> int:
    """Address space that is never touched, so that it is not resident."""
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS):
        return size


def spin(seconds: float) -> str:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGALRM):
        signal.signal(number, signal.SIG_IGN)
    done = threading.Event()
    threading.Timer(seconds, done.set).start()
    while not done.is_set():
        pass
    return "span"


def start_threads(count: int) -> int:
    end = threading.Event()
    started = []
    try:
        for _ in range(count):
            started.append(threading.Thread(target=end.wait, daemon=True))
            started[-1].start()
        return len(started)
    finally:
        if len(started) == count:
            end.set()


def fill_one_file(size: int) -> int:
    with open("big", "wb", buffering=0) as file:
        for _ in range(size >> 20):
            if file.write(bytes(1 << 20)) < 1 << 20:
                raise OSError("short write")
    return size


def reserve_one_file(size: int) -> int:
    with open("reserved", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, size)
    return size


def fill_many_files(size: int) -> int:
    for number in range(size >> 23):
        Path(f"big-{number}").write_bytes(bytes(1 << 23))
    return size


def fill_deleted_files(size: int) -> int:
    held = []
    for _ in range(size >> 23):
        held.append(open("deleted", "wb", buffering=0))  # noqa: SIM115 - kept open on purpose
        os.unlink("deleted")
        held[-1].write(bytes(1 << 23))
    select.select([], [], [], 0.8)
    return size


def make_many_files(count: int) -> int:
    os.mkdir("many")
    for number in range(count):
        os.close(os.open(f"many/{number}", os.O_CREAT | os.O_WRONLY))
    return count


def nest_folders(depth: int) -> int:
    here = os.getcwd()
    for _ in range(depth):
        os.mkdir("d")
        os.chdir("d")
    os.chdir(here)
    return depth


def close_a_folder() -> str:
    os.mkdir("closed", 0o300)
    return "closed"


def print_much(size: int) -> int:
    os.write(1, b"first line\n")
    chunk = b"x" * (1 << 20)
    left = size
    while left > 0:
        left -= os.write(1, chunk[:left])
    os.write(2, b"\nlast line\n")
    return size


# Ends


def die_by(number: int) -> None:
    print("about to die", flush=True)
    os.kill(os.getpid(), number)


def abort() -> None:
    libc.abort()


def leave(code: int) -> None:
    os._exit(code)


def close_pipes() -> None:
    os.closerange(0, 64)
    threading.Event().wait(60)


def start_a_program_and_wait() -> None:
    program = subprocess.Popen(["sleep", "60"])
    Path("starting").write_text(str(program.pid))
    os.rename("starting", "started")
    program.wait()


# What a child may do


def names_in_environment() -> dict[str, str]:
    return dict(os.environ)


def open_files() -> list[list[int]]:
    """Device and inode behind each descriptor."""
    found = []
    for fd in range(1024):
        try:
            status = os.fstat(fd)
        except OSError:
            continue
        found.append([status.st_dev, status.st_ino])
    return found


def work_in_scratch() -> str:
    """Files, folders, renames, temporary files and threads work as a step needs them."""
    import tempfile

    os.makedirs("work/deep")
    Path("work/deep/a").write_bytes(b"x" * 5000)
    os.replace("work/deep/a", "work/b")  # from one folder to another
    shutil.copyfile("work/b", "work/c")
    with open("work/b", "r+b") as file:
        file.truncate(10)
    with tempfile.NamedTemporaryFile() as file, tempfile.TemporaryDirectory():
        assert file.name.startswith(os.getcwd())
    with open(os.devnull, "w") as nothing:
        nothing.write("x")
    shutil.rmtree("work/deep")
    results = []
    thread = threading.Thread(target=lambda: results.append(threading.get_ident()))
    thread.start()
    thread.join()
    assert results
    assert "VmHWM" in Path("/proc/self/status").read_text()
    return " ".join(sorted(os.listdir("work")))


ACTS = {name: act for name, act in list(globals().items()) if callable(act) and not name.startswith("_")}


def serve(scratch: Path, commands: TextIO, progress: Progress) -> None:
    serve_acts(ACTS, scratch, commands, progress)
