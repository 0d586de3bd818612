"""The HTTP server alone, a process of its own on SQLite, a folder and a broker of files; no worker."""

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from app import wiring
from app.db.session import Database
from app.embedded import free_port
from app.migrate import migrate
from app.settings import Settings
from tests.parts.deployment import Deployment

ROOT = Path(__file__).resolve().parents[2]
KEY = "a-key-for-tests-only"


@dataclass(frozen=True)
class Server:
    """A running server, and its services in this process, to fill its tables with."""

    url: str
    log: Path
    deployment: Deployment


@contextlib.contextmanager
def running_server(folder: Path, **environment: str) -> Iterator[Server]:
    """Start a server on a free port and stop it again; its log is shown when it does not come up."""
    settings = Settings(data_dir=folder, api_key=KEY)
    database = Database(wiring.database_url(settings))
    migrate(database)
    database.dispose()
    port, log = free_port("127.0.0.1", 0), folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port)],
            cwd=ROOT,
            env={**os.environ, "BITPRESS_DATA_DIR": str(folder), "BITPRESS_API_KEY": KEY, **environment},
            stdout=output,
            stderr=output,
        )
    services = wiring.build(settings)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 60
        while not _answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)
        yield Server(url, log, Deployment(services, folder))
    finally:
        services.close()
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"{url}/healthz").status_code == 200
    return False
