"""The running service against the figures it has to reach, in one run.

`python benchmarks/service.py start polls queue overhead transfer` runs the parts that are named, all without names:

- start: time until /readyz answers and the server's memory
- polls: 500 callers in `?wait=30`: connections, threads, memory, and how soon each sees a change
- queue: `POST /v1/jobs` to `running`, with Redis, Postgres and S3, and embedded
- overhead: a job's wall time beside the same steps run one after another by a plain script
- transfer: 600 MB up and down beside obstore's own, on S3 and on a folder
"""

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import numpy as np
import obstore
import psutil
from obstore.store import LocalStore, S3Store

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.db.tables import Job
from app.migrate import migrate
from benchmarks.running import free_port
from tests.parts.databases import fresh_postgres_database, postgres_server
from tests.parts.redis_server import redis_database
from tests.parts.seaweedfs import S3Server, start_seaweedfs
from tests.parts.service import Service, running_service, wait_until

MB = 1_000_000
UPLOAD_BYTES = 600 * MB


@contextmanager
def production(folder: Path) -> Iterator[tuple[dict[str, str], S3Server]]:
    """Settings of real parts."""
    with ExitStack() as parts:
        server = parts.enter_context(postgres_server(folder / "pg"))
        database = parts.enter_context(fresh_postgres_database(server))
        broker = parts.enter_context(redis_database(folder / "redis", 12))
        s3 = parts.enter_context(start_seaweedfs(folder / "s3"))
        settings = {
            "BITPRESS_DATABASE_URL": database,
            "BITPRESS_BROKER_URL": broker,
            "BITPRESS_STORE_URL": f"s3://{s3.bucket}",
            "BITPRESS_S3_ENDPOINT": s3.endpoint,
            "BITPRESS_S3_ACCESS_KEY_ID": s3.access_key_id,
            "BITPRESS_S3_SECRET_ACCESS_KEY": s3.secret_access_key,
            "BITPRESS_S3_REGION": s3.region,
            "BITPRESS_S3_ALLOW_HTTP": "true",
            "BITPRESS_API_KEY": "a-key-for-benchmarks",
        }
        yield settings, s3


def report(what: str, found: str, asked: str) -> None:
    """One line of the table."""
    print(f"{what:<58}{found:>22}   {asked}", flush=True)


def server_process(service: Service) -> psutil.Process:
    """The process that answers HTTP."""
    found = service.processes("uvicorn")
    assert len(found) == 1
    return found[0]


def bench_start(folder: Path) -> None:
    """Start the server alone, on a database that is there already."""
    from app.db.session import Database

    times, sizes = [], []
    url = f"sqlite:///{folder / 'bitpress.sqlite'}"
    database = Database(url)
    migrate(database)
    database.dispose()
    for _ in range(5):
        port = free_port()
        begun = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "uvicorn", "--factory", "app.main:create_app", "--port", str(port)],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "BITPRESS_DATA_DIR": str(folder)},
        )
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200:
                    break
            except httpx.TransportError:
                time.sleep(0.01)
        times.append(time.monotonic() - begun)
        sizes.append(psutil.Process(process.pid).memory_info().rss / MB)
        process.terminate()
        process.wait()
    report("server ready, median of 5", f"{statistics.median(times):.2f} s", "< 2 s")
    report("server memory when ready", f"{statistics.median(sizes):.0f} MB", "< 150 MB")


async def _poll(url: str, key: str, job_id: str, etag: str, seen: list[float]) -> None:
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=60, limits=limits) as client:
        answer = await client.get(
            f"/v1/jobs/{job_id}", params={"wait": 30}, headers={"If-None-Match": etag, "Authorization": f"Bearer {key}"}
        )
        assert answer.status_code == 200, answer.status_code
        seen.append(time.monotonic())


def bench_polls(folder: Path) -> None:
    """500 callers wait for one job while it changes once."""
    with production(folder) as (settings, _), running_service(folder / "data", **settings) as service:
        for process in service.job_worker():
            process.suspend()
        model = service.upload("models", Path(__file__).parents[1] / "examples" / "fashion_dense.onnx")["id"]
        job_id = service.submit(model=model, recipe={"technique": "float16"})["id"]
        with service.database.write() as session:
            session.get_one(Job, job_id).state = "running"
        etag = service.api.get(f"/v1/jobs/{job_id}").headers["etag"]
        server = server_process(service)
        before = server.num_threads()
        seen: list[float] = []

        async def everybody() -> float:
            callers = [asyncio.create_task(_poll(service.url, service.key, job_id, etag, seen)) for _ in range(500)]
            await asyncio.to_thread(wait_until, lambda: len(server.net_connections()) >= 500, every=0.1)
            await asyncio.sleep(2)
            measured.extend((server.memory_info().rss / MB, server.num_threads(), _database_connections(service)))

            def change() -> float:
                with service.database.write() as session:
                    session.get_one(Job, job_id).version += 1
                return time.monotonic()

            changed = await asyncio.to_thread(change)
            await asyncio.gather(*callers)
            return changed

        measured: list[float] = []
        changed = asyncio.run(everybody())
        delays = sorted(moment - changed for moment in seen)
        report("500 callers in ?wait=30: server memory", f"{measured[0]:.0f} MB", "< 200 MB")
        report("  threads of the server (before)", f"{measured[1]:.0f} ({before})", "not one each")
        report("  its database connections", f"{measured[2]:.0f}", "not one each")
        report("  change seen: median, last", f"{delays[250]:.2f} s, {delays[-1]:.2f} s", "< 1 s")


def _database_connections(service: Service) -> int:
    import psycopg

    with psycopg.connect(service.environment["BITPRESS_DATABASE_URL"]) as connection:
        row = connection.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()").fetchone()
        assert row
        return int(row[0])


def _start_delays(service: Service, runs: int) -> list[float]:
    """Seconds from the POST to the row's `running`, by the database's clock."""
    model = service.upload("models", Path(__file__).parents[1] / "examples" / "fashion_dense.onnx")["id"]
    delays = []
    for _ in range(runs):
        begun = time.time()
        job_id = service.submit(model=model, recipe={"technique": "float16"})["id"]

        def started(job_id: str = job_id) -> int | None:
            with service.database.read() as session:
                return session.get_one(Job, job_id).started_at

        delays.append(wait_until(started, every=0.01) / 1000 - begun)
        service.api.post(f"/v1/jobs/{job_id}/cancel")
        service.ended(job_id)
        time.sleep(0.3)
    return delays


def bench_queue(folder: Path) -> None:
    """How long a job waits for an idle worker."""
    with production(folder / "p") as (settings, _), running_service(folder / "p" / "data", **settings) as service:
        report("POST to running, Redis + Postgres + S3, median of 15",
               f"{statistics.median(_start_delays(service, 15)) * 1000:.0f} ms", "< 150 ms")  # fmt: skip
    for broker in ("redis", "filesystem"):
        with running_service(folder / broker, BITPRESS_EMBEDDED_BROKER=broker) as service:
            report(f"POST to running, embedded ({broker}), median of 15",
                   f"{statistics.median(_start_delays(service, 15)) * 1000:.0f} ms", "< 1000 ms")  # fmt: skip


def bench_overhead(folder: Path) -> None:
    """A job's wall time, less that of its steps run by the plain script `benchmarks/plain_job.py`."""
    from benchmarks.plain_job import run_plainly

    with running_service(folder / "data") as service:
        datasets = {role: service.example(f"{role}.npz") for role in ("calibration", "evaluation")}
        spec = {
            "model": service.example("fashion_mobilenet.onnx"),
            "datasets": datasets,
            "recipe": {"technique": "static_int8", "calibration": {"samples": 64}},
        }
        ours, plain = [], []
        for number in range(3):
            begun = time.monotonic()
            body = service.ended(service.submit(**spec)["id"])
            assert body["state"] == "succeeded", body
            ours.append(time.monotonic() - begun)
            plain.append(run_plainly(folder / f"plain-{number}", body))
        report("one job, median of 3", f"{statistics.median(ours):.2f} s", "")
        report("the same steps by a plain script", f"{statistics.median(plain):.2f} s", "")
        overhead = statistics.median(mine - its for mine, its in zip(ours, plain, strict=True))
        report("  overhead", f"{overhead:.2f} s", "< 2 s")


class PeakMemory:
    """The highest resident memory of a process while the block runs, in MB above what it was before."""

    def __init__(self, process: psutil.Process) -> None:
        self._process = process
        self._stop = threading.Event()
        self._before = process.memory_info().rss
        self.grown = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "PeakMemory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(0.02):
            self.grown = max(self.grown, (self._process.memory_info().rss - self._before) / MB)


def bench_transfer(folder: Path) -> None:
    """600 MB through the service, and through obstore alone, on the same store, turn by turn."""
    file = folder / "large.npz"
    rng = np.random.default_rng(0)
    with file.open("wb") as opened:
        for _ in range(UPLOAD_BYTES // (20 * MB)):
            opened.write(rng.bytes(20 * MB))
    with production(folder / "p") as (settings, s3):
        bucket = S3Store(
            s3.bucket, endpoint=s3.endpoint, region=s3.region, access_key_id=s3.access_key_id,
            secret_access_key=s3.secret_access_key, client_options={"allow_http": True},
        )  # fmt: skip
        with running_service(folder / "p" / "data", **settings) as service:
            _transfer("S3", service, file, bucket, 0.70)
    plain = folder / "plain-objects"
    plain.mkdir()
    with running_service(folder / "local") as service:
        _transfer("folder", service, file, LocalStore(plain), 0.45)


def _transfer(kind: str, service: Service, file: Path, store: S3Store | LocalStore, asked: float) -> None:
    for process in service.processes("workers.celery_app"):
        process.suspend()  # an inspector at work on 600 MB would disturb
    server = server_process(service)
    up: dict[str, list[float]] = {"ours": [], "obstore": []}
    down: dict[str, list[float]] = {"ours": [], "obstore": []}
    grown = []
    for number in range(3):
        with file.open("r+b") as opened:  # other bytes each time, or they would be stored once
            opened.write(number.to_bytes(8, "big"))
        up["obstore"].append(_timed(lambda: obstore.put(store, "plain", file)))
        down["obstore"].append(_timed(lambda: _drain(store)))
        obstore.delete(store, "plain")
        with PeakMemory(server) as memory:
            made: list[str] = []
            up["ours"].append(_timed(lambda made=made: made.append(_upload(service, file))))  # type: ignore[misc]
            down["ours"].append(_timed(lambda made=made: _download(service, made[0])))  # type: ignore[misc]
        grown.append(memory.grown)
        service.api.delete(f"/v1/datasets/{made[0]}")
    for name, times in (("up", up), ("down", down)):
        mine, its = (UPLOAD_BYTES / MB / statistics.median(times[who]) for who in ("ours", "obstore"))
        report(f"600 MB {name}, {kind}: ours, obstore", f"{mine:.0f}, {its:.0f} MB/s", "")
        report("  share of obstore's", f"{mine / its:.0%}", f"≥ {asked:.0%}")
    report("  server memory grew by at most", f"{max(grown):.0f} MB", "< 64 MB")


def _timed(work: Callable[[], object]) -> float:
    begun = time.monotonic()
    work()
    return time.monotonic() - begun


def _drain(store: S3Store | LocalStore) -> None:
    for _ in obstore.get(store, "plain").stream():
        pass


def _upload(service: Service, file: Path) -> str:
    """By curl, which costs less than any Python client."""
    printed = subprocess.run(
        ["curl", "-sS", "-H", f"Authorization: Bearer {service.key}", "-H", "Expect:", "-F", f"file=@{file}",
         f"{service.url}/v1/datasets"],
        check=True, capture_output=True, text=True,
    ).stdout  # fmt: skip
    import json

    upload_id: str = json.loads(printed)["id"]
    return upload_id


def _download(service: Service, upload_id: str) -> None:
    subprocess.run(
        ["curl", "-sS", "-o", os.devnull, "-H", f"Authorization: Bearer {service.key}",
         f"{service.url}/v1/datasets/{upload_id}/content"],
        check=True,
    )  # fmt: skip


PARTS: dict[str, Callable[[Path], None]] = {
    "start": bench_start,
    "polls": bench_polls,
    "queue": bench_queue,
    "overhead": bench_overhead,
    "transfer": bench_transfer,
}


def main() -> None:
    """Run the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="parts to run; all without")
    for name in parser.parse_args().parts or PARTS:
        with tempfile.TemporaryDirectory(prefix="bitpress-bench-", ignore_cleanup_errors=True) as folder:
            Path(folder).chmod(0o711)
            PARTS[name](Path(folder))


if __name__ == "__main__":
    main()
