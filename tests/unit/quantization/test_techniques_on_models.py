"""Every technique on every small model: it loads, passes the checker, and stays near the original."""

from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import ModelProto, helper

from app.domain.recipe import AnyRecipe, Calibration, DynamicInt8, Float16, StaticInt8
from app.errors import StepError
from tests.parts import models
from tests.unit.quantization.conftest import Maker
from workers.quantization.technique import Context, quantize

MODELS: dict[str, Callable[[], ModelProto]] = {
    "conv": models.conv_net,
    "conv, batch 1": lambda: models.conv_net(batch=1),
    "conv, opset 11": lambda: models.conv_net(opset=11),
    "mlp": models.mlp,
    "mlp of constants, no names": lambda: models.mlp(constants=True, named=False),
    "transformer": models.transformer,
    "branches": models.branches,
    "resize": models.resize_net,
    "upsample, opset 9": models.upsample_net,
    "function": models.function_model,
    "shared bias": models.shared_bias,
}

RECIPES: dict[str, AnyRecipe] = {
    "dynamic": DynamicInt8(op_types=("MatMul", "Gemm", "Conv"), reduce_range=True),
    "dynamic per channel": DynamicInt8(op_types=("MatMul", "Gemm", "Conv"), per_channel=True, reduce_range=True),
    "dynamic u8": DynamicInt8(op_types=("MatMul", "Gemm", "Conv"), weight_type="uint8", reduce_range=True),
    "static": StaticInt8(reduce_range=True),
    "static per tensor, s8": StaticInt8(per_channel=False, activation_type="int8", reduce_range=True),
    "static percentile": StaticInt8(calibration=Calibration(method="percentile"), reduce_range=True),
    "static entropy": StaticInt8(calibration=Calibration(method="entropy"), reduce_range=True),
    "float16": Float16(),
    "float16 throughout": Float16(keep_io_types=False),
}


LEAST_DB = {"float16": 60, "float16 throughout": 60, "static entropy": 20}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS.keys())
def test_stays_near_the_original(make: Maker, model: Callable[[], ModelProto], name: str) -> None:
    made = make(model(), RECIPES[name])

    # Eight bits of weights and activations, one to six layers deep; eleven bits of float16.
    assert made.sqnr_db > LEAST_DB.get(name, 25)
    # A quantizer that does nothing would be nearer than rounding allows.
    assert made.sqnr_db < 100
    assert [port.name for port in made.session.outputs] == [value.name for value in model().graph.output]


def test_float16_keeps_or_changes_the_types_of_inputs_and_outputs(make: Maker) -> None:
    kept = make(models.mlp(), Float16(keep_io_types=True)).session
    changed = make(models.mlp(), Float16(keep_io_types=False)).session

    assert (kept.inputs[0].dtype, kept.outputs[0].dtype) == ("float32", "float32")
    assert (changed.inputs[0].dtype, changed.outputs[0].dtype) == ("float16", "float16")


def test_float16_casts_inside_the_body_of_a_loop(make: Maker) -> None:
    made = make(models.loop(), Float16())

    assert made.sqnr_db > 50


def test_float16_notes_weights_that_it_clips(make: Maker) -> None:
    model = models.gemm()
    model.graph.initializer[1].CopyFrom(models.tensor("b", [1e6, *[0] * 7]))

    made = make(model, Float16())

    assert any("clipped" in note and "b" in note for note in made.produced.notes)


def test_dynamic_quantizes_bodies_too(make: Maker) -> None:
    made = make(models.loop(), DynamicInt8(reduce_range=True))

    (loop,) = (node for node in made.proto.graph.node if node.op_type == "Loop")
    assert "MatMulInteger" in {node.op_type for node in loop.attribute[0].g.node}
    assert made.sqnr_db > 15


def test_convolutions_without_a_scale_a_channel_are_noted(make: Maker) -> None:
    recipe = DynamicInt8(op_types=("Conv", "Gemm"), per_channel=True, reduce_range=True)

    notes = make(models.conv_net(), recipe).produced.notes

    assert any("one scale a tensor" in note for note in notes)


def test_batch_norms_are_folded_and_named(make: Maker) -> None:
    made = make(models.conv_net(), StaticInt8(reduce_range=True))

    assert "BatchNormalization" not in made.op_types
    assert "Folded 1 batch normalization into the product before it." in made.produced.notes


def test_conversion_of_an_old_opset_is_named(make: Maker) -> None:
    made = make(models.mlp(opset=12), StaticInt8(reduce_range=True))

    assert "Converted from opset 12 to 13." in made.produced.notes
    assert {entry.domain: entry.version for entry in made.proto.opset_import}[""] == 13


def test_external_data_stay_external(make: Maker) -> None:
    made = make(models.mlp(), Float16(), external=True)

    data = made.produced.file.with_name("model.onnx.data")
    assert data.stat().st_size >= 32 * 24 * 2


def test_a_model_of_one_file_stays_one_file(make: Maker) -> None:
    made = make(models.mlp(), DynamicInt8())

    assert [path.name for path in made.produced.file.parent.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize("recipe", [DynamicInt8(), StaticInt8(), Float16()])
def test_nothing_to_quantize(make: Maker, recipe: AnyRecipe) -> None:
    with pytest.raises(StepError) as raised:
        make(models.no_weights(), recipe)

    assert raised.value.code == "nothing_to_quantize"
    assert recipe.technique in raised.value.detail


def test_everything_kept_in_float_leaves_nothing_to_quantize(make: Maker) -> None:
    with pytest.raises(StepError) as raised:
        make(models.mlp(), DynamicInt8(keep_float=("*",)))

    assert raised.value.code == "nothing_to_quantize"


def test_multiplying_activations_alone_leaves_nothing_to_quantize(make: Maker) -> None:
    model = models.model(
        [helper.make_node("MatMul", ["a", "b"], ["y"], name="m")],
        [models.value("a", ["batch", 4]), models.value("b", [4, 4])],
        [models.value("y", ["batch", 4])],
    )

    with pytest.raises(StepError) as raised:
        make(model, DynamicInt8())

    assert raised.value.code == "nothing_to_quantize"


@pytest.mark.parametrize("recipe", [DynamicInt8(), StaticInt8(), Float16()])
def test_a_quantized_model_is_refused(make: Maker, recipe: AnyRecipe) -> None:
    quantized = make(models.mlp(), StaticInt8()).proto

    with pytest.raises(StepError) as raised:
        make(quantized, recipe)

    assert raised.value.code == "already_quantized"


@pytest.mark.parametrize("recipe", [DynamicInt8(op_types=("Gem",)), StaticInt8(op_types=("Gem",))])
def test_unknown_operator_types_are_refused_with_near_ones(make: Maker, recipe: AnyRecipe) -> None:
    with pytest.raises(StepError) as raised:
        make(models.mlp(), recipe)

    assert raised.value.code == "op_type_not_quantizable"
    assert "Gemm" in raised.value.detail


def test_static_needs_ranges(tmp_path: Path) -> None:
    path = models.save(models.mlp(), tmp_path / "model.onnx")

    with pytest.raises(StepError) as raised:
        quantize(path, tmp_path / "out.onnx", StaticInt8(reduce_range=False), Context(work=tmp_path))

    assert raised.value.code == "calibration_missing"


def test_an_opset_that_cannot_be_converted_is_refused(make: Maker) -> None:
    # Scan changed its inputs in opset 9, and onnx has no way over.
    body = helper.make_graph(
        [helper.make_node("Identity", ["row"], ["out"])], "body", [models.value("row", [4])], [models.value("out", [4])]
    )
    model = models.model(
        [
            helper.make_node("Scan", ["", "x"], ["s"], name="scan", body=body, num_scan_inputs=1),
            helper.make_node("MatMul", ["s", "w"], ["y"], name="m"),
        ],
        [models.value("x", [1, 3, 4])],
        [models.value("y", [1, 3, 2])],
        [models.weights("w", 4, 2)],
        opset=8,
    )

    with pytest.raises(StepError) as raised:
        make(model, StaticInt8())

    assert raised.value.code == "opset_conversion_failed"
    assert "opset 13" in raised.value.detail
