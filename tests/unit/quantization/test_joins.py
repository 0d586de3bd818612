"""What stands between two quantized convolutions, with every choice of its attributes: in integers, and kept in float.

The artifact is judged as onnxruntime runs it, after its optimizer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from app.domain.recipe import Calibration, Mixed, OperatorType, Part, StaticInt8, StaticInt16
from tests.parts.models import Array, model, tensor, value, weights
from tests.unit.quantization.conftest import Made, Maker
from workers.quantization.emulation.emulator import emulate
from workers.quantization.emulation.probe import arithmetic_here
from workers.quantization.qdq.placement import JOINS
from workers.quantization.static import OP_TYPES
from workers.runtimes.optimized import optimized
from workers.runtimes.session import load

NEAR_DB = 25.0
"""As near as any of these models is to its original, or nearer, where the runtime computes what the nodes say."""


@dataclass(frozen=True)
class Between:
    """Nodes from what a convolution makes, `c` or `c` and `d`, to what another reads, `m`; the last one is `node`."""

    name: str
    nodes: Sequence[NodeProto]
    stored: Sequence[TensorProto] = ()
    axes: int = 2
    channels: int = 8
    opset: int = 17

    def model(self) -> ModelProto:
        """(1, 3, 6, …) → two convolutions of 8 channels → the nodes → a convolution."""
        kernel = [1] * self.axes
        return model(
            [
                helper.make_node("Conv", ["x", "w1"], ["c"], name="first"),
                helper.make_node("Conv", ["x", "w2"], ["d"], name="second"),
                *self.nodes,
                helper.make_node("Conv", ["m", "w3"], ["y"], name="last"),
            ],
            [value("x", [1, 3, *[6] * self.axes])],
            [value("y", None)],
            [
                weights("w1", 8, 3, *kernel),
                weights("w2", 8, 3, *kernel, seed=4),
                weights("w3", 4, self.channels, *kernel),
                *self.stored,
            ],
            opset=self.opset,
        )

    def feeds(self) -> list[dict[str, Array]]:
        rng = np.random.default_rng(0)
        return [{"x": rng.normal(1, 1, (1, 3, *[6] * self.axes)).astype(np.float32)} for _ in range(12)]


def node(op_type: str, *inputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(op_type, inputs or ["c"], ["m"], name="node", **attributes)


def poolings() -> list[Between]:
    made = []
    for axes, side in product((1, 2, 3), (2, 3)):
        window = {"kernel_shape": [side] * axes, "strides": [2] * axes}
        edges: list[dict[str, Any]] = [
            {},
            {"pads": [1] * 2 * axes},
            {"pads": [1] * axes + [0] * axes},
            {"auto_pad": "SAME_UPPER"},
            {"auto_pad": "SAME_LOWER"},
        ]
        for edge, ceil, padding in product(edges, (0, 1), (0, 1)):
            if "auto_pad" in edge and ceil:
                continue
            name = f"AveragePool {axes}d {side} {edge or ''} ceil {ceil} padding {padding}"
            pool = node("AveragePool", **window, **edge, ceil_mode=ceil, count_include_pad=padding)
            made.append(Between(name, [pool], axes=axes))
            if not padding:
                pool = node("MaxPool", **window, **edge, ceil_mode=ceil)
                made.append(Between(name.replace("Average", "Max"), [pool], axes=axes))
    for kind, opset in (("AveragePool", 19), ("MaxPool", 17)):
        made.append(Between(f"{kind} dilated", [node(kind, kernel_shape=[2, 2], dilations=[2, 2])], opset=opset))
    made += [Between(f"GlobalAveragePool {axes}d", [node("GlobalAveragePool")], axes=axes) for axes in (1, 2, 3)]
    return made


def functions() -> list[Between]:
    made = [
        Between(f"LeakyRelu {slope}", [node("LeakyRelu", alpha=slope)]) for slope in (0.01, 0.5, 1.0, 2.0, -0.5, 0.0)
    ]
    made += [Between("Sigmoid", [node("Sigmoid")])]
    made += [Between(f"Softmax {axis}", [node("Softmax", axis=axis)]) for axis in (1, 2, 3, -1)]
    return made


def operations() -> list[Between]:
    positive = helper.make_node("Greater", ["c", "edge"], ["positive"], name="greater")
    mean = helper.make_node("GlobalAveragePool", ["d"], ["mean"], name="mean")
    made = [
        Between(f"Concat {axis}", [node("Concat", "c", "d", "c", axis=axis)], channels=24 if axis == 1 else 8)
        for axis in (1, 2, 3, -1)
    ]
    for kind in ("Add", "Mul"):
        made += [
            Between(kind, [node(kind, "c", "d")]),
            Between(f"{kind} to itself", [node(kind, "c", "c")]),
            Between(f"{kind} a channel", [mean, node(kind, "c", "mean")]),
            Between(f"{kind} a channel first", [mean, node(kind, "mean", "c")]),
            Between(f"{kind} a stored one", [node(kind, "c", "k")], [weights("k", 1, 8, 1, 1, spread=2.0)]),
        ]
    edge = tensor("edge", 0.0)
    made += [
        Between("Where", [positive, node("Where", "positive", "c", "d")], [edge]),
        Between("Where stored", [positive, node("Where", "positive", "c", "k")], [edge, tensor("k", -0.2)]),
    ]
    return made


def moves() -> list[Between]:
    def stored(**values: Sequence[int]) -> list[TensorProto]:
        return [tensor(name, numbers, np.int64) for name, numbers in values.items()]

    made = [
        Between(f"DepthToSpace {mode}", [node("DepthToSpace", blocksize=2, mode=mode)], channels=2)
        for mode in ("DCR", "CRD")
    ]
    made += [
        Between(
            f"Slice {start} {end} {axis} {step}",
            [node("Slice", "c", "start", "end", "axis", "step")],
            stored(start=[start], end=[end], axis=[axis], step=[step]),
            channels=3 if axis == 1 else 8,
        )
        for start, end, axis, step in ((5, -100, 2, -1), (0, 6, 3, 2), (1, 4, 1, 1))
    ]
    made += [
        Between("Gather", [node("Gather", "c", "which", axis=1)], stored(which=[-1, 0, 3]), channels=3),
        Between("Transpose", [node("Transpose", perm=[0, 1, 3, 2])]),
        Between("Reshape", [node("Reshape", "c", "shape")], stored(shape=[0, 0, -1, 4])),
    ]
    return made


def resizes() -> list[Between]:
    made = []
    for mode, scale, way in product(
        ("nearest", "linear", "cubic"),
        (2.0, 1.5, 0.5),
        ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel"),
    ):
        options = {"mode": mode, "coordinate_transformation_mode": way}
        stored = [tensor("scales", [1, 1, scale, scale])]
        made.append(Between(f"Resize {mode} {scale} {way}", [node("Resize", "c", "", "scales", **options)], stored))
    for mode, side in product(("nearest", "linear", "cubic"), (3, 13)):
        whole = [tensor("sizes", [1, 8, side, side], np.int64)]
        made.append(Between(f"Resize {mode} to {side}", [node("Resize", "c", "", "", "sizes", mode=mode)], whole))
        crop = node("Resize", "c", "roi", "", "sizes", mode=mode, coordinate_transformation_mode="tf_crop_and_resize")
        roi = tensor("roi", [0, 0, 0.1, 0.2, 1, 1, 0.8, 0.9])
        made.append(Between(f"Resize {mode} a crop to {side}", [crop], [*whole, roi]))
        some = node("Resize", "c", "", "", "sizes", mode=mode, axes=[2, 3])
        made.append(
            Between(f"Resize {mode} two axes to {side}", [some], [tensor("sizes", [side] * 2, np.int64)], opset=18)
        )
        if mode != "nearest":
            smooth = node("Resize", "c", "", "", "sizes", mode=mode, antialias=1)
            made.append(Between(f"Resize {mode} without aliases to {side}", [smooth], whole, opset=18))
    return made


CASES = [*poolings(), *functions(), *operations(), *moves(), *resizes()]


def recipe(**options: Any) -> StaticInt8:
    return StaticInt8(calibration=Calibration(method="minmax"), recovery=(), reduce_range=False, **options)


def as_run(made: Made) -> list[str]:
    """Operator types that the runtime runs."""
    return [each.op_type for each in optimized(made.produced.file, "all").graph.node]


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_every_join_is_near_the_original(make: Maker, case: Between) -> None:
    made = make(case.model(), recipe(), feeds=case.feeds())

    assert made.sqnr_db > NEAR_DB
    assert as_run(made).count("QLinearConv") >= 2  # a case that nothing is quantized in proves nothing


KEPT = {
    "AveragePool": [node("AveragePool", kernel_shape=[3, 3], strides=[2, 2])],
    "GlobalAveragePool": [node("GlobalAveragePool")],
    "LeakyRelu": [node("LeakyRelu", alpha=0.1)],
    "Sigmoid": [node("Sigmoid")],
    "Softmax": [node("Softmax", axis=1)],
    "Add": [node("Add", "c", "d")],
    "Mul": [node("Mul", "c", "d")],
    "Concat": [node("Concat", "c", "d", axis=1)],
    "Where": [helper.make_node("Greater", ["c", "edge"], ["more"], name="greater"), node("Where", "more", "c", "d")],
    "MatMul": [node("MatMul", "c", "d")],
}


def kept(op_type: str) -> Between:
    stored = [tensor("edge", 0.0)] if op_type == "Where" else []
    return Between(op_type, KEPT[op_type], stored, channels=16 if op_type == "Concat" else 8)


def recipes_that_keep(op_type: str) -> dict[str, StaticInt8 | Mixed]:
    rest = recipe()
    return {
        "by name": recipe(keep_float=("node",)),
        "by type": recipe(keep_float=(OperatorType(op_type=op_type),)),
        "a part": Mixed(parts=(Part(nodes=("node",), recipe=None),), rest=rest),
        "not chosen": recipe(op_types=tuple(sorted(set(OP_TYPES) - {op_type}))),
    }


def test_all_joins_are_tried() -> None:
    assert set(KEPT) >= JOINS


@pytest.mark.parametrize("how", ["by name", "by type", "a part", "not chosen"])
@pytest.mark.parametrize("op_type", sorted(KEPT))
def test_the_runtime_computes_in_float_what_is_kept(make: Maker, op_type: str, how: str) -> None:
    case = kept(op_type)

    made = make(case.model(), recipes_that_keep(op_type)[how], feeds=case.feeds())

    found = as_run(made)
    assert op_type in found
    assert {name for name in found if name.startswith(("QLinear", "MatMulInteger"))} == {"QLinearConv"}
    literally = load(made.produced.file, optimization="none")
    for row, run in zip(made.feeds, made.artifact, strict=True):
        (exact,) = literally.run(row)
        assert ((run[0] - exact) ** 2).sum() < 1e-4 * (exact**2).sum()
    assert made.sqnr_db > NEAR_DB


@pytest.mark.parametrize("op_type", sorted(JOINS))
def test_what_is_not_kept_has_nothing_behind_it(make: Maker, op_type: str) -> None:
    case = kept(op_type)

    made = make(case.model(), recipe(), feeds=case.feeds())

    assert "Max" not in made.op_types
    assert f"QLinear{op_type}" in as_run(made)


def test_two_bytes_need_no_shield(make: Maker) -> None:
    case = kept("Sigmoid")

    made = make(case.model(), StaticInt16(recovery=(), keep_float=("node",)), feeds=case.feeds())

    assert "Max" not in made.op_types
    assert "Sigmoid" in as_run(made)


@pytest.mark.parametrize("behind", [helper.make_node("MaxPool", ["s"], ["m"], kernel_shape=[2, 2]), node("Relu", "s")])
def test_moves_around_it_do_not_take_a_kept_node_along(make: Maker, behind: NodeProto) -> None:
    """The runtime moves pairs across what only moves numbers, and drops a Relu before a range that ends at zero."""
    before = helper.make_node("Transpose", ["c"], ["t"], name="before", perm=[0, 1, 3, 2])
    leaky = helper.make_node("LeakyRelu", ["t"], ["s"], name="leaky", alpha=0.2)
    behind.name = "behind"
    case = Between("moves", [before, leaky, behind])

    made = make(case.model(), recipe(keep_float=("leaky",)), feeds=case.feeds())

    assert "LeakyRelu" in as_run(made)


def test_matrix_products_that_leave_their_output_in_float_are_kept_too(make: Maker) -> None:
    case = Between("MatMul", [node("MatMul", "c", "d")])
    net = case.model()
    net.graph.output.append(value("m", None))

    made = make(net, recipe(keep_float=("node", "last")), feeds=case.feeds())

    assert "MatMul" in as_run(made)


def test_what_is_kept_for_its_range_is_computed_in_float(make: Maker) -> None:
    """The join of scores and what is thousands of times as large has a Relu behind it, which alone is quantized."""
    join = helper.make_node("Concat", ["c", "d"], ["j"], name="join", axis=1)
    case = Between("wide", [join, node("Relu", "j")], channels=16)
    net = case.model()
    (large,) = (each for each in net.graph.initializer if each.name == "w2")
    large.CopyFrom(weights("w2", 8, 3, 1, 1, spread=2000.0))

    made = make(net, recipe(), feeds=case.feeds())

    assert any("Kept in float: join;" in note for note in made.produced.notes)
    assert "Concat" in as_run(made)


@pytest.mark.parametrize("case", [case for case in resizes() if "2.0" in case.name], ids=lambda case: str(case.name))
def test_resizes_that_the_runtime_computes_in_any_layout_have_nothing_before_them(make: Maker, case: Between) -> None:
    made = make(case.model(), recipe(), feeds=case.feeds())

    assert "DepthToSpace" not in made.op_types


@pytest.mark.parametrize("wide", [False, True])
def test_a_pooling_without_a_right_kernel_is_told(make: Maker, wide: bool) -> None:
    pool = node("AveragePool", kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1, count_include_pad=1)
    case = Between("pool", [pool])
    options = StaticInt16(recovery=()) if wide else recipe()

    made = make(case.model(), options, feeds=case.feeds())

    assert wide is not any("Kept in float: node;" in note for note in made.produced.notes)
    assert "AveragePool" in as_run(made)


def test_the_emulator_takes_kept_nodes_as_they_are(make: Maker) -> None:
    case = kept("Softmax")
    made = make(case.model(), recipe(keep_float=("node",)), feeds=case.feeds())

    emulated = list(emulate(made.produced.file, made.feeds, arithmetic_here()))

    for (found,), (run,) in zip([list(row.values()) for row in emulated], made.artifact, strict=True):
        np.testing.assert_allclose(found, run, atol=1e-6)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT8, TensorProto.UINT8])
def test_a_resize_of_some_axes_is_right_in_every_type_that_has_one(make: Maker, kind: int) -> None:
    """Of integers there is not always a node that keeps the runtime from moving channels behind it."""
    built = model(
        [
            helper.make_node("Conv", ["x", "w1"], ["a"], name="first", pads=[1] * 4),
            helper.make_node("Relu", ["a"], ["r"], name="relu"),
            helper.make_node("Conv", ["r", "w2"], ["b"], name="second"),
            helper.make_node("Relu", ["b"], ["p"], name="positive"),
            helper.make_node("Cast", ["p"], ["k"], name="cast", to=kind),
            helper.make_node("Resize", ["k", "", "scales"], ["y"], name="resize", mode="nearest", axes=[2, 3]),
        ],
        [value("x", [1, 3, 6, 6])],
        [value("y", [1, 4, 12, 12], kind)],
        [weights("w1", 4, 3, 3, 3), weights("w2", 4, 4, 1, 1), tensor("scales", [2, 2])],
        opset=18,
    )
    rng = np.random.default_rng(0)
    made = make(
        built,
        StaticInt8(reduce_range=True),
        feeds=[{"x": (8 * rng.standard_normal((1, 3, 6, 6))).astype(np.float32)} for _ in range(8)],
    )
    for (found,), (wanted,) in zip(made.artifact, made.original, strict=True):
        assert len(np.unique(wanted)) > 3, "the case has something to find"
        assert np.corrcoef(found.reshape(-1), wanted.reshape(-1))[0, 1] > 0.95
        np.testing.assert_array_equal(found, found[..., ::2, ::2].repeat(2, axis=2).repeat(2, axis=3))
