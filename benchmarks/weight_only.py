"""Weight-only quantization of a model over 4 GB, against copying its files: wall time, and memory of a process.

    OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 python -m benchmarks.weight_only

The model is SmolLM2 with its layers repeated, its weights as external data. Copies are synced to the disk, and so is
what is quantized. How well the algorithms do stands in the table of benchmarks/quantization.
"""

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from app.domain.recipe import RECIPE
from benchmarks.models import smollm2
from benchmarks.models.workload import CACHE
from workers.hardware.probe import probe
from workers.quantization.technique import Context, quantize, resolve

LIMITS = {"rtn": 3, "mse": 12, "hqq": 40}
"""Times the copy's wall time that each algorithm may take (issue 3)."""

MOST_GB = 1.5
COPIES = 2


def copy_seconds(files: Sequence[Path], folder: Path) -> float:
    """Wall time of copying files into a folder, each synced to the disk."""
    began = time.perf_counter()
    for file in files:
        target = folder / file.name
        with file.open("rb") as source, target.open("wb") as copy:
            shutil.copyfileobj(source, copy, 1 << 24)
            copy.flush()
            os.fsync(copy.fileno())
    return time.perf_counter() - began


def emptied(folder: Path) -> Path:
    """The folder without what was in it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def measure(model: Path, out: Path, algorithm: str, block: int, threads: int) -> None:
    """Print what one algorithm takes, beside the copies made just before."""
    files = [model, model.with_name(f"{model.name}.data")]
    copied = median(copy_seconds(files, emptied(out)) for _ in range(COPIES))
    arguments = [str(model), str(emptied(out)), algorithm, str(block), str(threads)]
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.weight_only", "child", *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    wall, peak = map(float, done.stdout.split())
    size = sum(file.stat().st_size for file in out.iterdir())
    print(
        f"{algorithm:5} {wall:7.1f} s  {wall / copied:5.1f} x the copy ({copied:.1f} s; allowed {LIMITS[algorithm]})  "
        f"peak {peak / 1e9:.2f} GB (allowed {MOST_GB})  result {size / 1e9:.2f} GB",
        flush=True,
    )


def child(model: Path, out: Path, algorithm: str, block: int, threads: int) -> None:
    """Quantize once, synced to the disk; prints wall seconds and peak resident bytes."""
    began = time.perf_counter()
    features = frozenset(probe().features)
    recipe = resolve(
        RECIPE.validate_python({"technique": "weight_only", "algorithm": algorithm, "block_size": block}), features
    )
    quantize(model, out / "model.onnx", recipe, Context(work=out, features=features, threads=threads))
    for file in out.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    wall = time.perf_counter() - began
    # Not getrusage: its peak is that of the process which started this one, if that was larger.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(wall, int(status["VmHWM"].split()[0]) * 1024)


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["child"]:
        model, out, algorithm, block, threads = arguments[1:]
        child(Path(model), Path(out), algorithm, int(block), int(threads))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("algorithms", nargs="*", choices=[*LIMITS, []])
    parser.add_argument("--folder", type=Path, default=CACHE / "weight_only", help="where the model is, or is made")
    parser.add_argument("--block", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=10, help="of the layers")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    model = smollm2.build(given.folder, given.repeats)
    size = sum(file.stat().st_size for file in given.folder.glob(f"{model.name}*"))
    print(f"{model.name}: {size / 1e9:.2f} GB, {given.threads} threads; 4 bits, block {given.block}", flush=True)
    for algorithm in given.algorithms or LIMITS:
        measure(model, given.folder / "quantized", algorithm, given.block, given.threads)
    shutil.rmtree(given.folder / "quantized")


if __name__ == "__main__":
    main(sys.argv[1:])
