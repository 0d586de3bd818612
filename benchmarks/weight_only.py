"""Weight-only quantization beside every algorithm that onnxruntime ships, at the same bits and block sizes.

    pip install --no-deps --target .bench-peers onnx_ir sympy mpmath
    export PYTHONPATH=.bench-peers OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python -m benchmarks.weight_only [smollm2|minilm|large]

onnxruntime's quantizer imports onnx_ir, and its HQQ torch. Every peer's `accuracy_level` is 4 where it has one, as ours
is; GPTQ has the same calibration rows as ours, with its defaults and with its better options (actorder, mse). Peers
that fail are listed with their error. `smollm2` and `minilm` score the evaluation part, which nothing was chosen on;
steps (one token after 64; a document) are of one thread, blocks of calls of both models in turn, medians of rounds.
`large` compares with copying the files, and takes the memory from a process of its own.
"""

import argparse
import contextlib
import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import onnx
import onnxruntime as ort

from app.domain.recipe import WeightOnly
from benchmarks.models import minilm, smollm2
from benchmarks.models.workload import CACHE, Feed, Run, Workload, session_run
from workers.hardware.probe import probe
from workers.quantization.technique import Context, quantize, resolve

ALGORITHMS = ("rtn", "mse", "hqq", "gptq", "awq")
BLOCKS = (64, 128)
ROUNDS, CALLS, SECONDS = 9, 8, 1.5


@dataclass(frozen=True)
class Entry:
    """One row: who, how it makes its model in a folder, and how large a block it takes."""

    name: str
    block: int
    make: Callable[[Path], Path]


@dataclass(frozen=True)
class Task:
    """A workload and the step that is timed on it."""

    workload: Workload
    step: Callable[[Run], Feed]
    scores: tuple[str, ...]


def smollm2_task() -> Task:
    return Task(smollm2.workload(), lambda run: smollm2.decode_step(run, 64), ("perplexity",))


def minilm_task() -> Task:
    workload = minilm.workload()
    return Task(workload, lambda run: workload.evaluation.feeds[0], ("wordsim353_spearman", "lee_pearson"))


def ours(task: Task, block: int, features: frozenset[str], **options: Any) -> Callable[[Path], Path]:
    """Make our artifact with `auto` resolved for this machine."""

    def make(folder: Path) -> Path:
        out = folder / "model.onnx"
        recipe = resolve(WeightOnly(block_size=block, samples=1000, **options), features)  # type: ignore[arg-type]
        context = Context(
            work=folder, features=features, feeds=lambda: ((feed, 1) for feed in task.workload.calibration)
        )
        return quantize(task.workload.model, out, recipe, context).file

    return make


def peer(task: Task, block: int, configure: Callable[[Any], dict[str, Any]]) -> Callable[[Path], Path]:
    """Make onnxruntime's artifact; `configure` is given the module of its quantizer."""

    def make(folder: Path) -> Path:
        from onnxruntime.quantization import matmul_nbits_quantizer as peers

        quantizer = peers.MatMulNBitsQuantizer(
            onnx.load(task.workload.model), block_size=block, accuracy_level=4, **configure(peers)
        )
        with contextlib.redirect_stdout(sys.stderr):  # it draws progress bars
            quantizer.process()
        quantizer.model.save_model_to_file(str(folder / "model.onnx"), False)
        return folder / "model.onnx"

    return make


def peers_of(task: Task, block: int) -> Iterator[Entry]:
    """Every algorithm of onnxruntime 1.32's MatMulNBitsQuantizer that needs no other library's model format."""

    class Reader:
        """Calibration rows, as its GPTQ iterates over them."""

        def __iter__(self) -> Iterator[dict[str, Any]]:
            return (dict(feed) for feed in task.workload.calibration)

    def gptq(peers: Any, symmetric: bool, **options: Any) -> dict[str, Any]:
        config = peers.GPTQWeightOnlyQuantConfig(calibration_data_reader=Reader(), block_size=128, **options)
        return {"is_symmetric": symmetric, "algo_config": config}

    for symmetric in (True, False):
        kind = "symmetric" if symmetric else "asymmetric"
        configurations: dict[str, Callable[[Any], dict[str, Any]]] = {
            "default": lambda peers, symmetric=symmetric: {"is_symmetric": symmetric},
            "RTN": lambda peers, symmetric=symmetric: {
                "is_symmetric": symmetric,
                "algo_config": peers.RTNWeightOnlyQuantConfig(),
            },
            "k-quant": lambda peers, symmetric=symmetric: {
                "is_symmetric": symmetric,
                "algo_config": peers.KQuantWeightOnlyQuantConfig(),
            },
            "GPTQ": lambda peers, symmetric=symmetric: gptq(peers, symmetric),
            "GPTQ, actorder and mse": lambda peers, symmetric=symmetric: gptq(
                peers, symmetric, actorder=True, mse=True
            ),
        }
        for name, configure in configurations.items():
            yield Entry(f"ort {name}, {kind}", block, peer(task, block, configure))
    hqq = peer(task, block, lambda peers: {"algo_config": peers.HQQWeightOnlyQuantConfig(block_size=block)})
    yield Entry("ort HQQ", block, hqq)


def entries(task: Task, blocks: Sequence[int], features: frozenset[str]) -> Iterator[Entry]:
    for block in blocks:
        for algorithm in ALGORITHMS:
            yield Entry(f"ours {algorithm}", block, ours(task, block, features, algorithm=algorithm))
        yield Entry("ours awq, level 0", block, ours(task, block, features, algorithm="awq", accuracy_level=0))
        yield Entry("ours awq, heads 8", block, ours(task, block, features, algorithm="awq", heads="8"))
        yield from peers_of(task, block)


def size_mb(path: Path) -> float:
    """Of a model and its external data, in 10^6 bytes."""
    return sum(found.stat().st_size for found in path.parent.glob(f"{path.name}*")) / 1e6


def step_ms(first: Run, second: Run, feed: Feed) -> tuple[float, float]:
    """The second's milliseconds a call, and how many times faster than the first it is.

    Blocks of calls in turn; the median over rounds of the blocks' medians, and of their ratios, so that what slows
    both for a while counts for neither.
    """
    rounds = [(_block_ms(first, feed), _block_ms(second, feed)) for _ in range(ROUNDS)]
    return median(after for _, after in rounds), median(before / after for before, after in rounds)


def _block_ms(run: Run, feed: Feed) -> float:
    run(feed)
    found: list[float] = []
    while len(found) < CALLS and sum(found) < SECONDS:
        start = time.perf_counter()
        run(feed)
        found.append(time.perf_counter() - start)
    return median(found) * 1e3


def table(task: Task, folder: Path, chosen: Sequence[Entry]) -> None:
    """Print a row as soon as it is measured. A model that lies in `folder` already is not made again."""
    original = session_run(task.workload.model)
    feed = task.step(original)
    scores = task.workload.score(original)
    shown = "  ".join(f"{name} {scores[name]:.4f}" for name in task.scores)
    print(f"{'fp32':38} {'':>5}  {shown}  {'':8} {'':7} {size_mb(task.workload.model):7.1f} MB", flush=True)
    for entry in chosen:
        place = folder / f"{task.workload.name} {entry.name} {entry.block}".replace(",", "").replace(" ", "_")
        try:
            began = time.perf_counter()
            made = place / "model.onnx"
            if not (place / "made").exists():
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir(parents=True)
                made = entry.make(place)
                (place / "made").write_text(f"{time.perf_counter() - began:.1f}")
            run = session_run(made)
            scores = task.workload.score(run)
            step, faster = step_ms(original, run, feed)
        except (Exception, SystemExit) as error:  # a peer ends the process where it has no way on
            reason = " ".join(str(error).split())[:110]
            print(f"{entry.name:38} {entry.block:5}  fails: {type(error).__name__}: {reason}", flush=True)
            continue
        shown = "  ".join(f"{name} {scores[name]:.4f}" for name in task.scores)
        seconds = (place / "made").read_text()
        print(
            f"{entry.name:38} {entry.block:5}  {shown}  {step:6.2f} ms  {faster:5.2f} x  "
            f"{size_mb(made):6.1f} MB  made in {seconds} s",
            flush=True,
        )


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


def large(folder: Path, repeats: int, threads: int, only: Sequence[str]) -> None:
    """Wall time and peak memory of quantizing a model over 4 GB in a process of its own, against copying its files."""
    model = smollm2.build(folder, repeats)
    data = model.with_name(model.name + ".data")
    bytes_ = model.stat().st_size + data.stat().st_size
    print(f"{model.name}: {bytes_ / 1e9:.2f} GB, {threads} threads; 4 bits, block 64", flush=True)
    for algorithm, allowed in (("rtn", 3), ("mse", 12), ("hqq", 40)):
        if not any(part in algorithm for part in only):
            continue
        copies = []
        out = folder / "large"
        for _ in range(2):
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir()
            copies.append(copy_seconds([model, data], out))
        shutil.rmtree(out)
        out.mkdir()
        command = [
            sys.executable,
            "-m",
            "benchmarks.weight_only",
            "child",
            str(model),
            str(out),
            algorithm,
            str(threads),
        ]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        wall, peak = map(float, done.stdout.split())
        copied = median(copies)
        print(
            f"ours {algorithm:5} {wall:7.1f} s  {wall / copied:5.1f} x the copy ({copied:.1f} s; allowed {allowed})  "
            f"peak {peak / 1e9:.2f} GB  result {size_mb(out / 'model.onnx') / 1e3:.2f} GB",
            flush=True,
        )
    shutil.rmtree(out)


def child(model: Path, out: Path, algorithm: str, threads: int) -> None:
    """Quantize once, synced to the disk; prints wall seconds and peak resident bytes."""
    began = time.perf_counter()
    context = Context(work=out, features=this_machine(), threads=threads)
    recipe = resolve(WeightOnly(block_size=64, algorithm=algorithm), context.features)  # type: ignore[arg-type]
    quantize(model, out / "model.onnx", recipe, context)
    for file in out.iterdir():
        with file.open("rb") as written:
            os.fsync(written.fileno())
    wall = time.perf_counter() - began
    # Not getrusage: its peak is that of the process which started this one, if that was larger.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(wall, int(status["VmHWM"].split()[0]) * 1024)


def this_machine() -> frozenset[str]:
    """The features that `auto` decides by."""
    return frozenset(probe().features)


TASKS: Mapping[str, Callable[[], Task]] = {"smollm2": smollm2_task, "minilm": minilm_task}


def main(arguments: Sequence[str]) -> None:
    if arguments[:1] == ["child"]:
        child(Path(arguments[1]), Path(arguments[2]), arguments[3], int(arguments[4]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=(*TASKS, "large"), nargs="?", default="smollm2")
    parser.add_argument("--folder", type=Path, default=CACHE / "weight_only", help="models are kept here")
    parser.add_argument("--blocks", type=int, nargs="+", default=BLOCKS)
    parser.add_argument("--only", nargs="+", default=[""], help="rows whose name holds one of these")
    parser.add_argument("--repeats", type=int, default=10, help="of the layers, for `large`")
    parser.add_argument("--threads", type=int, default=2, help="for `large`")
    given = parser.parse_args(arguments)
    given.folder.mkdir(parents=True, exist_ok=True)
    print(f"onnxruntime {ort.__version__}, {platform.machine()}, {probe().model_name}", flush=True)
    if given.what == "large":
        large(given.folder, given.repeats, given.threads, given.only)
        return
    task = TASKS[given.what]()
    chosen = [
        entry for entry in entries(task, given.blocks, this_machine()) if any(part in entry.name for part in given.only)
    ]
    table(task, given.folder, chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
