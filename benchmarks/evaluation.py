"""Whether the numbers of `kind: evaluate` can be believed, through the running service.

`python -m benchmarks.evaluation repeat neighbour loop overhead` runs the parts that are named, all without names:

- repeat: ten evaluations of one model, at one thread and at two: how far their medians agree, and what is flagged
- neighbour: the same while another process keeps a processor busy: the quiet median inside the interval, or a flag
- loop: medians beside those of a bare loop and of the way that onnxruntime_perf_test times, in fresh processes, in turn
- overhead: what of an evaluation of half a minute is not the model's own runs

Needs a machine with nothing else at work but what a part starts itself. `--model` names an ONNX file; the shipped
example's otherwise. `--threads` are those to time with.
"""

import argparse
import json
import multiprocessing
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.parts.service import EXAMPLES, Service, running_service

EVALUATIONS = 10
ROUNDS = 6
LOOP_SECONDS = 2.0

_BARE_LOOP = """
import sys, time, json
import numpy as np, onnxruntime as ort
path, threads, seconds, way = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
options = ort.SessionOptions()
options.intra_op_num_threads = threads
options.inter_op_num_threads = 1
session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
rng = np.random.default_rng(0)
feeds = {
    each.name: rng.standard_normal([size if isinstance(size, int) else 1 for size in each.shape]).astype(np.float32)
    for each in session.get_inputs()
}
if way == "perf_test":
    # Values bound once, one run to warm up, then runs for a time: perf_test's main loop.
    binding = session.io_binding()
    for name, values in feeds.items():
        binding.bind_cpu_input(name, values)
    for output in session.get_outputs():
        binding.bind_output(output.name)
    call = lambda: session.run_with_iobinding(binding)
    call()
else:
    call = lambda: session.run(None, feeds)
    for _ in range(50):
        call()
samples, end = [], time.perf_counter() + seconds
while time.perf_counter() < end:
    begun = time.perf_counter()
    call()
    samples.append(time.perf_counter() - begun)
print(json.dumps(float(np.median(samples)) * 1e3))
"""


def evaluate(service: Service, model: str, **measure: Any) -> dict[str, Any]:
    """One evaluation to its end."""
    job = service.submit(kind="evaluate", model=model, measure=measure)
    ended = service.ended(job["id"], seconds=600)
    if ended["state"] != "succeeded":
        raise SystemExit(f"{ended['state']}: {ended['error']}")
    return ended


def p50(job: dict[str, Any]) -> dict[str, Any]:
    """The median latency of an evaluation."""
    found: dict[str, Any] = next(each for each in job["baseline"]["measurements"] if each["name"] == "latency_p50")
    return found


def line(found: dict[str, Any]) -> str:
    """A latency with its interval, children and flags."""
    low, high = found["ci95"]
    children = found["conditions"]["children"]
    return f"{found['value']:9.4f} ms [{low:.4f}, {high:.4f}] {children:>3} children  {', '.join(found['flags'])}"


def repeat(service: Service, model: str, path: Path, threads_of: Sequence[int]) -> None:
    """Ten evaluations after one another."""
    for threads in threads_of:
        print(f"\n{EVALUATIONS} evaluations, {threads} thread{'s' * (threads > 1)}")
        found = [p50(evaluate(service, model, threads=[threads])) for _ in range(EVALUATIONS)]
        for each in found:
            print("  " + line(each), flush=True)
        values = [each["value"] for each in found]
        flagged = sum(bool(each["flags"]) for each in found)
        middle = statistics.median(values)
        covered = sum(each["ci95"][0] <= middle <= each["ci95"][1] for each in found)
        print(
            f"  from {min(values) / middle - 1:+.1%} to {max(values) / middle - 1:+.1%} of their median "
            f"{middle:.4f} ms; {flagged} flagged; {covered} of {EVALUATIONS} intervals hold that median"
        )


def _spin() -> None:
    while True:
        pass


@contextmanager
def busy(processes: int) -> Iterator[None]:
    """Other processes that do nothing but compute."""
    found = [multiprocessing.Process(target=_spin, daemon=True) for _ in range(processes)]
    for process in found:
        process.start()
    try:
        yield
    finally:
        for process in found:
            process.terminate()
            process.join()


def neighbour(service: Service, model: str, path: Path, threads_of: Sequence[int]) -> None:
    """Quiet, then beside one and two busy processes."""
    for threads in threads_of:
        quiet = p50(evaluate(service, model, threads=[threads]))
        print(f"\n{threads} thread{'s' * (threads > 1)}, quiet:     {line(quiet)}", flush=True)
        for processes in (1, 2):
            with busy(processes):
                found = p50(evaluate(service, model, threads=[threads]))
            low, high = found["ci95"]
            honest = "covers the quiet median" if low <= quiet["value"] <= high else ""
            honest += " and " * bool(honest and found["flags"]) + "flagged" * bool(found["flags"])
            print(f"  {processes} busy beside: {line(found)}: {honest or 'NEITHER covers nor flagged'}", flush=True)


def _loop(path: Path, threads: int, way: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _BARE_LOOP, str(path), str(threads), str(LOOP_SECONDS), way],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout))


def loop(service: Service, model: str, path: Path, threads_of: Sequence[int]) -> None:
    """Evaluations and bare loops in turn, each loop in five fresh processes."""
    for threads in threads_of:
        ours: list[float] = []
        others: dict[str, list[float]] = {"bare loop": [], "perf_test": []}
        for _ in range(ROUNDS):
            ours.append(p50(evaluate(service, model, threads=[threads]))["value"])
            for way, found in others.items():
                found.append(statistics.median(_loop(path, threads, way) for _ in range(5)))
        print(f"\n{threads} thread{'s' * (threads > 1)}, over {ROUNDS} rounds: ours {_spread(ours)}", flush=True)
        for way, found in others.items():
            ratio = statistics.median(one / other for one, other in zip(ours, found, strict=True))
            print(f"  {way:<10} {_spread(found)}; ours / its: {ratio:.3f}", flush=True)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.4f} ms ({min(values):.4f} to {max(values):.4f})"


def overhead(service: Service, model: str, path: Path, threads_of: Sequence[int]) -> None:
    """The job's wall time less the seconds that the model ran, with the first thread count."""
    data = {"evaluation": service.example("evaluation.npz")} if path.parent == EXAMPLES else {}
    for seconds in (None, 30.0):
        measure: dict[str, Any] = {"threads": [threads_of[0]]}
        measure |= {} if seconds is None else {"seconds": seconds, "width": 0.001}
        begun = time.monotonic()
        job = service.submit(kind="evaluate", model=model, datasets=data, measure=measure)
        job = service.ended(job["id"], seconds=600)
        wall = time.monotonic() - begun
        report = service.api.get(job["links"]["report"]).json()
        running = sum(step.get("running_seconds") or 0.0 for step in report["steps"])
        print(f"\nmeasure.seconds {seconds or 'left out'}: {wall:.1f} s, the model ran for {running:.1f} s: ", end="")
        print(f"{1 - running / wall:.1%} of the time went elsewhere")
        for step in report["steps"]:
            print(f"  {step['step']:<28}{step['seconds']:>8.2f} s, running {step.get('running_seconds') or 0:.2f} s")


PARTS: dict[str, Callable[[Service, str, Path, Sequence[int]], None]] = {
    "repeat": repeat,
    "neighbour": neighbour,
    "loop": loop,
    "overhead": overhead,
}


def main() -> None:
    """Run the parts that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", help=", ".join(PARTS))
    parser.add_argument("--model", type=Path, default=EXAMPLES / "fashion_mobilenet.onnx")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    given = parser.parse_args()
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory(prefix="bitpress-evaluation-") as folder:
        Path(folder).chmod(0o711)
        with running_service(Path(folder)) as service:
            model = service.upload("models", given.model)["id"]
            for name in given.parts or PARTS:
                print(f"\n== {name}: {given.model.name}")
                PARTS[name](service, model, given.model, given.threads)


if __name__ == "__main__":
    main()
