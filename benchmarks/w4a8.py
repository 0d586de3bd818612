"""What 4-bit weights and 8-bit activations cost, by plain rounding and by the steps that learn.

    python -m benchmarks.w4a8 [lite0] [fashion_mobilenet]

`static_int8` with `weight_bits: 4`, made as a job makes it from all rows that are not for evaluation: top-1 on the
evaluation part and agreement with fp32, with 95 % intervals, SQNR of the outputs, and the time to make it. Nothing is
kept.
"""

import argparse
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.models import tuxpaint
from benchmarks.models.lite0 import feed
from benchmarks.models.smoke import WORKLOADS
from benchmarks.models.tuxpaint import VIEWS
from benchmarks.models.workload import CACHE, Feed, Workload, session_run
from benchmarks.quantization.judging import Figure, interval
from benchmarks.quantization.ours import make
from workers.evaluation.metrics.sqnr_db import decibel

UNLABELLED = 260
RECOVERIES: Mapping[str, Sequence[str]] = {
    "plain": [],
    "learned": ["bias_correction", "learned_rounding"],
}


def photographs(workload: Workload) -> list[Feed]:
    """Two views of each photograph of lite0 that is not for evaluation, and one each of others, which have no labels.

    What is learned from forty photographs alone fits the last blocks to them.
    """
    own = [given for number, given in enumerate(_rows(workload)) if (number // VIEWS + number) % 2]
    rows = [*own, *(feed(pixels) for pixels in tuxpaint.unlabelled(UNLABELLED))]
    random.Random(1).shuffle(rows)
    return rows


def _rows(workload: Workload) -> list[Feed]:
    return [*workload.calibration, *workload.tuning.feeds]


FEEDS: Mapping[str, Callable[[Workload], list[Feed]]] = {"lite0": photographs, "fashion_mobilenet": _rows}


def table(name: str) -> None:
    """Print a model's rows as they are made."""
    workload = WORKLOADS[name](CACHE)
    feeds = FEEDS[name](workload)
    exact, hits, clusters = _answers(workload, workload.model, {})
    print(f"{name}, fp32: top-1 {_shown(interval(hits, clusters))}; {len(feeds)} rows to make it from", flush=True)
    for way, recovery in RECOVERIES.items():
        with tempfile.TemporaryDirectory() as folder:
            out, begun = Path(folder, "model.onnx"), time.perf_counter()
            options: dict[str, Any] = {
                "technique": "static_int8",
                "weight_bits": 4,
                "recovery": list(recovery),
                "calibration": {"method": "mse", "samples": len(feeds)},
            }
            entries = make(workload.model, feeds, out, **options)
            seconds = time.perf_counter() - begun
            found, hits, _ = _answers(workload, out, entries)
        same = interval((found.argmax(-1) == exact.argmax(-1)).astype(np.float64), clusters)
        noise = decibel(float(np.square(exact).sum()), float(np.square(found - exact).sum()))
        print(
            f"  {way:<10}top-1 {_shown(interval(hits, clusters))}   agreement {_shown(same)}   "
            f"SQNR {noise:5.1f} dB   {seconds:5.0f} s",
            flush=True,
        )


def _answers(
    workload: Workload, model: Path, entries: Mapping[str, str]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Logits [rows, classes] on the evaluation part, whether each row's first class is right, and its cluster."""
    run, logits = session_run(model, entries=entries), []

    def kept(given: Feed) -> Mapping[str, NDArray[Any]]:
        outputs = run(given)
        logits.append(outputs["logits"])
        return outputs

    scores = workload.evaluation.judge(kept)
    hits = scores.items["top1"]
    clusters = scores.clusters if scores.clusters.size else np.arange(len(hits))
    return np.concatenate(logits).astype(np.float64), hits, clusters


def _shown(figure: Figure) -> str:
    return f"{figure.value:6.1%} ({figure.low:.1%} to {figure.high:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", choices=[*FEEDS, []], help="all of them where none is named")
    for name in parser.parse_args().models or FEEDS:
        table(name)


if __name__ == "__main__":
    main()
