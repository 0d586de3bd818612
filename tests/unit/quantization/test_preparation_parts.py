"""Dead parts go, shared weights become each product's own, and batch norms vanish into every kind of product."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from app.domain.recipe import Calibration, Static, StaticInt8, StaticInt16
from tests.parts import models
from tests.parts.models import Array
from tests.unit.quantization.conftest import Maker
from workers.quantization.preparation import prepare
from workers.quantization.preparation.batch_norms import fold_batch_norms
from workers.quantization.preparation.dead_parts import drop_dead_parts
from workers.runtimes.session import load


def with_norm(
    product: NodeProto, shape: list[int | str], channels: int, stored: list[TensorProto], **attributes: float
) -> ModelProto:
    """A product and a batch norm behind it."""
    rng = np.random.default_rng(channels)
    norm = [
        models.tensor("gamma", rng.uniform(0.5, 2, channels)),
        models.tensor("beta", rng.normal(size=channels)),
        models.tensor("mean", rng.normal(size=channels)),
        models.tensor("variance", rng.uniform(0.1, 3, channels)),
    ]
    return models.model(
        [
            product,
            helper.make_node(
                "BatchNormalization", ["p", "gamma", "beta", "mean", "variance"], ["y"], name="norm", **attributes
            ),
        ],
        [models.value("x", shape)],
        [models.value("y", None)],
        [*stored, *norm],
    )


def normalized(product: Array) -> Array:
    """What `with_norm` puts behind a product, in plain NumPy; epsilon is 1e-5."""
    channels = product.shape[1]
    rng = np.random.default_rng(channels)
    gamma, beta, mean, variance = (
        rng.uniform(0.5, 2, channels),
        rng.normal(size=channels),
        rng.normal(size=channels),
        rng.uniform(0.1, 3, channels),
    )
    axes = [1, -1] + [1] * (product.ndim - 2)
    gamma, beta, mean, variance = (values.reshape(axes) for values in (gamma, beta, mean, variance))
    return np.asarray((product - mean) / np.sqrt(variance + 1e-5) * gamma + beta)


IMAGE: list[int | str] = ["batch", 6, 5, 5]
CASES: dict[str, Callable[[], ModelProto]] = {
    "conv without bias": lambda: with_norm(
        helper.make_node("Conv", ["x", "w"], ["p"], name="product"), IMAGE, 4, [models.weights("w", 4, 6, 3, 3)]
    ),
    "conv, the bias left out by name": lambda: with_norm(
        helper.make_node("Conv", ["x", "w", ""], ["p"], name="product"), IMAGE, 4, [models.weights("w", 4, 6, 3, 3)]
    ),
    "grouped conv with bias": lambda: with_norm(
        helper.make_node("Conv", ["x", "w", "b"], ["p"], name="product", group=3),
        IMAGE,
        12,
        [models.weights("w", 12, 2, 3, 3), models.weights("b", 12)],
    ),
    "transposed conv": lambda: with_norm(
        helper.make_node("ConvTranspose", ["x", "w"], ["p"], name="product", strides=[2, 2]),
        IMAGE,
        4,
        [models.weights("w", 6, 4, 2, 2)],
    ),
    "grouped transposed conv with bias": lambda: with_norm(
        helper.make_node("ConvTranspose", ["x", "w", "b"], ["p"], name="product", group=3),
        IMAGE,
        12,
        [models.weights("w", 6, 4, 2, 2), models.weights("b", 12)],
    ),
    "gemm": lambda: with_norm(
        helper.make_node("Gemm", ["x", "w", "b"], ["p"], name="product"),
        ["batch", 6],
        5,
        [models.weights("w", 6, 5), models.weights("b", 5)],
    ),
    "gemm, transposed weights, bias of one row": lambda: with_norm(
        helper.make_node("Gemm", ["x", "w", "b"], ["p"], name="product", transB=1),
        ["batch", 6],
        5,
        [models.weights("w", 5, 6), models.weights("b", 1, 5)],
    ),
    "matmul": lambda: with_norm(
        helper.make_node("MatMul", ["x", "w"], ["p"], name="product"), ["batch", 6], 5, [models.weights("w", 6, 5)]
    ),
}


def prepared_norms(model: ModelProto, place: Path) -> ModelProto:
    path = models.save(model, place / "model.onnx")
    return prepare(path, least_opset=13, keep_float=(), fold=True, batch_norms=True).model


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_batch_norms_are_folded_into(tmp_path: Path, case: Callable[[], ModelProto]) -> None:
    model = case()

    made = prepared_norms(model, tmp_path)

    assert "BatchNormalization" not in {node.op_type for node in made.graph.node}
    models.save(made, tmp_path / "made.onnx")
    bare = models.model(
        [model.graph.node[0]], list(model.graph.input), [models.value("p", None)], list(model.graph.initializer)
    )
    models.save(bare, tmp_path / "bare.onnx")
    shape = [3 if size.dim_param else size.dim_value for size in model.graph.input[0].type.tensor_type.shape.dim]
    row = {"x": np.random.default_rng(1).standard_normal(shape).astype(np.float32)}
    (product,) = load(tmp_path / "bare.onnx").run(row)
    (found,) = load(tmp_path / "made.onnx").run(row)
    np.testing.assert_allclose(found, normalized(product), rtol=1e-4, atol=1e-4)


def alone() -> ModelProto:
    model = CASES["conv without bias"]()
    model.graph.node[0].CopyFrom(helper.make_node("Relu", ["x"], ["p"], name="relu"))
    for index in range(1, 5):
        model.graph.initializer[index].CopyFrom(
            models.tensor(model.graph.initializer[index].name, np.linspace(0.5, 1.5, 6))
        )
    return model


def on_three_axes() -> ModelProto:
    # Channels are the second axis, and the product's columns are the third.
    return with_norm(
        helper.make_node("MatMul", ["x", "w"], ["p"], name="product"), ["batch", 5, 6], 5, [models.weights("w", 6, 5)]
    )


def scaled_gemm() -> ModelProto:
    model = CASES["gemm"]()
    model.graph.node[0].attribute.append(helper.make_attribute("alpha", 2.0))
    return model


def gemm_of_a_whole_bias() -> ModelProto:
    model = CASES["gemm"]()
    model.graph.initializer[1].CopyFrom(models.weights("b", 3, 5))
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    return model


def without_spread() -> ModelProto:
    model = CASES["conv without bias"]()
    model.graph.initializer[4].CopyFrom(models.tensor("variance", [0, 0, 0, 0]))
    model.graph.initializer[1].CopyFrom(models.tensor("gamma", [1e38] * 4))
    return model


def read_by_another() -> ModelProto:
    model = CASES["conv without bias"]()
    model.graph.node.append(helper.make_node("Relu", ["p"], ["other"], name="relu"))
    model.graph.output.append(models.value("other", None))
    return model


@pytest.mark.parametrize(
    "case", [alone, on_three_axes, scaled_gemm, gemm_of_a_whole_bias, without_spread, read_by_another]
)
def test_what_cannot_be_folded_stays(tmp_path: Path, case: Callable[[], ModelProto]) -> None:
    made = prepared_norms(case(), tmp_path)

    assert "BatchNormalization" in {node.op_type for node in made.graph.node}


# Biases of Gemms


def gemms(bias: TensorProto, *, columns: int = 5) -> ModelProto:
    """A Gemm with this bias, a Relu, and a Gemm with none: (3, 6) → (3, 4)."""
    return models.model(
        [
            helper.make_node("Gemm", ["x", "w", bias.name], ["h"], name="first"),
            helper.make_node("Relu", ["h"], ["r"], name="relu"),
            helper.make_node("Gemm", ["r", "last"], ["y"], name="second"),
        ],
        [models.value("x", [3, 6])],
        [models.value("y", None)],
        [models.weights("w", 6, columns), models.weights("last", columns, 4), bias],
    )


SHAPES = [(1, 5), (1, 1), (1,), (), (3, 5), (3, 1)]


def in_words(case: object) -> str:
    return "x".join(map(str, case)) or "number" if isinstance(case, tuple) else str(case)


@pytest.mark.parametrize(
    "recipe",
    [
        StaticInt8(reduce_range=True),
        StaticInt8(reduce_range=True, recovery=(), calibration=Calibration(method="minmax")),
        StaticInt8(reduce_range=True, per_channel=False),
        StaticInt16(),
        StaticInt16(weights="qdq", recovery=()),
    ],
    ids=["static_int8", "minmax", "per_tensor", "static_int16", "qdq"],
)
@pytest.mark.parametrize("shape", SHAPES, ids=in_words)
def test_gemms_are_quantized_with_biases_of_any_shape(make: Maker, shape: tuple[int, ...], recipe: Static) -> None:
    feeds = [{"x": np.random.default_rng(row).standard_normal((3, 6)).astype(np.float32)} for row in range(16)]

    made = make(gemms(models.weights("b", *shape)), recipe, feeds=feeds)

    assert made.sqnr_db > 25
    stored = {tensor.name for tensor in made.proto.graph.initializer if tensor.data_type == TensorProto.INT8}
    assert {"w_quantized", "last_quantized"} <= stored, "both products are quantized"


@pytest.mark.parametrize("shape", SHAPES, ids=in_words)
def test_a_bias_of_any_shape_goes_on_to_be_what_it_is(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """In float, and for whoever else reads the stored tensor."""
    model = gemms(models.weights("b", *shape, spread=1.0))
    model.graph.node.append(helper.make_node("Identity", ["b"], ["seen"], name="reader"))
    model.graph.node.append(helper.make_node("Relu", ["h"], ["h_without_bias"], name="first_bias"))
    model.graph.output.extend([models.value("seen", None), models.value("h_without_bias", None)])
    path = models.save(model, tmp_path / "model.onnx")

    prepared = prepare(path, least_opset=13, keep_float=(), fold=False, batch_norms=True)

    onnx.checker.check_model(prepared.model, full_check=True)
    row = {"x": np.random.default_rng(1).standard_normal((3, 6)).astype(np.float32)}
    before, after = load(path).run(row), load(models.save(prepared.model, tmp_path / "made.onnx")).run(row)
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
        assert one.shape == other.shape
    stored = {tensor.name: list(tensor.dims) for tensor in prepared.model.graph.initializer}
    (first,) = (node for node in prepared.model.graph.node if node.name == "first")
    differs = shape[:1] == (3,)
    assert [stored[name] for name in first.input[2:]] == ([] if differs else [[5]])
    assert any("bias of 1 Gemm" in note for note in prepared.notes) == differs


def scaled_bias() -> ModelProto:
    model = gemms(models.weights("b", 3, 5))
    model.graph.node[0].attribute.append(helper.make_attribute("beta", 0.5))
    return model


def weights_given() -> ModelProto:
    model = gemms(models.weights("b", 3, 5))
    del model.graph.initializer[0]
    model.graph.input.append(models.value("w", [6, 5]))
    return model


def bias_given() -> ModelProto:
    model = gemms(models.weights("b", 3, 5))
    del model.graph.initializer[2]
    model.graph.input.append(models.value("b", [3, 5]))
    return model


@pytest.mark.parametrize("case", [scaled_bias, weights_given, bias_given])
def test_gemms_that_stay_in_float_or_work_as_they_are_keep_their_bias(
    tmp_path: Path, case: Callable[[], ModelProto]
) -> None:
    path = models.save(case(), tmp_path / "model.onnx")
    prepared = prepare(path, least_opset=13, keep_float=(), fold=True, batch_norms=True)
    assert [list(node.input) for node in prepared.model.graph.node if node.name == "first"] == [["x", "w", "b"]]


def test_a_gemm_kept_in_float_keeps_its_bias(tmp_path: Path) -> None:
    path = models.save(gemms(models.weights("b", 3, 5)), tmp_path / "model.onnx")
    prepared = prepare(path, least_opset=13, keep_float=("first",), fold=True, batch_norms=True)
    assert [list(node.input) for node in prepared.model.graph.node if node.name == "first"] == [["x", "w", "b"]]


@pytest.mark.parametrize("recipe", [StaticInt8(reduce_range=True), StaticInt16()], ids=lambda each: each.technique)
def test_a_bias_that_is_computed_is_added_as_it_is(make: Maker, recipe: Static) -> None:
    model = models.model(
        [
            helper.make_node("Gemm", ["x", "w", "b"], ["h"], name="first"),
            helper.make_node("Gemm", ["x", "last", "h"], ["y"], name="second"),
        ],
        [models.value("x", [3, 6])],
        [models.value("y", None)],
        [models.weights("w", 6, 5), models.weights("last", 6, 5, seed=1), models.weights("b", 5)],
    )
    feeds = [{"x": np.random.default_rng(row).standard_normal((3, 6)).astype(np.float32)} for row in range(16)]
    made = make(model, recipe, feeds=feeds)
    assert made.sqnr_db > 30
    assert [node.op_type for node in made.proto.graph.node if node.op_type in ("Gemm", "Add")] == ["Gemm", "Gemm"]


def test_two_batch_norms_are_folded_one_after_the_other() -> None:
    model = CASES["conv without bias"]()
    model.graph.node[1].output[0] = "z"
    again = model.graph.node.add()
    again.CopyFrom(model.graph.node[1])
    again.name, again.input[0], again.output[0] = "again", "z", "y"

    assert fold_batch_norms(model.graph, ()) == 2
    assert [(node.op_type, list(node.output)) for node in model.graph.node] == [("Conv", ["y"])]


# Dead parts


def test_what_no_output_depends_on_goes(tmp_path: Path) -> None:
    model = models.mlp()
    model.graph.node.extend(
        [
            helper.make_node("MatMul", ["h3", "unused_w"], ["d1"], name="dead"),
            helper.make_node("Relu", ["d1"], ["d2"], name="dead too"),
        ]
    )
    model.graph.initializer.extend([models.weights("unused_w", 24, 3), models.weights("nobody", 7)])
    path = models.save(model, tmp_path / "model.onnx")

    prepared = prepare(path, least_opset=13, keep_float=("dead",), fold=True)

    assert len(prepared.model.graph.node) == 4
    assert {tensor.name for tensor in prepared.model.graph.initializer} == {"w1", "b1", "w2", "b2"}
    assert "Dropped 2 nodes that no output depends on." in prepared.notes


def test_bodies_and_what_they_capture_are_looked_into() -> None:
    model = models.branches()
    body = model.graph.node[-1].attribute[0].g
    body.node.append(helper.make_node("Relu", ["h"], ["nowhere"], name="dead"))
    body.initializer.append(models.weights("nobody", 3))
    names = [node.name for node in model.graph.node]

    assert drop_dead_parts(model.graph) == (1, 1)
    assert [node.name for node in model.graph.node] == names
    assert "dead" not in {node.name for node in body.node}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=12), st.integers(0, 11))
def test_exactly_what_can_be_reached_from_the_output_stays(pairs: list[tuple[int, int]], chosen: int) -> None:
    nodes = [
        helper.make_node(
            "Add", [f"t{left % (index + 1)}", f"t{right % (index + 1)}"], [f"t{index + 1}"], name=str(index)
        )
        for index, (left, right) in enumerate(pairs)
    ]
    wanted = f"t{1 + chosen % len(pairs)}"
    model = models.model(nodes, [models.value("t0", [1])], [models.value(wanted, [1])])
    reached, waiting = set(), [wanted]
    while waiting:  # slowly, from the output back
        name = waiting.pop()
        for node in nodes:
            if node.output[0] == name and node.name not in reached:
                reached.add(node.name)
                waiting += node.input

    drop_dead_parts(model.graph)

    assert {node.name for node in model.graph.node} == reached


# Shared weights


def prepared_untied(model: ModelProto, place: Path) -> ModelProto:
    path = models.save(model, place / "model.onnx")
    return prepare(path, least_opset=13, keep_float=(), fold=True, batch_norms=True).model


def siamese() -> ModelProto:
    """Two convolutions with one weight and one bias over inputs of different ranges, and a third reader."""
    return models.model(
        [
            helper.make_node("Conv", ["x", "w", "b"], ["c1"], name="first", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c1"], ["r1"], name="relu"),
            helper.make_node("Mul", ["r1", "twenty"], ["m"], name="scale"),
            helper.make_node("Conv", ["m", "w", "b"], ["c2"], name="second", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c2"], ["r2"], name="relu2"),
            helper.make_node("ReduceMax", ["w"], ["most"], name="most", keepdims=0),
            helper.make_node("Add", ["r2", "most"], ["y"], name="add"),
        ],
        [models.value("x", ["batch", 4, 6, 6])],
        [models.value("y", ["batch", 4, 6, 6])],
        [models.weights("w", 4, 4, 3, 3), models.weights("b", 4), models.tensor("twenty", 20.0)],
    )


def test_each_product_has_weights_of_its_own(tmp_path: Path) -> None:
    made = prepared_untied(siamese(), tmp_path)

    nodes = {node.name: node for node in made.graph.node}
    own = [*nodes["first"].input[1:], *nodes["second"].input[1:], nodes["most"].input[0]]
    assert len(set(own)) == len(own)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    original = numpy_helper.to_array(siamese().graph.initializer[0])
    for name in ("first", "second"):
        np.testing.assert_array_equal(stored[nodes[name].input[1]], original)
    # The one that nobody else reads keeps its name: reports name it.
    assert nodes["most"].input[0] == "w"


def test_shared_weights_are_stored_once_where_their_integers_are_the_same(make: Maker) -> None:
    made = make(siamese(), StaticInt8(reduce_range=True, recovery=("bias_correction",)))

    integers = [
        tensor.name
        for tensor in made.proto.graph.initializer
        if tensor.data_type == TensorProto.INT8 and len(tensor.dims) == 4
    ]
    assert len(integers) == 1
    assert made.sqnr_db > 25


def test_correcting_the_bias_of_one_leaves_the_other_alone(make: Maker) -> None:
    plain = make(siamese(), StaticInt8(reduce_range=True, weight_bits=4, recovery=()))
    corrected = make(siamese(), StaticInt8(reduce_range=True, weight_bits=4, recovery=("bias_correction",)))

    assert [rung.kept for rung in corrected.produced.recovery] == [True]
    assert corrected.sqnr_db > plain.sqnr_db


def tied(words: int = 3000) -> ModelProto:
    """A table that is embedding and, transposed, head: (b,) ids → (b, 3000)."""
    return models.model(
        [
            helper.make_node("Gather", ["table", "ids"], ["e"], name="embed"),
            helper.make_node("Transpose", ["table"], ["t"], name="flip", perm=[1, 0]),
            helper.make_node("MatMul", ["e", "t"], ["y"], name="head"),
        ],
        [models.value("ids", ["batch"], TensorProto.INT64)],
        [models.value("y", ["batch", words])],
        [models.weights("table", words, 32)],
    )


@pytest.mark.parametrize(("keep_float", "stored"), [((), 2), (("head",), 1)])
def test_a_tied_head_is_stored_again_only_to_be_quantized(
    tmp_path: Path, keep_float: tuple[str, ...], stored: int
) -> None:
    path = models.save(tied(), tmp_path / "model.onnx")

    prepared = prepare(path, least_opset=13, keep_float=keep_float, fold=True)

    assert len(prepared.model.graph.initializer) == stored
    onnx.checker.check_model(prepared.model, full_check=True)
