"""What static_int8 quantizes by default is what the runtime computes in integers."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import ModelProto, TensorProto, helper

from app.domain.recipe import StaticInt8
from tests.parts.models import model, tensor, value, weights
from tests.unit.quantization.conftest import Maker
from workers.quantization.static import OP_TYPES

CASES: dict[str, tuple[list[str], dict[str, object], list[TensorProto]]] = {
    "Conv": (["w"], {}, [weights("w", 4, 4, 1, 1)]),
    "MatMul": (["w"], {}, [weights("w", 8, 8)]),
    "Gemm": ([], {}, []),
    "Add": (["b"], {}, []),
    "Mul": (["b"], {}, []),
    "AveragePool": ([], {"kernel_shape": [2, 2]}, []),
    "GlobalAveragePool": ([], {}, []),
    "LeakyRelu": ([], {}, []),
    "Sigmoid": ([], {}, []),
    "Softmax": ([], {}, []),
    "Concat": (["b"], {"axis": 0}, []),
    "Split": ([], {"axis": 2}, []),
    "MaxPool": ([], {"kernel_shape": [2, 2]}, []),
    "Resize": (["", "s"], {"mode": "nearest"}, [tensor("s", [1, 1, 2, 2])]),
    "Gather": (["i"], {"axis": 2}, [tensor("i", [0, 2], np.int64)]),
    "Slice": (["i", "j"], {}, [tensor("i", [0, 0], np.int64), tensor("j", [1, 4], np.int64)]),
    "Reshape": (["s"], {}, [tensor("s", [1, 4, 4, 16], np.int64)]),
    "Transpose": ([], {"perm": [0, 1, 3, 2]}, []),
    "Squeeze": (["i"], {}, [tensor("i", [0], np.int64)]),
    "Unsqueeze": (["i"], {}, [tensor("i", [0], np.int64)]),
    "Flatten": ([], {}, []),
    "Relu": ([], {}, []),
    "Clip": (["l", "h"], {}, [tensor("l", 0.0), tensor("h", 6.0)]),
    "DepthToSpace": ([], {"blocksize": 2}, []),
    "Where": (["a", "b"], {}, [tensor("c", np.ones((1, 4, 8, 8)), bool)]),
}


def between_products(op_type: str) -> ModelProto:
    """The operator between convolutions and a matrix product, as it stands where it is worth integers."""
    extra, attributes, stored = CASES[op_type]
    inputs = ["c", *extra] if op_type == "Where" else ["a", *extra]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Conv", ["x", "w2"], ["b"], name="second", pads=[1, 1, 1, 1]),
    ]
    if op_type == "Gemm":
        nodes.append(helper.make_node("Flatten", ["a"], ["flat"], name="flat"))
        inputs, stored = ["flat", "w"], [weights("w", 256, 5)]
    outputs = ["t", "z"] if op_type == "Split" else ["t"]
    nodes.append(helper.make_node(op_type, inputs, outputs, name="tested", **attributes))
    kept = [weights("w1", 4, 3, 3, 3), weights("w2", 4, 3, 3, 3, seed=1), *stored]
    tested = model(nodes, [value("x", [1, 3, 8, 8])], [value("t", None)], kept)
    session = ort.InferenceSession(tested.SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(["t"], {"x": np.zeros((1, 3, 8, 8), np.float32)})
    nodes.append(helper.make_node("MatMul", ["t", "last"], ["y"], name="last"))
    return model(
        nodes,
        [value("x", [1, 3, 8, 8])],
        [value("y", None), *([] if "b" in inputs else [value("b", None)])],
        [*kept, weights("last", found.shape[-1], 5, seed=2)],
    )


def test_every_default_type_has_a_case() -> None:
    assert set(CASES) == set(OP_TYPES)


@pytest.mark.parametrize("op_type", OP_TYPES)
def test_it_runs_on_integers(make: Maker, tmp_path: Path, op_type: str) -> None:
    made = make(between_products(op_type), StaticInt8(reduce_range=True, recovery=()))
    options = ort.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    ort.InferenceSession(str(made.produced.file), options, providers=["CPUExecutionProvider"])

    optimized = onnx.load(tmp_path / "optimized.onnx").graph
    after_dequantizing = {
        reader.op_type
        for node in optimized.node
        if node.op_type == "DequantizeLinear"
        for reader in optimized.node
        if node.output[0] in reader.input
    }
    # What is dequantized is an output of the model, at most moved to its place.
    assert after_dequantizing <= {"Transpose"}
    assert {"QLinearConv"} <= {node.op_type for node in optimized.node}
