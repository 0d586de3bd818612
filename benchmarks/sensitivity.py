"""Does the sensitivity analysis find what measuring every layer by itself finds, and for how much less?

    python -m benchmarks.sensitivity [--models lite0 minilm] [--rows 16] [--probed 4] [--tensors]

Each model is quantized as `static_int8` does it on this processor, without recovery. By brute force, every layer is
quantized alone, and kept in float alone, in a model of its own that runs all rows; the analysis probes a few of them.
Prints for both: rank correlation and deviation of the outputs' SQNR, wall time (loading included), and the work in runs
of the float model over all rows. `--tensors` does the same for every tensor, which takes two to three times as long.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

from app.domain.recipe import Calibration, StaticInt8
from benchmarks.models import fashion, lite0, minilm
from benchmarks.models.workload import Feed, Workload
from workers.hardware.cpu import read_cpu
from workers.quantization.calibration.collect import collect
from workers.quantization.qdq.plan import Plan, make_plan
from workers.quantization.recovery.measuring import Judge
from workers.quantization.sensitivity.analysis import analyse
from workers.quantization.sensitivity.choosing import keep_precise, predicted_db
from workers.quantization.sensitivity.origins import weight_key
from workers.quantization.sensitivity.parts import (
    activation_alone,
    activation_kept,
    float_model,
    layer_alone,
    layers_kept,
    layers_of,
    weight_alone,
    weight_kept,
)
from workers.quantization.sensitivity.result import Sensitivity
from workers.quantization.static import prepare_for
from workers.quantization.technique import resolve

WORKLOADS: dict[str, Callable[[], Workload]] = {
    "lite0": lite0.workload,
    "minilm": minilm.workload,
    "fashion": fashion.workload,
}
CALIBRATION_ROWS = 16
GAINS_DB = (3.0, 6.0)
NOTHING_DB = 110.0
"""Above it, what there is of noise is float32's."""

Found = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Measured:
    """SQNR of the outputs in dB by part, and the seconds that it took."""

    decibels: Found
    seconds: float


def planned(workload: Workload, folder: Path) -> Plan:
    """A plan with this processor's choices and ranges of least squared error."""
    recipe = resolve(StaticInt8(recovery=()), frozenset(read_cpu().features))
    assert isinstance(recipe, StaticInt8)
    recipe = recipe.model_copy(update={"calibration": Calibration(method="mse")})
    prepared, setting, placement = prepare_for(workload.model, recipe)
    rows = list(workload.calibration)[:CALIBRATION_ROWS]
    seen = collect(prepared.model, placement.observed(), lambda: ((row, 1) for row in rows), folder)
    return make_plan(prepared.model, seen, setting, placement)


def brute_force(plans: Mapping[str, Callable[[], Plan]], judge: Judge) -> Measured:
    """Run a model for each part."""
    started = time.perf_counter()
    decibels = {name: judge.fidelity(make()).pooled_db for name, make in plans.items()}
    return Measured(decibels, time.perf_counter() - started)


def compare(what: str, found: Found, measured: Measured) -> None:
    """Print a line of the table."""
    names = list(measured.decibels)
    ours, theirs = (
        np.minimum([decibels[name] for name in names], NOTHING_DB) for decibels in (found, measured.decibels)
    )
    rank = float(spearmanr(ours, theirs).statistic)
    off = np.abs(ours - theirs)
    print(
        f"  {what:22} {len(names):4} parts   Spearman {rank:6.3f}   deviation {off.mean():5.2f} dB, at most "
        f"{off.max():5.2f}   brute force {measured.seconds:6.1f} s",
        flush=True,
    )


def layers(plan: Plan, result: Sensitivity, judge: Judge) -> None:
    """Compare layer by layer."""
    parts = layers_of(plan)
    alone = brute_force({part.node: lambda part=part: layer_alone(plan, part) for part in parts}, judge)  # type: ignore[misc]
    compare("layers, alone", {layer.node: layer.alone.sqnr_db for layer in result.layers}, alone)
    without = brute_force(
        {part.node: lambda part=part: layers_kept(plan, [part.node]) for part in parts},  # type: ignore[misc]
        judge,
    )
    compare("layers, all but", {layer.node: layer.without.sqnr_db for layer in result.layers}, without)


def tensors(plan: Plan, result: Sensitivity, judge: Judge) -> None:
    """Compare tensor by tensor."""
    weights, names = {weight_key(weight): weight for weight in plan.placement.weights}, plan.placement.observed()
    alone = {key: lambda weight=weight: weight_alone(plan, weight) for key, weight in weights.items()}  # type: ignore[misc]
    alone |= {name: lambda name=name: activation_alone(plan, name) for name in names}  # type: ignore[misc]
    compare("tensors, alone", {each.key: each.alone.sqnr_db for each in result.tensors}, brute_force(alone, judge))
    without = {key: lambda weight=weight: weight_kept(plan, weight) for key, weight in weights.items()}  # type: ignore[misc]
    without |= {name: lambda name=name: activation_kept(plan, name) for name in names}  # type: ignore[misc]
    compare(
        "tensors, all but", {each.key: each.without.sqnr_db for each in result.tensors}, brute_force(without, judge)
    )


def report(workload: Workload, rows: int, probed: int, *, with_tensors: bool) -> None:
    """Print one model's part of the table."""
    feeds: list[Feed] = list(workload.tuning.feeds)
    feeds = feeds[:: max(1, len(feeds) // rows)][:rows]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plan = planned(workload, folder)
        started = time.perf_counter()
        result = analyse(plan, feeds, folder, probed=probed)
        seconds = time.perf_counter() - started
        cost = result.cost
        print(
            f"{workload.name}: {len(feeds)} rows, {result.probed} probed; outputs {result.total.sqnr_db:.1f} dB; "
            f"noises add up to {result.additivity_db:+.2f} dB of it\n"
            f"  analysis {seconds:.1f} s, {cost.model_runs:.1f} model runs ({cost.session_runs} of sessions); "
            f"brute force {cost.brute_force_layers} model runs for layers, {cost.brute_force} with tensors"
        )
        for check in result.checks:
            print(f"  checked: {check.predicted_db:.2f} dB predicted, {check.measured_db:.2f} measured")
        judge = Judge(float_model(plan), [], feeds, folder)
        for gain in GAINS_DB:
            target = result.total.sqnr_db + gain
            kept = keep_precise(result, target_db=target)
            measured = judge.fidelity(layers_kept(plan, kept)).pooled_db
            print(
                f"  {target:.1f} dB wanted: {len(kept)} of {len(result.layers)} layers in float, "
                f"{predicted_db(result, kept):.2f} dB predicted, {measured:.2f} measured"
            )
        layers(plan, result, judge)
        if with_tensors:
            tensors(plan, result, judge)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="*", default=["lite0", "minilm"], choices=list(WORKLOADS))
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--probed", type=int, default=4)
    parser.add_argument("--tensors", action="store_true")
    arguments = parser.parse_args()
    for name in arguments.models:
        report(WORKLOADS[name](), arguments.rows, arguments.probed, with_tensors=arguments.tensors)


if __name__ == "__main__":
    main()
