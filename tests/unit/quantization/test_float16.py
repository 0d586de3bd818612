"""float16: which tensors change their type, where Casts stand, and what half precision would not hold."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import ModelProto, TensorProto, helper, numpy_helper

from app.domain.recipe import Float16, OperatorType
from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array
from tests.unit.quantization.conftest import Made, Maker
from workers.formats.onnx.graph import all_nodes
from workers.quantization.half_precision import Halved
from workers.quantization.technique import Context, quantize
from workers.quantization.techniques import float16
from workers.runtimes.session import load

THROUGHOUT = Float16(keep_io_types=False)


def types(made: Made) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in made.proto.graph.initializer}


values = st.floats(-8, 8, width=32).filter(lambda number: number == 0 or abs(number) > 1e-5)


@settings(max_examples=40, deadline=None)
@given(
    x=arrays(np.float32, st.tuples(st.integers(1, 3), st.just(5)), elements=values),
    weight=arrays(np.float32, st.tuples(st.just(5), st.integers(1, 4)), elements=values),
    keep_io_types=st.booleans(),
)
def test_a_product_is_that_of_rounded_numbers(
    tmp_path_factory: pytest.TempPathFactory, x: Array, weight: Array, keep_io_types: bool
) -> None:
    folder = tmp_path_factory.mktemp("half")
    model = models.model(
        [helper.make_node("MatMul", ["x", "w"], ["y"], name="m")],
        [models.value("x", ["n", 5])],
        [models.value("y", ["n", weight.shape[1]])],
        [numpy_helper.from_array(weight, "w")],
    )
    recipe = Float16(keep_io_types=keep_io_types)

    made = quantize(models.save(model, folder / "m.onnx"), folder / "o.onnx", recipe, Context(work=folder))

    session = load(made.file)
    (found,) = session.run({"x": x if keep_io_types else x.astype(np.float16)})
    assert found.dtype == (np.float32 if keep_io_types else np.float16)
    half_x, half_w = x.astype(np.float16).astype(np.float64), weight.astype(np.float16).astype(np.float64)
    expected, size = half_x @ half_w, np.abs(half_x) @ np.abs(half_w)
    # The sum may be kept in half precision: 2^-11 a step.
    assert (np.abs(found - expected) <= 6 * 2.0**-11 * size + 1e-6).all()


def half_chain(*nodes: onnx.NodeProto, initializers: tuple[TensorProto, ...], width: int = 4) -> ModelProto:
    """x (n, width) → y (n, width) by these nodes."""
    return models.model(
        list(nodes), [models.value("x", ["n", width])], [models.value("y", ["n", width])], list(initializers)
    )


def squared() -> ModelProto:
    """A product, and an RMS norm written out: squares that half precision cannot hold, an addend that it loses."""
    return half_chain(
        helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
        helper.make_node("Pow", ["h", "two"], ["s"], name="square"),
        helper.make_node("ReduceMean", ["s"], ["m"], name="mean", axes=[-1]),
        helper.make_node("Add", ["m", "tiny"], ["e"], name="held"),
        helper.make_node("Sqrt", ["e"], ["r"], name="root"),
        helper.make_node("Div", ["h", "r"], ["y"], name="norm"),
        initializers=(models.weights("w", 4, 4), models.tensor("two", 2.0), models.tensor("tiny", 1e-8)),
    )


@pytest.mark.parametrize("size", [0.0, 1.0, 2000.0])
def test_a_norm_of_nothing_and_of_much_is_finite(make: Maker, size: float) -> None:
    rows = [{"x": np.full((1, 4), size, np.float32)}]

    made = make(squared(), Float16(), feeds=rows)

    assert np.isfinite(made.artifact[0][0]).all()
    np.testing.assert_allclose(made.artifact[0][0], made.original[0][0], rtol=1e-2, atol=1e-2)
    assert types(made) == {"w": TensorProto.FLOAT16, "two": TensorProto.FLOAT, "tiny": TensorProto.FLOAT}


def test_weights_beyond_half_precision_are_clipped_and_noted(make: Maker) -> None:
    model = models.gemm()
    model.graph.initializer[1].CopyFrom(models.tensor("b", [1e6, -1e38, *[0] * 6]))

    made = make(model, Float16())

    assert any("clipped" in note and "b" in note for note in made.produced.notes)
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.proto.graph.initializer}
    assert stored["b"].tolist()[:2] == [65504.0, -65504.0]


def tied() -> ModelProto:
    return half_chain(
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("MatMul", ["h", "w"], ["i"], name="second"),
        helper.make_node("MatMul", ["i", "v"], ["y"], name="third"),
        initializers=(models.weights("w", 4, 4, spread=1.0), models.weights("v", 4, 4, seed=1)),
    )


def test_a_weight_that_a_kept_node_reads_is_stored_once_and_in_float(make: Maker) -> None:
    made = make(tied(), Float16(keep_float=("second",)))

    assert types(made) == {"w": TensorProto.FLOAT, "v": TensorProto.FLOAT16}
    assert 50 < made.sqnr_db < 100
    (second,) = (node for node in made.proto.graph.node if node.name == "second")
    assert second.input[1] == "w"


def test_a_shared_weight_is_halved_once(make: Maker) -> None:
    assert types(make(tied(), Float16())) == {"w": TensorProto.FLOAT16, "v": TensorProto.FLOAT16}


def test_one_cast_a_tensor_and_none_between_half_nodes(make: Maker) -> None:
    made = make(models.transformer(), Float16())

    casts = [node.input[0] for node in made.proto.graph.node if node.op_type == "Cast"]
    assert len(casts) == len(set(casts))
    # The mask's own, one of what it made, and one for each output.
    assert len(casts) == 4


def typed() -> ModelProto:
    """Operators that choose the type of what they make: Range, Cast, ConstantOfShape, RandomNormal, EyeLike."""
    return models.model(
        [
            helper.make_node("Shape", ["x"], ["shape"], name="shape"),
            helper.make_node("Gather", ["shape", "last"], ["count"], name="count"),
            helper.make_node("Cast", ["count"], ["count_f"], name="cast", to=TensorProto.FLOAT),
            helper.make_node("Range", ["zero", "count_f", "one"], ["places"], name="range"),
            helper.make_node(
                "ConstantOfShape", ["shape"], ["twos"], name="fill", value=numpy_helper.from_array(np.float32([2.0]))
            ),
            helper.make_node("RandomNormalLike", ["x"], ["noise"], name="noise", scale=1e-3, dtype=1),
            helper.make_node("EyeLike", ["x"], ["eye"], name="eye", dtype=1),
            helper.make_node("MatMul", ["x", "w"], ["h"], name="product"),
            helper.make_node("Add", ["h", "places"], ["a"], name="a"),
            helper.make_node("Mul", ["a", "twos"], ["b"], name="b"),
            helper.make_node("Add", ["b", "noise"], ["c"], name="c"),
            helper.make_node("Add", ["c", "eye"], ["d"], name="d"),
            helper.make_node("Cast", ["d"], ["whole"], name="whole", to=TensorProto.INT64),
            helper.make_node("Cast", ["whole"], ["y"], name="back", to=TensorProto.FLOAT),
        ],
        [models.value("x", [4, 4])],
        [models.value("y", [4, 4]), models.value("d", [4, 4])],
        [
            models.weights("w", 4, 4, spread=3.0),
            models.tensor("last", 1, np.int64),
            models.tensor("zero", 0.0),
            models.tensor("one", 1.0),
        ],
    )


@pytest.mark.parametrize("recipe", [Float16(), THROUGHOUT], ids=["float32 ends", "throughout"])
def test_what_chooses_its_own_type_keeps_it(make: Maker, recipe: Float16) -> None:
    made = make(typed(), recipe)

    wanted = "float32" if recipe.keep_io_types else "float16"
    assert {port.dtype for port in (*made.session.inputs, *made.session.outputs)} == {wanted}
    assert types(made)["w"] == TensorProto.FLOAT16
    for before, after in zip(made.original, made.artifact, strict=True):
        np.testing.assert_allclose(after[1], before[1], atol=0.1)


@pytest.mark.parametrize("recipe", [Float16(), THROUGHOUT], ids=["float32 ends", "throughout"])
@pytest.mark.parametrize("model", [models.loop, models.branches, models.resize_net, models.upsample_net])
def test_bodies_and_operators_with_float_operands(make: Maker, model: object, recipe: Float16) -> None:
    made = make(model(), recipe)  # type: ignore[operator]

    assert made.sqnr_db > 50
    assert any(
        tensor.data_type == TensorProto.FLOAT16
        for graph in [made.proto.graph]
        for tensor in (*graph.initializer, *body_weights(made.proto))
    )


def body_weights(proto: ModelProto) -> list[TensorProto]:
    return [
        tensor
        for node in all_nodes(proto)
        for entry in node.attribute
        if entry.HasField("g")
        for tensor in entry.g.initializer
    ]


def ends() -> ModelProto:
    """An output that is read inside too, one that is an input, and one that is stored."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            helper.make_node("MatMul", ["h", "v"], ["y"], name="second"),
        ],
        [models.value("x", ["n", 4])],
        [models.value(name, ["n", 4]) for name in ("h", "y", "x")] + [models.value("v", [4, 4])],
        [models.weights("w", 4, 4), models.weights("v", 4, 4, seed=1)],
    )


@pytest.mark.parametrize("recipe", [Float16(), THROUGHOUT], ids=["float32 ends", "throughout"])
@pytest.mark.parametrize("keep", [(), ("second",)])
def test_ends_of_every_kind(make: Maker, recipe: Float16, keep: tuple[str, ...]) -> None:
    made = make(ends(), recipe.model_copy(update={"keep_float": keep}))

    wanted = "float32" if recipe.keep_io_types else "float16"
    assert [(port.name, port.dtype) for port in made.session.outputs] == [(name, wanted) for name in "hyxv"]
    assert made.sqnr_db > 50


FLOATS = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}


@pytest.mark.parametrize("recipe", [Float16(), THROUGHOUT], ids=["ends kept", "throughout"])
@pytest.mark.parametrize("given", FLOATS)
@pytest.mark.parametrize("wanted", FLOATS)
def test_ends_of_other_float_types_keep_them(tmp_path: Path, recipe: Float16, given: str, wanted: str) -> None:
    model = models.model(
        [
            helper.make_node("Cast", ["x"], ["a"], name="a", to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["a", "w"], ["h"], name="h"),
            helper.make_node("Cast", ["h"], ["y"], name="y", to=FLOATS[wanted]),
            helper.make_node("Identity", ["x"], ["same"], name="same"),
        ],
        [models.value("x", ["n", 4], FLOATS[given])],
        [models.value("y", ["n", 4], FLOATS[wanted]), models.value("same", ["n", 4], FLOATS[given])],
        [models.weights("w", 4, 4)],
    )
    path = models.save(model, tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((3, 4)).astype(given)

    made = quantize(path, tmp_path / "o.onnx", recipe, Context(work=tmp_path))

    session = load(made.file)
    halved = {"float32": "float32" if recipe.keep_io_types else "float16"}
    ports = [port.dtype for port in (*session.inputs, *session.outputs)]
    assert ports == [halved.get(kind, kind) for kind in (given, wanted, given)]
    found = session.run({"x": x.astype(ports[0])})
    for one, other in zip(found, load(path).run({"x": x}), strict=True):
        assert np.allclose(one.astype(np.float64), other.astype(np.float64), atol=5e-3)


def test_bodies_whose_ends_are_of_half_precision_keep_them(tmp_path: Path) -> None:
    half = TensorProto.FLOAT16
    body = helper.make_graph(
        [helper.make_node("Add", ["s", "s"], ["s2"]), helper.make_node("Identity", ["c"], ["c2"])],
        "body",
        [
            models.value("i", [], TensorProto.INT64),
            models.value("c", [], TensorProto.BOOL),
            models.value("s", None, half),
        ],
        [models.value("c2", [], TensorProto.BOOL), models.value("s2", None, half)],
    )
    branches = {
        "then_branch": helper.make_graph(
            [helper.make_node("Cast", ["h"], ["t"], to=half)], "then", [], [models.value("t", None, half)]
        ),
        "else_branch": helper.make_graph(
            [helper.make_node("Identity", ["d"], ["e"])], "else", [], [models.value("e", None, half)]
        ),
    }
    model = models.model(
        [
            helper.make_node("Loop", ["times", "", "x"], ["d"], name="loop", body=body),
            helper.make_node("Cast", ["d"], ["a"], name="a", to=TensorProto.FLOAT),
            helper.make_node("MatMul", ["a", "w"], ["h"], name="h"),
            helper.make_node("If", ["yes"], ["y"], name="if", **branches),
        ],
        [models.value("x", ["n", 4], half), models.value("yes", [], TensorProto.BOOL)],
        [models.value("y", None, half)],
        [models.weights("w", 4, 4), models.tensor("times", 2, np.int64)],
    )
    path = models.save(model, tmp_path / "m.onnx")

    made = quantize(path, tmp_path / "o.onnx", Float16(), Context(work=tmp_path))

    x = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float16)
    for yes in (True, False):
        feed = {"x": x, "yes": np.asarray(yes)}
        (found,), (wanted,) = load(made.file).run(feed), load(path).run(feed)
        assert found.dtype == np.float16
        assert np.allclose(found.astype(np.float64), wanted.astype(np.float64), atol=1e-2)


def test_operator_types_are_kept(make: Maker) -> None:
    made = make(models.transformer(), Float16(keep_float=(OperatorType(op_type="LayerNormalization"),)))

    assert {types(made)[name] for name in ("ln_g", "ln_b")} == {TensorProto.FLOAT}
    assert types(made)["wq"] == TensorProto.FLOAT16


def test_types_that_do_not_fit_are_an_error_that_names_the_node(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    def one_only(model: ModelProto, kept: object, *, keep_io_types: bool) -> Halved:
        weight = model.graph.initializer[0]
        weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name))
        return Halved(stored=[weight.name])

    monkeypatch.setattr(float16, "convert", one_only)

    with pytest.raises(StepError) as raised:
        make(models.mlp(), Float16())

    assert raised.value.code == "types_do_not_fit"
    assert "dense/MatMul" in raised.value.detail


def test_names_in_use_are_left_alone(make: Maker, tmp_path: Path) -> None:
    model = tied()
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = "x_float16"

    made = make(model, Float16())

    assert made.sqnr_db > 50
    names = [name for node in made.proto.graph.node for name in node.output]
    assert len(set(names)) == len(names)
