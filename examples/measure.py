"""Quantize the shipped models with onnxruntime's own quantizer and time each variant, without the service.

Usage: `python examples/measure.py [--replicates 5] [--source FOLDER]`. Prints the table of README.md: the plain
script that the service's own figures can be held against. Needs onnxruntime, onnx and numpy.

Every replicate is a fresh process with one thread at batch 1. In it blocks of 40 calls alternate between the
original and the variant, the order reversed each round; before that the original is timed against a second
session of itself, and a replicate in which that ratio leaves 0.98 to 1.02 is counted as disturbed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from make_data import SOURCE, read_images
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

HERE = Path(__file__).parent
CALLS, ROUNDS, WARM_UP = 40, 40, 50


class CalibrationImages(CalibrationDataReader):  # type: ignore[misc]
    """Hands the quantizer the 256 calibration images, one at a time."""

    def __init__(self) -> None:
        with np.load(HERE / "calibration.npz") as data:
            self._images = iter(data["image"])

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        image = next(self._images, None)
        return None if image is None else {"image": image[np.newaxis]}


def float16(original: Path, variant: Path) -> None:
    onnx.save(convert_float_to_float16(onnx.load(original), keep_io_types=True), variant)


# `reduce_range` gives weights 7 bits: AVX2's 8-bit kernels without VNNI add pairs of products in 16 bits, and
# those saturate (onnxruntime's documentation, "Quantize ONNX models", on U8S8).
def dynamic_int8(original: Path, variant: Path) -> None:
    quantize_dynamic(original, variant, weight_type=QuantType.QInt8, reduce_range=True)


def static_int8(original: Path, variant: Path, per_channel: bool = False) -> None:
    quantize_static(
        original,
        variant,
        CalibrationImages(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=per_channel,
        reduce_range=True,
    )


def static_int8_per_channel(original: Path, variant: Path) -> None:
    static_int8(original, variant, per_channel=True)


VARIANTS: tuple[Callable[[Path, Path], None], ...] = (float16, dynamic_int8, static_int8, static_int8_per_channel)


def session(path: Path) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def milliseconds(timed: ort.InferenceSession, images: Iterator[NDArray[np.float32]], calls: int) -> list[float]:
    """The duration of each of so many calls at batch 1."""
    durations = []
    for _ in range(calls):
        feed = {"image": next(images)}
        began = time.perf_counter_ns()
        timed.run(None, feed)
        durations.append((time.perf_counter_ns() - began) / 1e6)
    return durations


def medians(original: Path, variant: Path) -> tuple[float, float]:
    """The median duration of a call to either, in ms, from alternating blocks."""
    with np.load(HERE / "evaluation.npz") as data:
        rows = data["image"]
    images = (rows[i % len(rows)][np.newaxis] for i in range(sys.maxsize))
    timed = [(session(path), list[float]()) for path in (original, variant)]
    for either, _ in timed:
        milliseconds(either, images, WARM_UP)
    for _ in range(ROUNDS):
        for either, durations in timed:
            durations += milliseconds(either, images, CALLS)
        timed.reverse()
    first, second = timed if ROUNDS % 2 == 0 else timed[::-1]
    return statistics.median(first[1]), statistics.median(second[1])


def replicate(original: Path, variant: Path) -> dict[str, float]:
    """One comparison: `control` is the original against itself, `speedup` is against the variant, `ms` is p50."""
    one, same = medians(original, original)
    before, after = medians(original, variant)
    return {"control": one / same, "speedup": before / after, "original_ms": before, "variant_ms": after}


def fresh_replicate(original: Path, variant: Path) -> dict[str, float]:
    """`replicate` in a process of its own."""
    command = [sys.executable, __file__, "--replicate", str(original), str(variant)]
    result: dict[str, float] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    return result


def top1(path: Path, images: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """The share of images whose largest logit is that of their class."""
    (logits,) = session(path).run(["logits"], {"image": images})
    return float((logits.argmax(1) == labels).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description="Quantize the shipped models and time each variant.")
    parser.add_argument("--replicates", type=int, default=5, help="fresh processes for each variant")
    parser.add_argument("--source", type=Path, default=SOURCE, help="folder of the published .gz files")
    parser.add_argument("--replicate", nargs=2, type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.replicate:
        print(json.dumps(replicate(*arguments.replicate)))
        return
    test = read_images(arguments.source, "t10k")
    images, labels = test.tensor(), test.labels
    print("| model | variant | bytes | top-1 | p50 ms | x fp32: median (lowest to highest) | disturbed |")
    print("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for original in sorted(HERE.glob("fashion_*.onnx")):
            print(
                f"| {original.stem} | fp32 | {original.stat().st_size:,} | {top1(original, images, labels):.4f} | | | |"
            )
            for make in VARIANTS:
                variant = Path(folder) / f"{original.stem}.{make.__name__}.onnx"
                make(original, variant)
                runs = [fresh_replicate(original, variant) for _ in range(arguments.replicates)]
                speedups = sorted(run["speedup"] for run in runs)
                disturbed = sum(not 0.98 <= run["control"] <= 1.02 for run in runs)
                before, after = (statistics.median(run[key] for run in runs) for key in ("original_ms", "variant_ms"))
                print(
                    f"| {original.stem} | {make.__name__} | {variant.stat().st_size:,} "
                    f"| {top1(variant, images, labels):.4f} | {after:.3f} (fp32 {before:.3f}) "
                    f"| {statistics.median(speedups):.2f}"
                    f" ({speedups[0]:.2f} to {speedups[-1]:.2f}) | {disturbed} of {len(runs)} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
