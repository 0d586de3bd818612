"""Is the emulation of processors with and without VNNI right to the last bit?

    python -m benchmarks.emulation [--artifacts lite0 minilm]

Real artifacts are run by onnxruntime on this machine, and under `qemu-x86_64 -cpu Haswell` (AVX2, no VNNI; Debian's
`qemu-user`), which carries out the very kernels of such a machine. Against each stands the emulation of its arithmetic:

- outputs: of the artifact as a user would load it, every optimization on;
- products, others: each integer operator by itself, given the inputs that it had there. Products are emulated; the
  others (QLinearAdd, QuantizeLinear, …) are run by onnxruntime on this machine, which shows that their kernels give
  the same on both. So no float operator in between, which may differ in the last bit, has a say.

The row `operators` runs the tests of single operators under emulation of the processor: convolutions and products of
many shapes. Prints a table, and ends with 1 if anything differs.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, helper

from app.domain.recipe import Calibration, StaticInt8
from benchmarks.models import fashion, lite0, minilm
from benchmarks.models.workload import Feed, Workload
from workers.quantization.calibration.collect import collect
from workers.quantization.emulation.arithmetic import Arithmetic, Array
from workers.quantization.emulation.emulator import Emulator, emulate
from workers.quantization.emulation.kernels import KERNELS
from workers.quantization.emulation.lowering import key, lower
from workers.quantization.emulation.prediction import predict
from workers.quantization.emulation.probe import arithmetic_here
from workers.quantization.static import prepare_for
from workers.quantization.technique import Context, quantize

ROOT = Path(__file__).resolve().parents[1]
PROCESSOR = ("qemu-x86_64", "-cpu", "Haswell")
OPERATOR_TESTS = "tests/unit/quantization/test_emulation_kernels.py"
CALIBRATION_ROWS = 8
JUDGED_ROWS = 2


@dataclass(frozen=True, slots=True)
class Artifact:
    """An artifact, its float model, and rows to run; `session_options` go with it."""

    name: str
    path: Path
    original: Path
    feeds: list[Feed]
    session_options: dict[str, str]


@dataclass(frozen=True, slots=True)
class Job:
    """A model to run elsewhere: it writes to `out` every output of every feed, in order."""

    model: str
    feeds: str
    out: str
    session_options: dict[str, str]
    optimized: bool


# Artifacts


def by_us(workload: Workload, out: Path) -> None:
    """Unsigned activations, signed weights by channel, full range: what saturates most."""
    recipe = StaticInt8(calibration=Calibration(method="minmax"), reduce_range=False, recovery=())
    prepared, _, placement = prepare_for(workload.model, recipe)
    rows = list(workload.calibration)[:CALIBRATION_ROWS]
    with tempfile.TemporaryDirectory() as name:
        work, statistics = Path(name, "work"), Path(name, "statistics.npz")
        work.mkdir()
        collect(prepared.model, placement.observed(), lambda: ((row, 1) for row in rows), work).write(statistics)
        quantize(workload.model, out, recipe, Context(work=work, statistics=statistics))


def by_onnxruntime(workload: Workload, out: Path) -> None:
    """onnxruntime's own defaults: both signed, one scale a tensor."""
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    class Rows(CalibrationDataReader):  # type: ignore[misc]
        left = iter(list(workload.calibration)[:CALIBRATION_ROWS])

        def get_next(self) -> dict[str, Array] | None:
            row = next(self.left, None)
            return dict(row) if row is not None else None

    quantize_static(str(workload.model), str(out), Rows())


Maker = Callable[[Workload, Path], None]
ARTIFACTS: dict[str, tuple[Callable[[], Workload], Maker, dict[str, str]]] = {
    "fashion_mobilenet": (fashion.workload, by_us, {}),
    "fashion_mobilenet (onnxruntime's)": (fashion.workload, by_onnxruntime, {}),
    "lite0": (lite0.workload, by_us, {}),
    "lite0 (x64quantprecision)": (lite0.workload, by_us, {"session.x64quantprecision": "1"}),
    "minilm": (minilm.workload, by_us, {}),
}


def build(name: str, folder: Path) -> Artifact:
    """Quantize one of `ARTIFACTS`."""
    workload_of, make, options = ARTIFACTS[name]
    workload, path = workload_of(), folder / "artifact.onnx"
    make(workload, path)
    return Artifact(name, path, workload.model, list(workload.evaluation.feeds)[:JUDGED_ROWS], options)


# Running elsewhere


def run_jobs(manifest: Path) -> None:
    """What the other processor does."""
    for entry in json.loads(manifest.read_text()):
        job = Job(**entry)
        session = _session(Path(job.model), job.session_options, optimized=job.optimized)
        with np.load(job.feeds) as stored:
            rows = [stored[name] for name in stored.files]
        names = [port.name for port in session.get_inputs()]
        feeds = [dict(zip(names, rows[at : at + len(names)], strict=True)) for at in range(0, len(rows), len(names))]
        np.savez(job.out, *(array for feed in feeds for array in session.run(None, feed)))


def elsewhere(
    command: Sequence[str], jobs: Sequence[tuple[ModelProto | Path, list[Feed], bool]], options: dict[str, str]
) -> list[list[Array]]:
    """All outputs of models, by a process that `command` starts; a job is a model, its feeds, and whether optimized."""
    with tempfile.TemporaryDirectory() as name:
        folder, entries = Path(name), []
        for number, (model, feeds, optimized) in enumerate(jobs):
            path = model if isinstance(model, Path) else folder / f"{number}.onnx"
            if not isinstance(model, Path):
                onnx.save(model, path)
            inputs = [port.name for port in _session(path, options, optimized=False).get_inputs()]
            np.savez(folder / f"{number}.feeds.npz", *(feed[port] for feed in feeds for port in inputs))
            out = str(folder / f"{number}.out.npz")
            entry = Job(str(path), str(folder / f"{number}.feeds.npz"), out, options, optimized)
            entries.append({name: getattr(entry, name) for name in Job.__slots__})
        (folder / "jobs.json").write_text(json.dumps(entries))
        _call([*command, sys.executable, "-m", "benchmarks.emulation", "--jobs", str(folder / "jobs.json")])
        found = []
        for entry in entries:
            with np.load(entry["out"]) as stored:
                found.append([stored[name] for name in stored.files])
        return found


def _call(command: Sequence[str]) -> str:
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    return done.stdout


def _session(path: Path, session_options: dict[str, str], *, optimized: bool) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    if not optimized:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    for name, value in session_options.items():
        options.add_session_config_entry(name, value)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


# Single operators of an artifact


def is_integer(node: NodeProto) -> bool:
    """Whether a node is one of the integer operators that a QDQ artifact becomes."""
    return (
        key(node) in KERNELS
        or node.op_type.startswith("QLinear")
        or node.op_type in ("QuantizeLinear", "DequantizeLinear")
    )


def watched(lowered: ModelProto) -> tuple[ModelProto, list[str]]:
    """The model with everything that integer operators read and make among its outputs, and all outputs' names."""
    model = ModelProto()
    model.CopyFrom(lowered)
    given = {tensor.name for tensor in model.graph.initializer} | {value.name for value in model.graph.input}
    touched = [name for node in model.graph.node if is_integer(node) for name in (*node.input, *node.output)]
    names = list(dict.fromkeys([value.name for value in model.graph.output] + touched))
    names = [name for name in names if name and name not in given]
    del model.graph.output[:]
    model.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    return model, names


def apart(lowered: ModelProto) -> ModelProto:
    """The integer operators, each reading inputs of the model (named `given:…`) instead of what others make."""
    model = ModelProto()
    model.CopyFrom(lowered)
    stored = {tensor.name for tensor in model.graph.initializer}
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in lowered.graph.node if is_integer(node)]
    reads: dict[str, None] = {}
    for node in nodes:
        for place, name in enumerate(node.input):
            if name and name not in stored:
                node.input[place] = f"given:{name}"
                reads[f"given:{name}"] = None
    for field in (model.graph.node, model.graph.input, model.graph.output, model.graph.value_info):
        del field[:]
    model.graph.node.extend(nodes)
    model.graph.input.extend(helper.make_empty_tensor_value_info(name) for name in reads)
    return model


# The table


def compare(artifact: Artifact) -> Iterable[tuple[str, str, int, int]]:
    """Processor, what was compared, how many values, and how many of them differ."""
    lowered = lower(artifact.path, artifact.session_options)
    everything, names = watched(lowered)
    one = artifact.feeds[:1]
    jobs = [(artifact.path, artifact.feeds, True), (everything, one, False)]
    seen: list[Array] = []
    for label, command, arithmetic in _processors():
        outputs, inner = elsewhere(command, jobs, artifact.session_options)
        made = emulate(artifact.path, artifact.feeds, arithmetic, session_options=artifact.session_options)
        yield label, f"outputs, {arithmetic}", *_differing([row for found in made for row in found.values()], outputs)
        values = dict(one[0]) | dict(zip(names, inner, strict=True))
        for kind in ("products", "others"):
            nodes = [node for node in lowered.graph.node if is_integer(node)]
            nodes = [node for node in nodes if (key(node) in KERNELS) == (kind == "products")]
            wanted = [name for node in nodes for name in node.output if name]
            emulator = Emulator(apart(lowered), arithmetic, wanted)
            found = emulator.run({f"given:{name}": array for name, array in values.items()})
            counts = _differing([found[name] for name in wanted], [values[name] for name in wanted])
            yield label, f"{len(nodes)} {kind}", *counts
        seen.append(np.concatenate([array.ravel() for array in outputs]))
    yield "both", "outputs, of each other", seen[0].size, int((seen[0] != seen[1]).sum())


def _processors() -> list[tuple[str, tuple[str, ...], Arithmetic]]:
    return [("this one", (), arithmetic_here()), ("Haswell", PROCESSOR, "saturating")]


def _differing(found: Sequence[Array], expected: Sequence[Array]) -> tuple[int, int]:
    pairs = list(zip(found, expected, strict=True))
    if any((one.shape, one.dtype) != (other.shape, other.dtype) for one, other in pairs):
        raise SystemExit("shapes or types differ")
    return sum(one.size for one, _ in pairs), sum(int((one != other).sum()) for one, other in pairs)


def operators() -> str:
    """Run the tests of single operators on the other processor; what pytest says of them."""
    tests = ["--noconftest", "-q", "-p", "no:cacheprovider", "-k", "not features", OPERATOR_TESTS]
    return _call([*PROCESSOR, sys.executable, "-m", "pytest", *tests]).strip().splitlines()[-1]


def report(artifact: Artifact) -> bool:
    """Print an artifact's part of the table and what is predicted for it; whether all is equal."""
    equal = True
    for label, what, count, differing in compare(artifact):
        meant_to_differ = label == "both"
        equal &= meant_to_differ or not differing
        verdict = "" if meant_to_differ else "equal" if not differing else "DIFFERENT"
        print(
            f"{artifact.name:34} {label:9} {what:24} {count:10,} values, {differing:9,} differ  {verdict}", flush=True
        )
    found = predict(artifact.path, artifact.original, artifact.feeds, session_options=artifact.session_options)
    for output in found.outputs:
        print(
            f"{artifact.name:34} predicted {output.name}: {output.exact_sqnr_db:.2f} dB with VNNI, "
            f"{output.saturating_sqnr_db:.2f} without (saturation alone {output.saturation_sqnr_db:.2f})"
        )
    worst = ", ".join(f"{layer.name} {layer.saturated:.3%} {layer.sqnr_db:.1f} dB" for layer in found.layers[:3])
    print(f"{artifact.name:34} worst layers: {worst}", flush=True)
    return equal


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", nargs="*", default=list(ARTIFACTS), choices=list(ARTIFACTS))
    parser.add_argument("--jobs", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.jobs:
        run_jobs(arguments.jobs)
        return
    if shutil.which(PROCESSOR[0]) is None:
        raise SystemExit("qemu-x86_64 is missing: install qemu-user.")
    print(f"onnxruntime {ort.__version__}; this processor's arithmetic: {arithmetic_here()}")
    equal = True
    for name in arguments.artifacts:
        with tempfile.TemporaryDirectory() as folder:
            equal &= report(build(name, Path(folder)))
    print(f"operators on Haswell: {operators()}")
    sys.exit(0 if equal else 1)


if __name__ == "__main__":
    main()
