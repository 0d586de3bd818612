"""The whole service as its users meet it: processes of its own, spoken to over HTTP."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from app.db.session import Database

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"


def wait_until(holds: Callable[[], Any], *, seconds: float = 60.0, what: str = "it", every: float = 0.05) -> Any:
    """Wait until something holds, and return what it gave; fails the test when it never does."""
    deadline = time.monotonic() + seconds
    while True:
        if found := holds():
            return found
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(every)


@dataclass
class Service:
    """A running service: its supervisor, where it keeps things, and how to reach it."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    environment: dict[str, str]
    api: httpx.Client
    database: Database
    made: dict[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> str:
        return self.environment.get("BITPRESS_API_KEY") or (self.data_dir / "api_key").read_text().strip()

    @property
    def url(self) -> str:
        return str(self.api.base_url).rstrip("/")

    def processes(self, *words: str) -> list[psutil.Process]:
        """Descendants of the supervisor whose command line has all these words."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                line = " ".join(process.cmdline())
            except psutil.Error:
                continue
            if all(word in line for word in words):
                found.append(process)
        return found

    def job_worker(self) -> list[psutil.Process]:
        """The processes of the job worker: its main one and the one it forked."""
        return self.processes("workers.celery_app", "jobs.")

    def sandbox_children(self) -> list[psutil.Process]:
        """Confined children at work."""
        return self.processes("sandbox/entry.py")

    def upload(self, kind: str, path: Path, **fields: str) -> dict[str, Any]:
        """Upload a file and wait until it is inspected."""
        with path.open("rb") as file:
            answer = self.api.post(f"/v1/{kind}", files={"file": (path.name, file)}, data=fields)
        assert answer.status_code == 201, answer.text
        return self.inspected(kind, answer.json()["id"])

    def inspected(self, kind: str, upload_id: str) -> dict[str, Any]:
        def done() -> dict[str, Any] | None:
            body: dict[str, Any] = self.api.get(f"/v1/{kind}/{upload_id}").json()
            return body if body["state"] != "inspecting" else None

        body: dict[str, Any] = wait_until(done, what=f"the inspection of {upload_id}")
        return body

    def example(self, name: str) -> str:
        """Id of a shipped example file, uploaded once."""
        if name not in self.made:
            kind = "models" if name.endswith(".onnx") else "datasets"
            found = self.upload(kind, EXAMPLES / name)
            assert found["state"] == "ready", found
            self.made[name] = found["id"]
        upload_id: str = self.made[name]
        return upload_id

    def some_rows(self, name: str, rows: int = 300) -> str:
        """Id of the first rows of a shipped dataset, for jobs of which only the course matters."""
        made = f"{rows} of {name}"
        if made not in self.made:
            with np.load(EXAMPLES / name) as whole:
                np.savez(self.data_dir / name, **{column: values[:rows] for column, values in whole.items()})
            self.made[made] = self.upload("datasets", self.data_dir / name)["id"]
        dataset_id: str = self.made[made]
        return dataset_id

    def submit(self, **spec: Any) -> dict[str, Any]:
        answer = self.api.post("/v1/jobs", json=spec)
        assert answer.status_code == 202, answer.text
        body: dict[str, Any] = answer.json()
        return body

    def job(self, job_id: str) -> dict[str, Any]:
        body: dict[str, Any] = self.api.get(f"/v1/jobs/{job_id}").json()
        return body

    def ended(self, job_id: str, *, seconds: float = 120.0) -> dict[str, Any]:
        """Wait for a job's end."""

        def done() -> dict[str, Any] | None:
            body = self.job(job_id)
            return body if body["state"] in ("succeeded", "failed", "cancelled") else None

        try:
            body: dict[str, Any] = wait_until(done, seconds=seconds, what=f"the end of {job_id}", every=0.1)
        except AssertionError as error:
            raise AssertionError(f"{error}:\n{self.log_tails()}") from None
        return body

    def log_tails(self, lines: int = 30) -> str:
        """The end of each process's log, for what should not have happened."""
        logs = sorted((self.data_dir / "logs").glob("*.log"))
        return "\n".join(
            f"--- {log.name}\n" + "\n".join(log.read_text(errors="replace").splitlines()[-lines:]) for log in logs
        )

    def scratch_folders(self) -> list[Path]:
        """Folders of jobs and inspections at work."""
        return [path for path in (self.data_dir / "scratch").glob("*/*") if path.name[:4] in ("job_", "mdl_", "dst_")]


@contextmanager
def running_service(data_dir: Path, **environment: str) -> Iterator[Service]:
    """Start the service on a free port and stop it again; its logs are shown when it does not come up."""
    data_dir.mkdir(parents=True, exist_ok=True)
    full = {
        **{name: value for name, value in os.environ.items() if not name.startswith("BITPRESS_")},
        "BITPRESS_DATA_DIR": str(data_dir),
        # Other tests on this machine are nothing to wait for.
        "BITPRESS_MACHINE_LOCK_DIR": str(data_dir),
        **environment,
    }
    with (data_dir / "supervisor.log").open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.embedded", "--port", "0"],
            env=full,
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        address = data_dir / "address"
        wait_until(lambda: address.exists() or process.poll() is not None, what="the service's address")
        assert process.poll() is None, (data_dir / "supervisor.log").read_text()
        key = environment.get("BITPRESS_API_KEY") or (data_dir / "api_key").read_text().strip()
        with httpx.Client(
            base_url=address.read_text().strip(), headers={"Authorization": f"Bearer {key}"}, timeout=70
        ) as api:
            _await_ready(api, data_dir / "logs")
            database = Database(full.get("BITPRESS_DATABASE_URL") or f"sqlite:///{data_dir / 'bitpress.sqlite'}")
            yield Service(process, data_dir, full, api, database)
            database.dispose()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(api: httpx.Client, logs: Path) -> None:
    said = "nothing"

    def ready() -> bool:
        nonlocal said
        try:
            answer = api.get("/readyz")
        except httpx.TransportError as error:
            said = repr(error)
            return False
        said = answer.text
        return answer.status_code == 200 and answer.json()["warnings"] == []

    try:
        wait_until(ready, what=f"a ready service; see {logs}")
    except AssertionError as error:
        raise AssertionError(f"{error}. It last said: {said}") from None
