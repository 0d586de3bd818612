"""The form that techniques start from computes what the model computes."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.parts import models
from tests.unit.quantization.conftest import random_feeds
from workers.formats.onnx.graph import all_nodes
from workers.quantization.preparation import prepare
from workers.quantization.weight_only import light
from workers.runtimes.session import load

MODELS: dict[str, Callable[[], ModelProto]] = {
    "conv": models.conv_net,
    "conv, opset 11": lambda: models.conv_net(opset=11),
    "mlp of constants": lambda: models.mlp(constants=True, named=False),
    "mlp, opset 12": lambda: models.mlp(opset=12),
    "transformer": models.transformer,
    "branches": models.branches,
    "loop": models.loop,
    "resize": models.resize_net,
    "upsample, opset 9": models.upsample_net,
    "function": models.function_model,
}


@pytest.mark.parametrize("fold", [True, False])
@pytest.mark.parametrize("made", MODELS.values(), ids=MODELS.keys())
def test_nothing_changes_but_rounding(tmp_path: Path, made: Callable[[], ModelProto], fold: bool) -> None:
    original = load(models.save(made(), tmp_path / "model.onnx"))

    prepared = prepare(tmp_path / "model.onnx", least_opset=13, keep_float=(), fold=fold, batch_norms=fold)

    onnx.save(prepared.model, tmp_path / "prepared.onnx")
    onnx.checker.check_model(str(tmp_path / "prepared.onnx"), full_check=True)
    session = load(tmp_path / "prepared.onnx")
    assert [port.name for port in session.inputs] == [port.name for port in original.inputs]
    for feeds in random_feeds(original, rows=4):
        for before, after in zip(original.run(feeds), session.run(feeds), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


def test_every_node_has_a_name_of_its_own(tmp_path: Path) -> None:
    model = models.mlp(named=False)
    model.graph.node[0].name = model.graph.node[1].name = "same"
    models.save(model, tmp_path / "model.onnx")

    prepared = prepare(tmp_path / "model.onnx", least_opset=13, keep_float=(), fold=True)

    names = [node.name for node in all_nodes(prepared.model)]
    assert len(set(names)) == len(names)
    assert all(names)


def test_weights_behind_a_transpose_are_weights(tmp_path: Path) -> None:
    models.save(models.mlp(constants=True), tmp_path / "model.onnx")

    prepared = prepare(tmp_path / "model.onnx", least_opset=13, keep_float=(), fold=True)

    assert [node.op_type for node in prepared.model.graph.node] == ["MatMul", "Add", "Relu", "Gemm"]
    # What they were made from is gone.
    assert {entry.name for entry in prepared.model.graph.initializer} == {"w1", "b1", "w2", "b2"}


def test_weights_are_no_inputs(tmp_path: Path) -> None:
    models.save(models.upsample_net(), tmp_path / "model.onnx")

    prepared = prepare(tmp_path / "model.onnx", least_opset=13, keep_float=(), fold=True)

    assert [value.name for value in prepared.model.graph.input] == ["x"]


@pytest.mark.parametrize("version", [3, 8])
def test_inputs_that_a_caller_could_set_are_named(tmp_path: Path, version: int) -> None:
    model = models.mlp(opset=9)
    model.ir_version = version
    model.graph.input.extend(models.value(tensor.name, tensor.dims) for tensor in model.graph.initializer)
    path = models.save(model, tmp_path / "model.onnx")

    made = [
        prepare(path, least_opset=13, keep_float=(), fold=True),
        light.read(path, least_opset=13, keep_float=()),
    ]

    for prepared in made:
        assert [value.name for value in prepared.model.graph.input] == ["x"]
        told = [note for note in prepared.notes if "default values" in note]
        # Version 3 of the format lists every weight; nobody can set it.
        assert [all(f"'{name}'" in note for name in ("w1", "b1", "w2", "b2")) for note in told] == [True] * (
            version > 3
        )


def picked(*between: NodeProto, stored: Sequence[TensorProto], opset: int = 17) -> ModelProto:
    """A product, what turns its output `h` of (b, 4, 8) into `g` with numbers without axes, and another product."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
            *between,
            helper.make_node("MatMul", ["g", "w2"], ["y"], name="second"),
        ],
        [models.value("x", ["batch", 4, 8])],
        [models.value("y", None)],
        [models.weights("w", 8, 8), models.weights("w2", 8, 5), *stored],
        opset=opset,
    )


NUMBERS: dict[str, Callable[[], ModelProto]] = {
    "an index": lambda: picked(
        helper.make_node("Cast", ["k"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["h", "i"], ["g"], axis=1),
        stored=[models.tensor("k", 0, np.int32)],
    ),
    "a limit": lambda: picked(
        helper.make_node("Cast", ["k"], ["n"], to=TensorProto.INT64),
        helper.make_node("Range", ["zero", "n", "one"], ["r"]),
        helper.make_node("Cast", ["r"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["h", "f"], ["g"]),
        stored=[models.tensor("k", 8.0), models.tensor("zero", 0, np.int64), models.tensor("one", 1, np.int64)],
    ),
    "a stored number in integers": lambda: picked(
        helper.make_node("DequantizeLinear", ["k", "scale"], ["d"]),
        helper.make_node("Cast", ["d"], ["i"], to=TensorProto.INT64),
        helper.make_node("Gather", ["h", "i"], ["g"], axis=1),
        stored=[models.tensor("k", 4, np.int8), models.tensor("scale", 0.5)],
    ),
}


@pytest.mark.parametrize("made", NUMBERS.values(), ids=NUMBERS.keys())
def test_numbers_computed_beforehand_get_no_axis(tmp_path: Path, made: Callable[[], ModelProto]) -> None:
    original = load(models.save(made(), tmp_path / "model.onnx"))

    prepared = prepare(tmp_path / "model.onnx", least_opset=13, keep_float=(), fold=True, requantize=True)

    assert not {"Cast", "DequantizeLinear"} & {
        node.op_type for node in prepared.model.graph.node if node.input[0] == "k"
    }
    session = load(models.save(prepared.model, tmp_path / "prepared.onnx"))
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 4, 8)).astype(np.float32)}
    np.testing.assert_allclose(session.run(feeds)[0], original.run(feeds)[0], rtol=1e-5, atol=1e-6)


def test_types_and_shapes_are_known(tmp_path: Path) -> None:
    models.save(models.conv_net(), tmp_path / "model.onnx")

    prepared = prepare(tmp_path / "model.onnx", least_opset=13, keep_float=(), fold=True, batch_norms=True)

    known = {value.name for value in prepared.model.graph.value_info}
    assert {"norm", "act", "dw", "sum", "pool", "flat"} <= known


@pytest.mark.parametrize("external", [True, False])
def test_external_data_are_noticed(tmp_path: Path, external: bool) -> None:
    models.save(models.mlp(), tmp_path / "model.onnx", external=external)

    assert prepare(tmp_path / "model.onnx", least_opset=13, keep_float=(), fold=True).external is external


def test_a_convolution_that_others_read_keeps_its_batch_norm(tmp_path: Path) -> None:
    model = models.conv_net()
    model.graph.output.append(models.value("stem", ["batch", 8, 12, 12]))
    models.save(model, tmp_path / "model.onnx")

    prepared = prepare(tmp_path / "model.onnx", least_opset=13, keep_float=(), fold=True, batch_norms=True)

    assert "BatchNormalization" in {node.op_type for node in prepared.model.graph.node}


def test_arithmetic_of_weights_alone_is_done_beforehand(tmp_path: Path) -> None:
    model = models.model(
        [
            helper.make_node("ReduceMean", ["v", "axes"], ["mean"], name="mean"),
            helper.make_node("Sub", ["v", "mean"], ["centered"], name="center"),
            helper.make_node("ReduceL2", ["centered", "axes"], ["length"], name="length"),
            helper.make_node("Div", ["centered", "length"], ["direction"], name="direction"),
            helper.make_node("Mul", ["direction", "g"], ["w"], name="scale"),
            helper.make_node("Conv", ["x", "w"], ["y"], name="conv"),
        ],
        [models.value("x", ["batch", 2, 5, 5])],
        [models.value("y", ["batch", 4, 3, 3])],
        [
            models.weights("v", 4, 2, 3, 3),
            models.weights("g", 4, 1, 1, 1),
            models.tensor("axes", [1, 2, 3], np.int64),
        ],
        opset=18,
    )
    models.save(model, tmp_path / "model.onnx")

    prepared = prepare(tmp_path / "model.onnx", least_opset=13, keep_float=(), fold=True)

    assert [node.op_type for node in prepared.model.graph.node] == ["Conv"]
    (found,) = (numpy_helper.to_array(tensor) for tensor in prepared.model.graph.initializer)
    v, g = (numpy_helper.to_array(tensor).astype(np.float64) for tensor in model.graph.initializer[:2])
    centered = v - v.mean(axis=(1, 2, 3), keepdims=True)
    wanted = centered / np.sqrt((centered**2).sum(axis=(1, 2, 3), keepdims=True)) * g
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_what_would_grow_is_not_done_beforehand(tmp_path: Path) -> None:
    model = models.model(
        [
            helper.make_node("Mul", ["column", "row"], ["w"], name="outer"),
            helper.make_node("MatMul", ["x", "w"], ["y"], name="product"),
        ],
        [models.value("x", ["batch", 50])],
        [models.value("y", ["batch", 60])],
        [models.weights("column", 50, 1), models.weights("row", 1, 60)],
    )
    models.save(model, tmp_path / "model.onnx")

    prepared = prepare(tmp_path / "model.onnx", least_opset=13, keep_float=(), fold=True)

    assert [node.op_type for node in prepared.model.graph.node] == ["Mul", "MatMul"]
