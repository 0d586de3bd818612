"""A model brought to a later opset computes what it did, or is refused."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from app.domain.recipe import StaticInt16
from app.errors import StepError
from tests.parts import models
from tests.parts.models import tensor, value, weights
from tests.unit.quantization.conftest import Maker, random_feeds
from workers.quantization.preparation import opsets, prepare
from workers.quantization.preparation.agreement import disagreement
from workers.quantization.preparation.opsets import convert, opset_of
from workers.quantization.static import prepare_for
from workers.quantization.weight_only import light
from workers.runtimes.session import load

make_node = helper.make_node


def behind(node: Sequence[NodeProto], opset: int, stored: Sequence[TensorProto] = ()) -> ModelProto:
    """A convolution and what reads its output `c`, (1, 16, 8, 8), and makes `y`."""
    return models.model(
        [make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]), *node],
        [value("x", ["batch", 3, 8, 8])],
        [value("y", [None] * 4)],
        [weights("w", 16, 3, 3, 3), *stored],
        opset=opset,
    )


def resized(mode: str, *scales: float, constant: bool = False) -> ModelProto:
    sizes = tensor("scales", [1, 1, *scales])
    nodes = [make_node("Constant", [], ["scales"], value=sizes)] if constant else []
    nodes.append(make_node("Resize", ["c", "scales"], ["y"], name="resize", mode=mode))
    return behind(nodes, 10, [] if constant else [sizes])


def softmaxed(op_type: str, opset: int, **attributes: int) -> ModelProto:
    return behind([make_node(op_type, ["c"], ["y"], name="most", **attributes)], opset)


def in_a_branch() -> ModelProto:
    bodies = [
        helper.make_graph([make_node("Hardmax", ["c"], [name], name=name)], name, [], [value(name, None)])
        for name in ("one", "other")
    ]
    branch = make_node("If", ["positive"], ["y"], name="if", then_branch=bodies[0], else_branch=bodies[1])
    return behind(
        [
            make_node("ReduceSum", ["x"], ["sum"], name="sum", keepdims=0),
            make_node("Greater", ["sum", "zero"], ["positive"], name="greater"),
            branch,
        ],
        11,
        [tensor("zero", 0.0)],
    )


def group_norm(opset: int = 18) -> ModelProto:
    node = make_node("GroupNormalization", ["c", "scale", "bias"], ["y"], name="norm", num_groups=4)
    return behind([node], opset, [tensor("scale", np.linspace(0.5, 2, 4)), tensor("bias", np.linspace(-1, 1, 4))])


def sparse(*, constant: bool) -> ModelProto:
    """Branches whose weights are sparse: stored in the bodies, or in Constant nodes."""
    bodies = []
    for name in ("one", "other"):
        held = helper.make_sparse_tensor(weights(f"w_{name}", 6), tensor("at", np.arange(6) * 10, np.int64), [8, 8])
        nodes = [make_node("MatMul", ["c", f"w_{name}"], [name], name=name)]
        if constant:
            nodes.insert(0, make_node("Constant", [], [f"w_{name}"], sparse_value=held))
        body = helper.make_graph(nodes, name, [], [value(name, None)])
        if not constant:
            body.sparse_initializer.append(held)
        bodies.append(body)
    made = in_a_branch()
    branch = make_node("If", ["positive"], ["y"], name="if", then_branch=bodies[0], else_branch=bodies[1])
    made.graph.node[-1].CopyFrom(branch)
    return made


CASES: dict[str, tuple[Callable[[], ModelProto], int]] = {
    "resize, linear, larger": (lambda: resized("linear", 2, 1.7), 13),
    "resize, linear, smaller": (lambda: resized("linear", 0.5, 0.75), 13),
    "resize, nearest, larger": (lambda: resized("nearest", 2, 1.7), 13),
    "resize, nearest, smaller": (lambda: resized("nearest", 0.7, 0.75), 13),
    "resize, nearest, by a constant": (lambda: resized("nearest", 0.7, 0.75, constant=True), 13),
    "resize, linear, opset 21": (lambda: resized("linear", 1.3, 3), 21),
    "upsample": (models.upsample_net, 21),
    "hardmax": (lambda: softmaxed("Hardmax", 11), 13),
    "hardmax of the third axis": (lambda: softmaxed("Hardmax", 12, axis=2), 21),
    "hardmax of a negative axis": (lambda: softmaxed("Hardmax", 11, axis=-3), 13),
    "hardmax in bodies": (in_a_branch, 13),
    "softmax": (lambda: softmaxed("Softmax", 11), 13),
    "logarithm of a softmax": (lambda: softmaxed("LogSoftmax", 9, axis=2), 21),
    "group norm": (group_norm, 21),
    "sparse weights in bodies": (lambda: sparse(constant=False), 13),
    "sparse constants": (lambda: sparse(constant=True), 21),
}


def outputs(model: ModelProto, feeds: Sequence[dict[str, Any]], path: Path) -> list[list[Any]]:
    session = load(models.save(model, path))
    return [session.run(feed) for feed in feeds]


@pytest.mark.parametrize(("made", "least"), CASES.values(), ids=CASES.keys())
@pytest.mark.parametrize("without_weights", [False, True], ids=["whole", "light"])
def test_a_later_opset_computes_the_same(
    tmp_path: Path, made: Callable[[], ModelProto], least: int, without_weights: bool
) -> None:
    path = models.save(made(), tmp_path / "model.onnx")
    feeds = random_feeds(load(path), rows=2)

    if without_weights:
        after = light.read(path, least_opset=least, keep_float=()).model
    else:
        after = prepare(path, least_opset=least, keep_float=(), fold=True).model

    assert opset_of(after) == least
    onnx.checker.check_model(after)
    for one, other in zip(outputs(made(), feeds, path), outputs(after, feeds, tmp_path / "after.onnx"), strict=True):
        np.testing.assert_allclose(other[0], one[0], rtol=1e-4, atol=1e-5)


def test_group_norms_have_sixteen_bits_in_standard_operators(make: Maker) -> None:
    made = make(group_norm(), StaticInt16(recovery=()))
    assert made.sqnr_db > 40
    assert opset_of(made.proto) == 21


# What cannot be repaired


def test_a_conversion_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    # One axis larger, one smaller: no mode of rounding of Resize-11 does both as Resize-10 did.
    path = models.save(resized("nearest", 1.7, 0.7), tmp_path / "model.onnx")
    for read in (
        lambda: prepare(path, least_opset=13, keep_float=(), fold=True),
        lambda: light.read(path, least_opset=13, keep_float=()),
    ):
        with pytest.raises(StepError, match="computes another 'y'") as raised:
            read()
        assert raised.value.code == "opset_conversion_failed"


def test_sixteen_bits_do_without_a_conversion_that_does_not_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As onnx's converter has it: the node stays, with a scale for each group.
    monkeypatch.setattr(opsets, "_hide", lambda model, op_types: None)
    path = models.save(group_norm(), tmp_path / "model.onnx")
    with pytest.raises(StepError, match="does not run what came of it"):
        prepare(path, least_opset=21, keep_float=(), fold=True)
    prepared, _, _ = prepare_for(path, StaticInt16())
    assert opset_of(prepared.model) == 18


# What is evidence


def noisy() -> ModelProto:
    """No two runs are alike."""
    return behind(
        [
            make_node("RandomNormalLike", ["c"], ["noise"], name="noise"),
            make_node("Add", ["c", "noise"], ["y"], name="add"),
        ],
        11,
    )


def not_finite() -> ModelProto:
    return behind(
        [make_node("Sub", ["c", "c"], ["zero"], name="sub"), make_node("Log", ["zero"], ["y"], name="log")], 11
    )


def picky() -> ModelProto:
    """Runs with sizes that nobody guesses."""
    return models.model(
        [make_node("Reshape", ["x", "shape"], ["r"], name="reshape"), make_node("MatMul", ["r", "w"], ["y"], name="m")],
        [value("x", ["a", "b"])],
        [value("y", None)],
        [weights("w", 37, 4), tensor("shape", [-1, 37], np.int64)],
        opset=11,
    )


def of_text() -> ModelProto:
    made = picky()
    made.graph.input.append(value("text", [1], TensorProto.STRING))
    made.graph.node.append(make_node("Identity", ["text"], ["same"], name="same"))
    made.graph.output.append(value("same", None, TensorProto.STRING))
    return made


@pytest.mark.parametrize("made", [noisy, not_finite, picky, of_text])
def test_what_tells_nothing_fails_nothing(tmp_path: Path, made: Callable[[], ModelProto]) -> None:
    path = models.save(made(), tmp_path / "model.onnx")
    assert opset_of(prepare(path, least_opset=13, keep_float=(), fold=True).model) == 13


def doubled(model: ModelProto) -> ModelProto:
    """The same with its first output times two."""
    other = ModelProto.FromString(model.SerializeToString())
    name = other.graph.output[0].name
    for node in other.graph.node:
        node.output[:] = ["half" if each == name else each for each in node.output]
        node.input[:] = ["half" if each == name else each for each in node.input]
    other.graph.node.append(make_node("Add", ["half", "half"], [name], name="twice"))
    return other


def of_ids(rows: int) -> ModelProto:
    return models.model(
        [make_node("Gather", ["table", "ids"], ["y"], name="gather")],
        [value("ids", ["batch", "length"], TensorProto.INT64)],
        [value("y", None)],
        [weights("table", rows, 4)],
    )


def of_a_large_image() -> ModelProto:
    pools = [
        make_node("MaxPool", [f"p{index}"], [f"p{index + 1}"], kernel_shape=[3, 3], strides=[2, 2], name=f"p{index}")
        for index in range(5)
    ]
    pools[0].input[0], pools[-1].output[0] = "x", "y"
    return models.model(pools, [value("x", [None, 3, "height", "width"])], [value("y", None)])


@pytest.mark.parametrize(
    "made", [lambda: of_ids(3), lambda: of_ids(2), of_a_large_image, models.branches, models.loop, models.transformer]
)
def test_differences_are_found_on_inputs_of_every_kind(made: Callable[[], ModelProto]) -> None:
    model = made()
    assert disagreement(model, model, {}) is None
    assert disagreement(model, doubled(model), {}) == f"what came of it computes another {model.graph.output[0].name!r}"


def less_itself(*, doubly: bool) -> ModelProto:
    """x − x: zeros, or what rounding leaves of them."""
    nodes = [make_node("Mul", ["x", "third"], ["t"]), make_node("Sub", ["t", "t"], ["zero"])]
    ending = make_node("Add", ["zero", "tiny"], ["y"]) if doubly else make_node("Identity", ["zero"], ["y"])
    return models.model(
        [*nodes, ending],
        [value("x", ["n", 4])],
        [value("y", None)],
        [models.tensor("third", 1 / 3), models.tensor("tiny", 1e-12)],
    )


def test_what_rounding_leaves_of_zeros_is_no_difference() -> None:
    assert disagreement(less_itself(doubly=False), less_itself(doubly=True), {}) is None
    wrong = less_itself(doubly=True)
    wrong.graph.initializer[1].CopyFrom(models.tensor("tiny", 1e-5))
    assert disagreement(less_itself(doubly=False), wrong, {}) == "what came of it computes another 'y'"


def test_a_model_of_more_than_a_gigabyte_is_not_run() -> None:
    model = models.gemm()
    model.graph.initializer[0].dims[:] = [1 << 14, 1 << 14]
    assert disagreement(model, doubled(model), {}) is None


def test_a_high_opset_stays() -> None:
    model = models.mlp()
    assert convert(model, 13) is model


def constants_of_kilobytes() -> ModelProto:
    """Large tensors in Constant nodes are set aside as well."""
    stored = weights("stored", 16, 16, 3, 3)
    return behind(
        [
            make_node("Constant", [], ["stored"], name="stored", value=stored),
            make_node("Conv", ["c", "stored"], ["y"], name="last"),
        ],
        11,
    )


def test_weights_in_constants_are_run_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    told: list[str | None] = []

    def telling(*given: Any) -> str | None:
        before, after, *rest = given
        told.append(disagreement(before, doubled(after), *rest))
        return disagreement(before, after, *rest)

    monkeypatch.setattr(opsets, "disagreement", telling)
    for external in (False, True):
        path = models.save(constants_of_kilobytes(), tmp_path / f"{external}.onnx", external=external)
        prepare(path, least_opset=13, keep_float=(), fold=True)
        light.read(path, least_opset=13, keep_float=())
    assert told == ["what came of it computes another 'y'"] * 4
