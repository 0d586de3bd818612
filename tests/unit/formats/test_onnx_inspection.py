"""What inspection says of models that can be used."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, SparseTensorProto, TensorProto, helper, numpy_helper

from app.domain.model import ModelInspection, TensorSpec
from tests.parts import models
from tests.parts.models import model, save, tensor, value, weights
from workers.formats.onnx.inspection import inspect_onnx
from workers.formats.onnx.message import load_model
from workers.formats.onnx.weights import count_parameters


def inspected(made: ModelProto, tmp_path: Path) -> ModelInspection:
    return inspect_onnx(save(made, tmp_path / "model.onnx"))


def test_a_model_is_described(tmp_path: Path) -> None:
    found = inspected(models.conv_net(), tmp_path)
    assert found.inputs == (TensorSpec(name="image", dtype="float32", shape=("batch", 3, 12, 12)),)
    assert found.outputs == (TensorSpec(name="logits", dtype="float32", shape=("batch", 10)),)
    assert (found.opset, found.opsets) == (17, {"ai.onnx": 17})
    assert found.operators["Conv"] == 2
    assert sum(found.operators.values()) == 9
    assert found.parameters == 8 * 27 + 4 * 8 + 1 + 1 + 8 * 9 + 8 + 80 + 10
    assert (found.quantized, found.dynamic, found.external_data) == (False, True, False)
    assert found.files == ("model.onnx",)
    assert found.notes == ()


def test_fixed_shapes_are_not_dynamic(tmp_path: Path) -> None:
    assert not inspected(models.conv_net(batch=1), tmp_path).dynamic


def test_an_axis_without_a_name_is_null(tmp_path: Path) -> None:
    made = model([helper.make_node("Relu", ["x"], ["y"])], [value("x", [None, 4])], [value("y", [-1, 4])])
    found = inspected(made, tmp_path)
    assert (found.inputs[0].shape, found.outputs[0].shape) == ((None, 4), (None, 4))


def test_what_the_file_leaves_out_of_its_outputs_is_inferred(tmp_path: Path) -> None:
    made = models.mlp()
    made.graph.output[0].ClearField("type")
    assert inspected(made, tmp_path).outputs == (TensorSpec(name="y", dtype="float32", shape=("batch", 5)),)


def test_initializers_that_old_files_list_as_inputs_are_not_fed(tmp_path: Path) -> None:
    found = inspected(models.upsample_net(), tmp_path)
    assert [spec.name for spec in found.inputs] == ["x"]
    assert found.notes == ("Opset 9 is converted to 13 or later before quantization.",)


def test_element_types_have_numpys_names(tmp_path: Path) -> None:
    kinds = {
        "float16": TensorProto.FLOAT16, "int8": TensorProto.INT8, "bool": TensorProto.BOOL,
        "string": TensorProto.STRING, "bfloat16": TensorProto.BFLOAT16, "uint64": TensorProto.UINT64,
    }  # fmt: skip
    made = model(
        [helper.make_node("Identity", [name], [f"{name}_out"]) for name in kinds],
        [value(name, ["n"], kind) for name, kind in kinds.items()],
        [value(f"{name}_out", ["n"], kind) for name, kind in kinds.items()],
    )
    found = inspected(made, tmp_path)
    assert [spec.dtype for spec in found.inputs] == list(kinds)


@pytest.mark.parametrize("made", [models.mlp(), models.mlp(constants=True)], ids=["initializers", "constants"])
def test_weights_count_wherever_they_lie(made: ModelProto, tmp_path: Path) -> None:
    assert inspected(made, tmp_path).parameters == 32 * 24 + 24 + 5 * 24 + 5


def test_nested_bodies_count(tmp_path: Path) -> None:
    found = inspected(models.branches(), tmp_path)
    # Each branch has its own w (12 × 8), cap and spelled-out scale; w0 and zero stand outside.
    assert found.parameters == 16 * 12 + 1 + 2 * (12 * 8 + 1 + 1)
    assert found.operators["MatMul"] == 3
    assert "Has nested bodies (If, Loop or Scan)." in found.notes


def test_parameters_agree_with_what_the_runtime_stores(tmp_path: Path) -> None:
    for made in (models.conv_net(), models.transformer(), models.resize_net()):
        path = save(made, tmp_path / "model.onnx")
        reference = sum(numpy_helper.to_array(stored).size for stored in made.graph.initializer)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.optimized_model_filepath = str(tmp_path / "stored.onnx")
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        stored = onnx.load(tmp_path / "stored.onnx").graph.initializer
        assert count_parameters(load_model(path)) == reference == sum(numpy_helper.to_array(t).size for t in stored)


def test_a_weight_used_twice_counts_once(tmp_path: Path) -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("MatMul", ["h", "w"], ["y"])]
    made = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], [weights("w", 4, 4)])
    assert inspected(made, tmp_path).parameters == 16


def test_tensors_in_one_region_of_external_data_count_once(tmp_path: Path) -> None:
    stored = [weights("a", 8, 8), weights("b", 8, 8)]
    nodes = [helper.make_node("MatMul", ["x", "a"], ["h"]), helper.make_node("MatMul", ["h", "b"], ["y"])]
    made = model(nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], stored)
    path = save(made, tmp_path / "model.onnx", external=True)
    shared = onnx.load(path, load_external_data=False)
    first, second = shared.graph.initializer
    del second.external_data[:]
    second.external_data.extend(first.external_data)
    path.write_bytes(shared.SerializeToString())
    assert inspect_onnx(path, beside=["weights.bin"]).parameters == 64


def test_a_sparse_tensor_counts_its_stored_values(tmp_path: Path) -> None:
    sparse = SparseTensorProto()
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(3, np.float32), "w"))
    sparse.indices.CopyFrom(numpy_helper.from_array(np.array([0, 5, 15], np.int64), "i"))
    sparse.dims.extend([4, 4])
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], [value("x", ["n", 4])], [value("y", ["n", 4])])
    made.graph.sparse_initializer.append(sparse)
    found = inspected(made, tmp_path)
    assert found.parameters == 3
    assert [spec.name for spec in found.inputs] == ["x"]
    assert "Has sparse weights." in found.notes


def test_local_functions_count_once(tmp_path: Path) -> None:
    function = helper.make_function(
        "own", "Scaled", ["a"], ["b"],
        [
            helper.make_node("Constant", [], ["s"], value=tensor("s", [1, 2, 3, 4])),
            helper.make_node("Mul", ["a", "s"], ["b"]),
        ],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Scaled", ["x"], ["h"], domain="own"),
        helper.make_node("Scaled", ["h"], ["y"], domain="own"),
    ]
    made = model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], domains=[("own", 1)])
    made.functions.append(function)
    found = inspected(made, tmp_path)
    assert found.parameters == 4
    assert found.operators == {"Scaled": 2, "Constant": 1, "Mul": 1}
    assert found.opsets == {"ai.onnx": 17, "own": 1}
    assert "Has 1 local functions." in found.notes


def quantized_by_qdq() -> ModelProto:
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["y"]),
    ]
    stored = [tensor("s", 0.1), tensor("z", 0, np.int8)]
    return model(nodes, [value("x", ["n", 4])], [value("y", ["n", 4])], stored)


def quantized_by_microsoft() -> ModelProto:
    node = helper.make_node(
        "MatMulNBits", ["x", "w", "s"], ["y"], domain="com.microsoft", K=32, N=4, bits=4, block_size=32
    )
    stored = [tensor("w", np.zeros((4, 1, 16)), np.uint8), tensor("s", np.ones(4))]
    return model([node], [value("x", ["n", 32])], [value("y", ["n", 4])], stored, domains=[("com.microsoft", 1)])


@pytest.mark.parametrize("made", [quantized_by_qdq(), quantized_by_microsoft()], ids=["qdq", "matmul_nbits"])
def test_a_quantized_model_is_recognised(made: ModelProto, tmp_path: Path) -> None:
    found = inspected(made, tmp_path)
    assert found.quantized
    assert found.notes[0].startswith("Already quantized")


def test_external_data_beside_the_model(tmp_path: Path) -> None:
    path = save(models.mlp(), tmp_path / "model.onnx", external=True)
    found = inspect_onnx(path, beside=["weights.bin", "readme.txt"])
    assert found.external_data
    assert found.files == ("model.onnx", "weights.bin")
    assert found.parameters == 32 * 24 + 24 + 5 * 24 + 5


def test_a_fixed_batch_is_noted(tmp_path: Path) -> None:
    assert "fixed at 8" in " ".join(inspected(models.gemm(batch=8), tmp_path).notes)


def test_nothing_is_computed_while_a_model_is_described(tmp_path: Path) -> None:
    """A loop without end is never entered."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["state"], ["next"])],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state", [1])],
        [value("go_on", [], TensorProto.BOOL), value("next", [1])],
    )
    made = model(
        [helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)],
        [value("x", [1])],
        [value("y", [1])],
        [tensor("yes", True, np.bool_)],
    )
    assert inspected(made, tmp_path).operators == {"Identity": 2, "Loop": 1}
