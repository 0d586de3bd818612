"""Products of one activation with channels far larger than the others, and what smoothing is to choose for one."""

import numpy as np
import onnx
from onnx import ModelProto, helper, numpy_helper

from tests.parts import models
from tests.parts.models import Array
from tests.unit.quantization.conftest import Feeds
from workers.quantization.affine import for_range, symmetric
from workers.quantization.calibration.collect import Feeds as Starts

WIDE = 64


def product(op_type: str = "MatMul", *, flipped: bool = False, alpha: float = 1.0, readers: int = 1) -> ModelProto:
    """Products of one activation, behind a Relu whose output another node reads too."""
    attributes = {"transB": int(flipped), "alpha": alpha} if op_type == "Gemm" else {}
    weight = np.random.default_rng(1).normal(0, 0.2, (WIDE, 6)).astype(np.float32)
    nodes = [helper.make_node("Relu", ["x"], ["r"], name="relu"), helper.make_node("Neg", ["r"], ["n"], name="neg")]
    nodes += [
        helper.make_node(op_type, ["r", f"w{number}"], [f"y{number}"], name=f"product{number}", **attributes)
        for number in range(readers)
    ]
    outputs = [models.value(f"y{number}", ["rows", 6]) for number in range(readers)]
    return models.model(
        nodes,
        [models.value("x", ["rows", WIDE])],
        [*outputs, models.value("n", ["rows", WIDE])],
        [models.tensor(f"w{number}", weight.T if flipped else weight) for number in range(readers)],
    )


def rows_of(count: int, outliers: tuple[int, ...] = (), by: float = 60.0, seed: int = 0) -> list[Feeds]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        x = rng.standard_normal((5, WIDE)).astype(np.float32)
        x[:, list(outliers)] *= by
        rows.append({"x": x})
    return rows


def starts(rows: list[Feeds]) -> Starts:
    return lambda: ((row, 1) for row in rows)


def nodes_of(model: ModelProto, op_type: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == op_type]


def stored(model: ModelProto, name: str) -> Array:
    return next(numpy_helper.to_array(tensor) for tensor in model.graph.initializer if tensor.name == name)


def plain_choice(model: ModelProto, rows: list[Feeds], *, beforehand: bool = False) -> tuple[Array, list[int]]:
    """The divisor and the channels apart that are best for the first product, by trying all.

    7-bit weights. With `beforehand`, all feeds share one range, as if they were one.
    """
    weight = stored(model, "w0")
    feeds = [np.maximum(row["x"], 0) for row in rows]
    feeds = [np.concatenate(feeds)] if beforehand else feeds
    peaks = np.sqrt(np.mean([np.square(feed.max(axis=0)) for feed in feeds], axis=0))
    needed = np.abs(weight).max(axis=1)
    order = sorted(range(WIDE), key=lambda channel: -peaks[channel] * needed[channel])
    far = sum(peaks[channel] * needed[channel] > 3 * np.median(peaks * needed) for channel in order)
    best: tuple[Array, list[int]] = np.ones(WIDE), []
    least = _plain_error(feeds, weight, *best)
    for count in (0, 1, 2, 4, 8):
        if count // 2 >= far > 0 or (count and not far):
            break
        tried = []
        for alpha in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9):
            divisor = np.maximum(peaks, 0.02 * np.median(peaks)) ** alpha / needed ** (1 - alpha)
            divisor = divisor / np.exp(np.mean(np.log(divisor)))
            tried.append((_plain_error(feeds, weight, divisor, order[:count]), divisor))
        error, divisor = min(tried, key=lambda each: each[0])
        if error < 0.7 * least:
            least, best = error, (divisor, order[:count])
    return best


def assert_chosen(model: ModelProto, divisor: Array, apart: list[int], outliers: tuple[int, ...]) -> None:
    """A smoothed product has this divisor and these channels in float, the outliers among them."""
    assert set(outliers) <= set(apart), "the case has something to find"
    expected = np.array([0.0 if channel in apart else 1 / divisor[channel] for channel in range(WIDE)])
    (factor,) = (node.input[1] for node in nodes_of(model, "Mul"))
    np.testing.assert_allclose(stored(model, factor), expected, rtol=1e-5)
    (places,) = (node.input[1] for node in nodes_of(model, "Gather"))
    assert list(stored(model, places)) == apart


def _plain_error(rows: list[Array], weight: Array, divisor: Array, apart: list[int]) -> float:
    """The relative squared error of one product, row after row: each feed quantized by its own range."""
    inside = np.array([channel not in apart for channel in range(len(divisor))])
    harder = np.where(inside[:, np.newaxis], weight * divisor[:, np.newaxis], 0).astype(np.float32)
    columns = [symmetric(np.abs(column).max(), "int8", bits=7).rounded(column) for column in harder.T]
    total, exact = 0.0, [feed @ weight for feed in rows]
    power = float(np.mean([np.square(row).sum() for wanted in exact for row in wanted]))
    for feed, wanted in zip(rows, exact, strict=True):
        smoothed = np.where(inside, feed / divisor, 0).astype(np.float32)
        whole = for_range(float(smoothed.min()), float(smoothed.max()), "uint8").rounded(smoothed)
        found = whole @ np.stack(columns, axis=1) + feed[:, apart] @ weight[apart]
        for one, other in zip(found, wanted, strict=True):
            total += np.square(one - other).sum() / max(np.square(other).sum(), 1e-4 * power)
    return float(total)
