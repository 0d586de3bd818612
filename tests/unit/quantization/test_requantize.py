"""A model in QDQ form is turned back into float where that is asked for: the same, but for rounding of activations."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from app.domain.recipe import NEEDS_CALIBRATION, TECHNIQUES, DynamicInt8, StaticInt8, WeightOnly
from app.errors import StepError
from tests.parts import models
from tests.parts.models import Array, tensor, value
from tests.unit.quantization.conftest import Maker, random_feeds
from workers.quantization.preparation import prepare, quantized_operators
from workers.runtimes.session import load

PLAIN = sorted(set(TECHNIQUES) - {"mixed"})
"""A mixed recipe's parts have each an option of their own."""


def back(model: ModelProto, place: Path, least_opset: int = 13) -> tuple[ModelProto, tuple[str, ...]]:
    path = models.save(model, place / "quantized.onnx")
    prepared = prepare(path, least_opset=least_opset, keep_float=(), fold=True, requantize=True)
    onnx.checker.check_model(prepared.model, full_check=True)
    models.save(prepared.model, place / "back.onnx")
    return prepared.model, prepared.notes


def qdq(zero_point: Any, *, scale: float = 0.1) -> ModelProto:
    """x through a pair, a product with stored integers by columns, and another pair: (b, 3) → (b, 2)."""
    return models.model(
        [
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], name="q"),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], name="d"),
            helper.make_node("DequantizeLinear", ["wq", "ws", "wz"], ["w"], name="dw", axis=1),
            helper.make_node("MatMul", ["xd", "w"], ["p"], name="product"),
            helper.make_node("QuantizeLinear", ["p", "s", "z"], ["pq"], name="q2"),
            helper.make_node("DequantizeLinear", ["pq", "s", "z"], ["y"], name="d2"),
        ],
        [value("x", ["batch", 3])],
        [value("y", ["batch", 2])],
        [
            tensor("s", scale),
            numpy_helper.from_array(np.asarray(zero_point), "z"),
            tensor("wq", [[1, -2], [30, 4], [-5, 60]], np.int8),
            tensor("ws", [0.5, 0.25]),
            tensor("wz", [0, 10], np.int8),
        ],
        opset=21,
    )


@pytest.mark.parametrize("zero_point", [np.uint8(0), np.uint8(100), np.int8(-3), np.uint16(7), np.int16(0)])
def test_numbers_are_those_of_the_integers_and_bounds_those_they_reach(tmp_path: Path, zero_point: Any) -> None:
    made, (note,) = back(qdq(zero_point), tmp_path)

    weights = (np.array([[1, -2], [30, 4], [-5, 60]]) - [0, 10]) * [0.5, 0.25]
    limits = np.iinfo(zero_point.dtype)
    low, high = ((end - int(zero_point)) * 0.1 for end in (limits.min, limits.max))
    x = np.random.default_rng(0).uniform(-50, 50, (40, 3)).astype(np.float32)
    exact = np.clip(np.clip(x.astype(np.float64), low, high) @ weights, low, high)
    np.testing.assert_allclose(load(tmp_path / "back.onnx").run({"x": x})[0], exact, rtol=1e-5, atol=1e-3)
    assert quantized_operators(made) == []
    assert "1 stored tensors" in note
    assert "2 activations" in note


def test_what_is_within_its_bounds_needs_no_second_clip(tmp_path: Path) -> None:
    model = qdq(np.uint8(100))
    nodes = list(model.graph.node)
    nodes[3].input[0] = "moved"
    nodes[2:2] = [
        helper.make_node("Reshape", ["xd", "shape"], ["r"], name="reshape"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["rq"], name="q3"),
        helper.make_node("DequantizeLinear", ["rq", "s", "z"], ["moved"], name="d3"),
    ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.append(tensor("shape", [0, 3], np.int64))

    made, _ = back(model, tmp_path)

    assert [node.op_type for node in made.graph.node] == ["Clip", "Reshape", "MatMul", "Clip"]


def test_one_reader_each_is_one_clip_for_all(tmp_path: Path) -> None:
    model = qdq(np.uint8(100))
    model.graph.node.extend(
        [
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["again"], name="d3"),
            helper.make_node("MatMul", ["again", "w"], ["y2"], name="other"),
        ]
    )
    model.graph.output.append(value("y2", ["batch", 2]))

    made, _ = back(model, tmp_path)

    assert sorted(node.op_type for node in made.graph.node) == ["Clip", "Clip", "MatMul", "MatMul"]


def test_our_own_artifact_comes_back_with_its_rectifiers(make: Maker, tmp_path: Path) -> None:
    """Static artifacts have a ReLU in nothing but the end of a range."""
    artifact = make(models.conv_net(batch=1), StaticInt8(reduce_range=True))
    assert "Clip" not in artifact.op_types

    back(artifact.proto, tmp_path)

    session = load(tmp_path / "back.onnx")
    signal = noise = 0.0
    for row, (wanted,) in zip(artifact.feeds, artifact.artifact, strict=True):
        (found,) = session.run(row)
        signal, noise = signal + float((wanted**2).sum()), noise + float(((wanted - found) ** 2).sum())
    # Only the rounding of activations lies between the two.
    assert 10 * np.log10(signal / noise) > 30


class _Rows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, rows: list[dict[str, Array]]) -> None:
        self._rows = iter(rows)

    def get_next(self) -> dict[str, Array] | None:
        return next(self._rows, None)


@pytest.mark.parametrize("technique", PLAIN)
def test_every_technique_takes_what_onnxruntime_quantized(make: Maker, tmp_path: Path, technique: str) -> None:
    model = models.mlp()
    path = models.save(model, tmp_path / "float.onnx")
    feeds = random_feeds(load(path))
    quantize_static(
        path,
        tmp_path / "stock.onnx",
        _Rows(feeds),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    stock = onnx.load(tmp_path / "stock.onnx")
    assert quantized_operators(stock)
    options: dict[str, Any] = {"reduce_range": True} if technique in ("static_int8", "dynamic_int8") else {}
    if technique == "bfloat16":
        options["least_elements"] = 1

    made = make(stock, TECHNIQUES[technique](requantize=True, **options), feeds=feeds)

    # Against the float model that the stock quantizer was given, which nobody told us.
    original = load(path)
    signal = noise = 0.0
    for row, outputs in zip(feeds, made.artifact, strict=True):
        wanted = original.run(row)[0].astype(np.float64)
        signal, noise = signal + float((wanted**2).sum()), noise + float(((wanted - outputs[0]) ** 2).sum())
    assert 10 * np.log10(signal / noise) > (12 if technique == "weight_only" else 25)
    assert any(note.startswith("Turned back into float") for note in made.produced.notes)
    if technique not in NEEDS_CALIBRATION:
        assert "QuantizeLinear" not in made.op_types


def test_nothing_is_turned_back_that_is_float(make: Maker) -> None:
    made = make(models.mlp(), DynamicInt8(requantize=True, reduce_range=True))

    assert not any(note.startswith("Turned back") for note in made.produced.notes)


def stored_activation() -> ModelProto:
    """A quantized output: integers leave the model."""
    model = qdq(np.uint8(100))
    del model.graph.output[:]
    model.graph.output.append(value("pq", ["batch", 2], TensorProto.UINT8))
    return model


def other_scale() -> ModelProto:
    model = qdq(np.uint8(100))
    model.graph.initializer.append(tensor("s2", 0.2))
    model.graph.node[1].input[1] = "s2"
    return model


def computed_scale() -> ModelProto:
    model = qdq(np.uint8(100))
    model.graph.node.insert(0, helper.make_node("ReduceMax", ["x"], ["most"], name="most", keepdims=0))
    for node in model.graph.node[1:3]:
        node.input[1] = "most"
    return model


@pytest.mark.parametrize(
    ("case", "named"), [(stored_activation, "'q2'"), (other_scale, "'q'"), (computed_scale, "'q'")]
)
def test_other_uses_of_integers_are_refused_by_name(tmp_path: Path, case: Any, named: str) -> None:
    with pytest.raises(StepError) as raised:
        back(case(), tmp_path)

    assert raised.value.code == "already_quantized"
    assert named in raised.value.detail


@pytest.mark.parametrize("recipe", [DynamicInt8(reduce_range=True), WeightOnly()])
def test_integer_operators_are_refused_all_the_same(make: Maker, recipe: Any) -> None:
    quantized = make(models.mlp(), recipe).proto

    with pytest.raises(StepError) as raised:
        make(quantized, DynamicInt8(requantize=True))

    assert raised.value.code == "already_quantized"
    assert "cannot be turned back into float" in raised.value.detail


@pytest.mark.parametrize("technique", PLAIN)
def test_weights_in_files_of_their_own_come_back_too(make: Maker, technique: str) -> None:
    artifact = make(models.mlp(), StaticInt8(reduce_range=True), external=True)

    made = make(artifact.proto, TECHNIQUES[technique](requantize=True), external=True, feeds=artifact.feeds)

    # Rounded twice, to other grids.
    assert made.sqnr_db > (10 if technique == "weight_only" else 20)
