"""Types and shapes are found as far as they can be, and what cannot be inferred takes nothing else with it."""

from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from tests.parts import models
from workers.quantization.graph import put_weights_back, set_weights_aside
from workers.quantization.preparation import prepare
from workers.quantization.preparation.inference import infer


def typed(model: ModelProto) -> dict[str, int]:
    """Element types by tensor."""
    return {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}


def shaped(model: ModelProto) -> dict[str, list[int | str]]:
    """Shapes by tensor, of those that have one."""
    return {
        value.name: [size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim]
        for value in model.graph.value_info
        if value.type.tensor_type.HasField("shape")
    }


def chain(*, wide: int = 4) -> ModelProto:
    """MatMul, Relu, MatMul, Tanh, MatMul: (b, 4) → (b, 4)."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h1"], name="first"),
            helper.make_node("Relu", ["h1"], ["h2"], name="relu"),
            helper.make_node("MatMul", ["h2", "w2"], ["h3"], name="second"),
            helper.make_node("Tanh", ["h3"], ["h4"], name="tanh"),
            helper.make_node("MatMul", ["h4", "w"], ["y"], name="third"),
        ],
        [models.value("x", ["batch", 4])],
        [models.value("y", ["batch", 4])],
        [models.weights("w", 4, 4), models.weights("w2", wide, 4)],
    )


def test_everything_at_once_where_that_works() -> None:
    model, notes = infer(chain())

    assert notes == ()
    assert shaped(model) == {name: ["batch", 4] for name in ("h1", "h2", "h3", "h4")}


def test_a_declaration_that_contradicts_the_graph_is_named_and_the_rest_inferred() -> None:
    made = chain()
    made.graph.value_info.append(models.value("h3", ["batch", 7]))
    with pytest.raises(onnx.shape_inference.InferenceError):
        onnx.shape_inference.infer_shapes(made, strict_mode=True)

    model, notes = infer(made)

    assert typed(model) == dict.fromkeys(("h1", "h2", "h3", "h4"), TensorProto.FLOAT)
    assert shaped(model)["h2"] == ["batch", 4]
    (note,) = notes
    assert "'third' (MatMul)" in note
    assert "'first'" not in note


def test_inference_that_raises_leaves_what_the_nodes_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = onnx.shape_inference.infer_shapes

    def only_single_nodes(model: ModelProto, *args: bool, **options: bool) -> ModelProto:
        if len(model.graph.node) > 1:
            raise onnx.shape_inference.InferenceError("too much")
        if model.graph.node[0].name == "second":
            raise onnx.shape_inference.InferenceError("not this one")
        return whole(model, *args, **options)

    monkeypatch.setattr(onnx.shape_inference, "infer_shapes", only_single_nodes)

    model, notes = infer(chain())

    (note,) = notes
    assert "'second' (MatMul): not this one" in note
    assert shaped(model)["h2"] == ["batch", 4]
    # onnxruntime knows the one that onnx did not tell, and what comes after it.
    assert typed(model) == dict.fromkeys(("h1", "h2", "h3", "h4"), TensorProto.FLOAT)


def contrib() -> ModelProto:
    """An operator of onnxruntime's own between two products, its weights large enough to be set aside."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w1"], ["h1"], name="first"),
            helper.make_node("FusedMatMul", ["h1", "w2"], ["h2"], name="fused", domain="com.microsoft", alpha=0.5),
            helper.make_node("MatMul", ["h2", "w3"], ["y"], name="last"),
        ],
        [models.value("x", ["batch", 40])],
        [models.value("y", ["batch", 40])],
        [models.weights(name, 40, 40, seed=seed) for seed, name in enumerate(("w1", "w2", "w3"))],
        domains=[("com.microsoft", 1)],
    )


def test_the_runtime_tells_the_types_of_its_own_operators() -> None:
    made = contrib()
    assert "h2" not in typed(onnx.shape_inference.infer_shapes(made))
    before = made.SerializeToString(deterministic=True)
    aside = set_weights_aside(made)
    assert len(aside) == 3

    model, notes = infer(made)

    assert notes == ()
    assert typed(model)["h2"] == TensorProto.FLOAT
    assert shaped(model)["h2"] == ["batch", 40]
    put_weights_back(model, aside)
    del model.graph.value_info[:]
    assert model.SerializeToString(deterministic=True) == before


def test_what_nobody_knows_is_noted() -> None:
    made = contrib()
    made.graph.node[1].op_type = "NoSuchOperator"

    model, notes = infer(made)

    (note,) = notes
    assert "'h2'" in note
    assert "h2" not in typed(model)
    assert typed(model)["h1"] == TensorProto.FLOAT


def test_notes_reach_whoever_prepares(tmp_path: Path) -> None:
    made = chain()
    made.graph.value_info.append(models.value("h3", ["batch", 7]))
    models.save(made, tmp_path / "model.onnx")

    prepared = prepare(tmp_path / "model.onnx", least_opset=13, keep_float=(), fold=True)

    assert any("'third' (MatMul)" in note for note in prepared.notes)
