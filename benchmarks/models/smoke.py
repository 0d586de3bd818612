"""Build every workload and print what its fp32 model scores, beside what it scored when this was written.

python -m benchmarks.models.smoke [lite0] [minilm] [smollm2] [fashion_mobilenet] [fashion_dense] [--cache FOLDER]
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.models import fashion, lite0, minilm, smollm2
from benchmarks.models.workload import CACHE, Workload, session_run

WORKLOADS: dict[str, Callable[[Path], Workload]] = {
    "lite0": lite0.workload,
    "minilm": minilm.workload,
    "smollm2": smollm2.workload,
    "fashion_mobilenet": lambda _: fashion.workload("mobilenet"),
    "fashion_dense": lambda _: fashion.workload("dense"),
}
# onnxruntime 1.32.0, x86-64, one thread; the evaluation part.
MEASURED = {
    "lite0": {"top1": 0.800, "top5": 0.930},
    "minilm": {"lee_pearson": 0.656, "wordsim353_spearman": 0.729},
    "smollm2": {"perplexity": 29.762},
    "fashion_mobilenet": {"top1": 0.924, "top5": 0.998},
    "fashion_dense": {"top1": 0.895, "top5": 0.999},
}


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("workloads", nargs="*", choices=[*WORKLOADS, []])
    parser.add_argument("--cache", type=Path, default=CACHE, help="where built ONNX files are kept")
    arguments = parser.parse_args()
    for name in arguments.workloads or WORKLOADS:
        begun = time.monotonic()
        found = WORKLOADS[name](arguments.cache)
        made = time.monotonic() - begun
        run = session_run(found.model)
        tuning, scores = found.tuning_score(run), found.score(run)
        print(
            f"{name}: made in {made:.1f} s, scored in {time.monotonic() - begun - made:.1f} s; "
            f"{len(found.calibration)} calibration, {len(found.tuning.feeds)} tuning, "
            f"{len(found.evaluation.feeds)} evaluation feeds"
        )
        for metric, value in scores.items():
            print(f"  evaluation {metric:<22} {value:8.4f} (was {MEASURED[name][metric]:.3f})")
        for metric, value in tuning.items():
            print(f"  tuning     {metric:<22} {value:8.4f}")


if __name__ == "__main__":
    main()
