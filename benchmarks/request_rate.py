"""Requests a second of `GET /v1/jobs/{id}` beside a bare FastAPI route, in one run, on Postgres.

200 jobs are asked for in turn, so that no answer can be shared.

`python benchmarks/request_rate.py [--seconds 5]` (needs wrk, from Debian's package of that name)
"""

import argparse
import os
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.db.session import Database
from app.db.tables import Blob, Job, Model
from app.migrate import migrate
from benchmarks.running import free_port, until_it_answers
from tests.parts.databases import fresh_postgres_database, postgres_server

BARE = """
from fastapi import FastAPI
app = FastAPI()

@app.get("/bare")
async def bare():
    return {"status": "ok"}
"""


@contextmanager
def uvicorn(target: str, environment: dict[str, str], *more: str, folder: str | None = None) -> Iterator[str]:
    """Serve an application on a free port; yields its address."""
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", target, "--port", str(port), "--log-level", "warning"]
    process = subprocess.Popen([*command, *more], env={**os.environ, **environment}, cwd=folder)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


JOBS = 200
# Each request asks for the next of the paths: reads of one job alone could be answered from one row.
IN_TURN = """
local turn = 0
request = function()
  turn = turn % #paths + 1
  return wrk.format("GET", paths[turn], headers)
end
"""


def rate(url: str, paths: list[str], seconds: int, folder: Path, **headers: str) -> float:
    """Requests a second by wrk with 16 connections; fails when an answer is not 2xx or 3xx."""
    listed = ", ".join(f'"{path}"' for path in paths)
    given = ", ".join(f"[\"{name.replace('_', '-')}\"] = '{value}'" for name, value in headers.items())
    script = folder / "in_turn.lua"
    script.write_text(f"local paths = {{{listed}}}\nlocal headers = {{{given}}}\n{IN_TURN}")
    printed = subprocess.run(
        ["wrk", "-t1", "-c16", f"-d{seconds}s", "-s", str(script), url], check=True, capture_output=True, text=True
    ).stdout
    assert "Non-2xx" not in printed, printed
    found = re.search(r"Requests/sec:\s+([\d.]+)", printed)
    assert found, printed
    return float(found.group(1))


def insert_jobs(database: Database) -> list[str]:
    """Ended jobs with specifications and outcomes of the usual size; returns their ids."""
    ids = [f"job_{number:026}" for number in range(JOBS)]
    spec = {"labels": {}, "recipe": {"technique": "static_int8"}, "datasets": {}, "goal": None}
    measurement = {
        "name": "latency_p50", "value": 1.25, "unit": "ms", "better": "lower", "method": "measured", "reason": None,
        "ci95": [1.2, 1.3], "count": 5, "conditions": {"threads": 1, "batch": 1}, "flags": [],
    }  # fmt: skip
    candidate = {"id": "cnd_1", "recipe": spec["recipe"], "measurements": [measurement] * 14, "comparisons": []}
    with database.write() as session:
        session.add(Blob(id="blb_1", location="x", state="stored", sha256="0" * 64, bytes=1, created_at=1))
        session.flush()
        session.add(
            Model(id="mdl_1", name="m", file_name="m", state="ready", bytes=1, sha256="0" * 64, created_at=1,
                  blob_id="blb_1", inspection={}, error=None)
        )  # fmt: skip
        session.flush()
        session.add_all(
            Job(id=job_id, kind="optimize", state="succeeded", target="local", priority=5, model_id="mdl_1", spec=spec,
                outcome={"baseline": {"measurements": [measurement] * 10}, "candidates": [candidate]},
                queue_until=1, created_at=1, progress=1.0)
            for job_id in ids
        )  # fmt: skip
    return ids


def main() -> None:
    """Print the rates and their ratios to the bare route's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    key = secrets.token_urlsafe(24)
    with tempfile.TemporaryDirectory() as folder, postgres_server(Path(folder)) as server:
        (Path(folder) / "bare_app.py").write_text(BARE)
        with fresh_postgres_database(server) as url:
            database = Database(url.replace("postgresql://", "postgresql+psycopg://", 1))
            migrate(database)
            paths = [f"/v1/jobs/{job_id}" for job_id in insert_jobs(database)]
            database.dispose()
            settings = {
                "BITPRESS_DATABASE_URL": url,
                "BITPRESS_API_KEY": key,
                "BITPRESS_DATA_DIR": folder,
                "BITPRESS_STORE_URL": "memory://",
            }
            with (
                uvicorn("bare_app:app", {"PYTHONPATH": folder}) as bare,
                uvicorn("app.main:create_app", settings, "--factory") as ours,
            ):
                until_it_answers(f"{bare}/bare")
                until_it_answers(f"{ours}/healthz")
                known = {"Authorization": f"Bearer {key}"}
                etag = httpx.get(ours + paths[0], headers=known).headers["etag"]
                rates: dict[str, list[float]] = {"bare": [], "200": [], "304": []}
                for _ in range(given.rounds):
                    for name, url, asked, headers in (
                        ("bare", bare, ["/bare"], {}),
                        ("200", ours, paths, known),
                        ("304", ours, paths, known | {"If_None_Match": etag}),
                    ):
                        rates[name].append(rate(url, asked, given.seconds, Path(folder), **headers))
                    time.sleep(0.2)
    best = {name: sorted(values)[len(values) // 2] for name, values in rates.items()}
    print(f"{'route':<32}{'requests/s':>12}{'of bare':>10}{'asked':>8}")
    for name, label, asked in (
        ("bare", "bare FastAPI route", ""),
        ("200", "GET /v1/jobs/{id}, 200", "≥ 15 %"),
        ("304", "GET /v1/jobs/{id}, 304", "≥ 20 %"),
    ):
        print(f"{label:<32}{best[name]:>12.0f}{best[name] / best['bare']:>10.1%}{asked:>8}")


if __name__ == "__main__":
    main()
