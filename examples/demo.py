"""`make demo`: the shipped models through the running service, and a table of what came of them.

Starts an embedded service on a free loopback port, speaks to it through the client only, and stops it again.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bitpress import Client
from bitpress.types import Job
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

HERE = Path(__file__).resolve().parent
OUTPUT = Path("demo-output")
VARIANTS: dict[str, Sequence[Mapping[str, Any]]] = {
    "fashion_mobilenet.onnx": (
        {"technique": "static_int8", "calibration": {"method": "minmax", "samples": 200}},
        {"technique": "float16"},
    ),
    "fashion_dense.onnx": ({"technique": "dynamic_int8"},),
}
GOAL = {"minimize": "latency", "constraints": [{"metric": "top1", "max_drop": 0.01}]}
# Less than the service's defaults (five fresh children, 2 s each), so that the demo stays under a minute.
QUICK = {"BITPRESS_MEASURE_SECONDS": "0.3", "BITPRESS_REPLICATES": "3"}

console = Console()
if not console.is_terminal:
    console = Console(width=110)  # a file has no width: the tables are whole


@contextmanager
def embedded_service(data_dir: Path) -> Iterator[str]:
    """Run the service in a folder of its own; yields its address."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BITPRESS_")}
    environment |= {"BITPRESS_DATA_DIR": str(data_dir), **QUICK}
    address = data_dir / "address"
    log = data_dir / "supervisor.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "app.embedded", "--port", "0"], env=environment, stdout=output, stderr=output
        )
    try:
        deadline = time.monotonic() + 60
        while not address.exists():
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"The service did not start:\n{log.read_text()}")
            time.sleep(0.05)
        yield address.read_text().strip()
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def optimize(client: Client, model_file: str, datasets: Mapping[str, str], bar: Progress) -> list[Job]:
    """Upload a model and run one job a variant; a bar shows how far each is."""
    model = client.wait_ready(client.upload_model(HERE / model_file))
    jobs = []
    for recipe in VARIANTS[model_file]:
        task = bar.add_task(f"{model['name']}: {recipe['technique']}", total=1.0)
        job = client.submit(
            name=f"{model['name']} {recipe['technique']}",
            model=model["id"],
            datasets=dict(datasets),
            recipe=dict(recipe),
            goal=GOAL,
        )
        ended = client.wait(job, on_progress=lambda now, task=task: bar.update(task, completed=now["progress"]))  # type: ignore[misc]
        if ended["state"] != "succeeded":
            raise SystemExit(f"{ended['name']}: {ended['state']}. {(ended['error'] or {}).get('detail', '')}")
        jobs.append(ended)
    return jobs


def number(measurements: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any]:
    """A measurement by its name."""
    return next(found for found in measurements if found["name"] == name)


def speed(job: Job) -> tuple[float, float, float]:
    """How many times as fast as the original, and between what, by the paired comparison of the two."""
    found = next(each for each in job["candidates"][0]["comparisons"] if each["name"] == "latency_p50")
    return 1 / found["ratio"], 1 / found["ci95"][1], 1 / found["ci95"][0]


def microseconds(measurement: Mapping[str, Any]) -> str:
    """A time as the table shows it, with a star where it is in doubt."""
    return f"{measurement['value'] * 1000:,.0f}" + ("*" if measurement["flags"] else "")


def row(name: str, measurements: Sequence[Mapping[str, Any]], times: float, gate: str) -> list[str]:
    """One line of the table."""
    p50, p99, top1 = (number(measurements, each) for each in ("latency_p50", "latency_p99", "top1"))
    agreement = next((found for found in measurements if found["name"] == "agreement"), None)
    low, high = top1["ci95"]
    return [
        name,
        f"{number(measurements, 'artifact_bytes')['value'] / 1000:,.0f}",
        microseconds(p50),
        microseconds(p99),
        f"{top1['value']:.1%} [{low:.1%}, {high:.1%}]",
        f"{agreement['value']:.1%}" if agreement and agreement["value"] is not None else "",
        f"{times:.2f}",
        gate,
    ]


def conclude(title: str, jobs: Sequence[Job]) -> str:
    """Say which variant is smallest and which fastest, from the numbers alone."""
    sizes: dict[str, float] = {}
    speeds: dict[str, tuple[float, float, float]] = {}
    for job in jobs:
        name = str(job["candidates"][0]["recipe"]["technique"])
        sizes[name] = number(job["candidates"][0]["measurements"], "artifact_bytes")["value"]
        sizes["fp32"] = number(job["baseline"]["measurements"], "artifact_bytes")["value"]  # type: ignore[index]
        speeds[name] = speed(job)
    smallest = min(sizes, key=lambda name: sizes[name])
    fastest = max(speeds, key=lambda name: speeds[name][0])
    times, low, high = speeds[fastest]
    size = f"smallest: {smallest}, {sizes['fp32'] / sizes[smallest]:.1f} × smaller than fp32"
    if low > 1:
        return f"{title}: {size}; fastest: {fastest}, {times:.2f} × fp32 ({low:.2f} to {high:.2f})."
    why = f"the best variant, {fastest}, is {times:.2f} × as fast ({low:.2f} to {high:.2f})"
    return f"{title}: {size}; fastest: keep fp32, {why}."


def main() -> None:
    """Run the demo."""
    begun = time.monotonic()
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    with tempfile.TemporaryDirectory(prefix="bitpress-demo-") as folder:
        data_dir = Path(folder)
        # Jobs work below this folder as a user without rights, who must be able to pass through.
        data_dir.chmod(0o711)
        console.print("Starting the service …")
        with embedded_service(data_dir) as address:
            key = (data_dir / "api_key").read_text().strip()
            with Client(address, key) as client:
                results = run_jobs(client)
                show(client, results, client.targets())
    console.print(f"Done in {time.monotonic() - begun:.0f} s; the service is stopped.")


def run_jobs(client: Client) -> dict[str, list[Job]]:
    """Upload the data and optimize every example."""
    roles = ("calibration", "tuning", "evaluation")
    datasets = {role: client.wait_ready(client.upload_dataset(HERE / f"{role}.npz"))["id"] for role in roles}
    columns = (TextColumn("{task.description:<34}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as bar:
        return {name: optimize(client, name, datasets, bar) for name in VARIANTS}


def show(client: Client, results: Mapping[str, list[Job]], targets: Sequence[Mapping[str, Any]]) -> None:
    """Print the tables and conclusions, and fetch the artifacts with their manifests and reports."""
    machine = targets[0]["fingerprint"]
    console.print(f"\nOn {machine['model_name']}, {machine['cores']} cores, one thread, batch 1:")
    conclusions, files = [], []
    for name, jobs in results.items():
        stem = Path(name).stem
        table = Table(title=stem, title_justify="left", box=None, pad_edge=False)
        for heading in ("variant", "kB", "p50 µs", "p99 µs", "top-1 [95 %]", "agreement", "× fp32", "gate"):
            table.add_column(heading, justify="left" if heading in ("variant", "gate") else "right", no_wrap=True)
        baseline = jobs[0]["baseline"]["measurements"]  # type: ignore[index]
        table.add_row(*row("fp32", baseline, 1.0, ""))
        for job in jobs:
            candidate = job["candidates"][0]
            technique = str(candidate["recipe"]["technique"])
            table.add_row(*row(technique, candidate["measurements"], speed(job)[0], str(job["gate"])))
            files.append(fetch(client, job, f"{stem}-{technique}"))
        print(trimmed(table))
        conclusions.append(conclude(stem, jobs))
    console.print("\n".join(conclusions), soft_wrap=True)
    console.print("\nArtifact, manifest and report of each variant:")
    for artifact in files:
        console.print(f"  {artifact}, {artifact.stem}.manifest.json, {artifact.stem}.report.json", soft_wrap=True)


def trimmed(table: Table) -> str:
    """A table as the console shows it, without the spaces that fill up its lines."""
    with console.capture() as captured:
        console.print(table)
    return re.sub(r" +((?:\x1b\[[0-9;]*m)*)$", r"\1", captured.get().rstrip("\n"), flags=re.MULTILINE)


def fetch(client: Client, job: Job, stem: str) -> Path:
    """Download a job's artifact, its manifest and its report."""
    artifact = job["artifacts"][0]
    path = client.download(artifact, OUTPUT / f"{stem}.onnx")
    (OUTPUT / f"{stem}.manifest.json").write_text(_pretty(client.manifest(artifact)))
    (OUTPUT / f"{stem}.report.json").write_text(_pretty(client.report(job["id"])))
    return path


def _pretty(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
