"""Plans for models without a file of their own, and what they are judged by."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto, helper

from app.domain.recipe import Calibration
from tests.parts import models
from tests.parts.models import Array, save
from workers.quantization.calibration.collect import collect
from workers.quantization.finishing import finish
from workers.quantization.graph import save as save_any
from workers.quantization.preparation import prepare
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.placement import BOUNDS, JOINS, MOVES, PRODUCTS, place
from workers.quantization.qdq.plan import Plan, Setting, make_plan
from workers.quantization.recovery.material import Material
from workers.runtimes.session import Optimization, load

Feeds = dict[str, Array]


def planned(model: ModelProto, rows: Sequence[Feeds], folder: Path, *, bits: int = 8) -> tuple[Plan, Material]:
    """A plan with ranges from these rows, and the material to improve it."""
    prepared = prepare(
        save(model, folder / "original.onnx"), least_opset=13, keep_float=(), fold=True, batch_norms=True
    )
    op_types = frozenset(PRODUCTS | JOINS | MOVES | BOUNDS)
    setting = Setting(op_types, prepared.kept, Calibration(method="minmax"), weight_bits=bits)
    placement = place(prepared.model, op_types, prepared.kept)

    def feeds() -> Iterator[tuple[Feeds, int]]:
        yield from ((row, 1) for row in rows)

    seen = collect(prepared.model, placement.observed(), feeds, folder)
    return make_plan(prepared.model, seen, setting, placement), Material(feeds, feeds, setting, folder)


def run_plan(
    plan: Plan, rows: Sequence[Feeds], folder: Path, *, optimization: Optimization = "all"
) -> list[list[Array]]:
    """What the artifact of a plan puts out in the runtime, row by row."""
    model = insert(plan).model
    finish(model)
    save_any(model, folder / "artifact.onnx")
    session = load(folder / "artifact.onnx", optimization=optimization)
    return [session.run(row) for row in rows]


def run_float(plan: Plan, rows: Sequence[Feeds], folder: Path) -> list[list[Array]]:
    """What the float model of a plan puts out."""
    save_any(plan.copy().model, folder / "float.onnx")
    session = load(folder / "float.onnx")
    return [session.run(row) for row in rows]


def relative(found: list[list[Array]], reference: list[list[Array]]) -> float:
    """The error's power over the reference's, over all rows and outputs."""
    pairs = [
        (one.astype(np.float64), other.astype(np.float64))
        for row, wanted in zip(found, reference, strict=True)
        for one, other in zip(row, wanted, strict=True)
    ]
    return sum(float(((a - b) ** 2).sum()) for a, b in pairs) / sum(float((b**2).sum()) for _, b in pairs)


def inverted_residuals() -> ModelProto:
    """A stem and two inverted residual blocks, the second with a shortcut; clipped at 6, max-pooled, and a head."""
    rng = np.random.default_rng(7)
    nodes, tensors = [], [models.tensor("low", 0.0), models.tensor("high", 6.0)]

    def unit(name: str, given: str, wide: int, inner: int, side: int, group: int = 1, *, clipped: bool = True) -> str:
        weight = rng.standard_normal((wide, inner, side, side)) / np.sqrt(inner * side * side)
        tensors.append(models.tensor(f"{name}.w", weight * np.exp(rng.normal(0, 0.5, (wide, 1, 1, 1)))))
        tensors.append(models.tensor(f"{name}.b", rng.standard_normal(wide) * 0.3))
        pads = [side // 2] * 4
        nodes.append(
            helper.make_node("Conv", [given, f"{name}.w", f"{name}.b"], [name], name=name, pads=pads, group=group)
        )
        if clipped:
            nodes.append(helper.make_node("Clip", [name, "low", "high"], [f"{name}.clip"], name=f"{name}.clip"))
        return f"{name}.clip" if clipped else name

    found = unit("stem", "x", 8, 3, 3)
    for index in range(2):
        entry = found
        found = unit(f"{index}.expand", found, 16, 8, 1)
        found = unit(f"{index}.depthwise", found, 16, 1, 3, group=16)
        found = unit(f"{index}.project", found, 8, 16, 1, clipped=False)
        if index:
            nodes.append(helper.make_node("Add", [found, entry], ["sum"], name="sum"))
            found = "sum"
    nodes.append(helper.make_node("MaxPool", [found], ["pooled"], name="pool", kernel_shape=[2, 2], strides=[2, 2]))
    found = unit("head", "pooled", 12, 8, 1)
    nodes.append(helper.make_node("GlobalAveragePool", [found], ["mean"], name="mean"))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"], name="flat"))
    nodes.append(helper.make_node("Gemm", ["flat", "fc.w", "fc.b"], ["y"], name="fc"))
    tensors += [models.weights("fc.w", 12, 6, spread=0.4), models.weights("fc.b", 6)]
    return models.model(nodes, [models.value("x", ["n", 3, 12, 12])], [models.value("y", ["n", 6])], tensors)


def images(count: int = 24, side: int = 12) -> list[Feeds]:
    """Smooth random pictures, one a feed."""
    rng = np.random.default_rng(11)
    found = []
    for _ in range(count):
        coarse = rng.standard_normal((1, 3, side // 4, side // 4)).repeat(4, axis=2).repeat(4, axis=3)
        found.append({"x": (coarse + 0.3 * rng.standard_normal((1, 3, side, side))).astype(np.float32)})
    return found
