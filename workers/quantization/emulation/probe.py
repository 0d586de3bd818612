"""How this processor multiplies, found out by multiplying."""

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from workers.quantization.emulation.arithmetic import HIGHEST, Arithmetic

_REDUCTION, _OUTPUTS = 8, 16
_ERROR = 3


def arithmetic_here() -> Arithmetic:
    """Let onnxruntime multiply the largest numbers there are: `saturating` where 16 bits were too few for them."""
    (total,) = np.unique(_product())
    return "saturating" if total == _REDUCTION // 2 * HIGHEST else "exact"


def _product() -> np.ndarray[tuple[int, ...], np.dtype[np.int32]]:
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["activations", "weights"], ["totals"])],
        "probe",
        [helper.make_tensor_value_info("activations", TensorProto.UINT8, [1, _REDUCTION])],
        [helper.make_tensor_value_info("totals", TensorProto.INT32, [1, _OUTPUTS])],
        [numpy_helper.from_array(np.full((_REDUCTION, _OUTPUTS), 127, np.int8), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _ERROR
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    totals: np.ndarray[tuple[int, ...], np.dtype[np.int32]] = session.run(
        None, {"activations": np.full((1, _REDUCTION), 255, np.uint8)}
    )[0]
    return totals
