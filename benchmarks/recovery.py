"""What each recovery step brings on real models: SQNR of the outputs before and after, on rows that it never saw.

    python -m benchmarks.recovery [STEP ...]

Each step alone, from a plan by `calibration.method` minmax or as its row says; fitted to calibration rows, judged on
the first evaluation rows. A step that gains less than half a decibel on every model would not be worth its code.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import Any

from app.domain.recipe import Calibration, CalibrationMethod, StaticInt8
from app.errors import StepError
from benchmarks.models.smoke import WORKLOADS
from benchmarks.models.workload import CACHE, Feed
from workers.quantization.calibration.collect import collect
from workers.quantization.qdq.plan import Plan, make_plan
from workers.quantization.recovery.bias_correction import bias_correction
from workers.quantization.recovery.ladder import judge_for
from workers.quantization.recovery.material import Material
from workers.quantization.static import prepare_for
from workers.runtimes.session import available_threads

LEAST_DB = 0.5
FITTED, JUDGED = 64, 48


@dataclass(frozen=True, slots=True)
class Case:
    """A step on a model, with the options of `static_int8` that it is tried under."""

    step: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    method: CalibrationMethod = "minmax"
    corrected: bool = False
    """Whether biases are corrected before and after, as the ladder does."""

    def __str__(self) -> str:
        options = [f"{name} {value}" for name, value in self.options.items()]
        return ", ".join([self.model, self.method, *options, *(["biases corrected"] if self.corrected else [])])


SEVEN = {"reduce_range": True}  # the same on every processor
FOUR = {"weight_bits": 4}
BY_TENSOR = {"per_channel": False, "reduce_range": True}
CASES = (
    Case("bias_correction", "lite0", SEVEN, "mse"),
    Case("bias_correction", "minilm", SEVEN),
    Case("equalization", "lite0", SEVEN, "mse"),
    Case("equalization", "fashion_mobilenet", FOUR),
    Case("smoothquant", "minilm", SEVEN),
    Case("clip_search", "lite0", FOUR, "mse"),
    Case("clip_search", "minilm", FOUR),
    # What it gives back is found by emulation; how much that brings holds natively where sums saturate.
    Case("full_range", "lite0", {"reduce_range": "by_layer"}, "mse", corrected=True),
    Case("range_tuning", "fashion_mobilenet", SEVEN),
    Case("range_tuning", "lite0", SEVEN, "mse"),
    Case("learned_rounding", "fashion_mobilenet", FOUR),
    Case("learned_rounding", "lite0", FOUR, "mse"),
)


def gain(case: Case) -> float:
    """Print a case's row; returns what was gained in dB."""
    workload = WORKLOADS[case.model](CACHE)
    options = StaticInt8(calibration=Calibration(method=case.method), **case.options)
    prepared, setting, placement = prepare_for(workload.model, options)
    threads = available_threads()

    def feeds(of: Any = workload.calibration, count: int = FITTED) -> Iterator[tuple[Feed, int]]:
        return ((feed, 1) for feed in islice(of, count))

    with tempfile.TemporaryDirectory() as name:
        seen = collect(prepared.model, placement.observed(), feeds, Path(name), threads=threads)
        material = Material(feeds, feeds, setting, Path(name), threads=threads)
        plan = make_plan(prepared.model, seen, setting, placement)
        judge = judge_for(plan, material, lambda: feeds(workload.evaluation.feeds, JUDGED))

        def fidelity(of: Plan) -> float:
            return judge.fidelity(bias_correction(of, material) if case.corrected else of).output_db

        before = fidelity(plan)
        begun = time.perf_counter()
        try:
            changed = getattr(import_module(f"workers.quantization.recovery.{case.step}"), case.step)(plan, material)
        except StepError as error:
            print(f"{case.step:<18}{case!s:<58}{before:8.2f}   not taken: {error.detail}", flush=True)
            return 0.0
        seconds = time.perf_counter() - begun
        after = fidelity(changed)
    print(f"{case.step:<18}{case!s:<58}{before:8.2f}{after:8.2f}{after - before:+8.2f}{seconds:8.0f} s", flush=True)
    return after - before


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    steps = list(dict.fromkeys(case.step for case in CASES))
    parser.add_argument("steps", nargs="*", choices=[*steps, []], help="all of them where none is named")
    given = parser.parse_args()
    print(f"{'':<76}{'before':>8}{'after':>8}{'gain':>8}   dB; time")
    best = {step: max(gain(case) for case in CASES if case.step == step) for step in given.steps or steps}
    sys.exit(0 if all(value >= LEAST_DB for value in best.values()) else 1)


if __name__ == "__main__":
    main()
