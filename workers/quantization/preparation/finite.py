"""Refuse weights that are no numbers: no scale can hold them, and what they make is not worth an artifact."""

from collections.abc import Collection

import numpy as np
from onnx import GraphProto, TensorProto, numpy_helper

from app.errors import StepError
from workers.formats.onnx.graph import graphs

_WEIGHTS = {
    "Conv": (1, 2), "ConvTranspose": (1, 2), "Gemm": (1, 2), "MatMul": (0, 1),
    "LSTM": (1, 2, 3), "GRU": (1, 2, 3), "RNN": (1, 2, 3),
}  # fmt: skip
"""Places of weights and biases. Infinite constants elsewhere may be meant, as in a mask."""

_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})


def check_finite(graph: GraphProto, kept: Collection[str]) -> None:
    """Raise StepError `weights_not_finite` for the first product with such weights that is not kept in float."""
    scopes = list(graphs(graph))
    stored = {tensor.name: tensor for scope in scopes for tensor in scope.initializer}
    checked: set[str] = set()
    for node in (node for scope in scopes for node in scope.node if not node.domain and node.name not in kept):
        for index in _WEIGHTS.get(node.op_type, ()):
            name = node.input[index] if index < len(node.input) else ""
            if name in checked or name not in stored or stored[name].data_type not in _FLOATS:
                continue
            checked.add(name)
            if not np.isfinite(numpy_helper.to_array(stored[name])).all():
                raise StepError(
                    f"The weights {name[:200]!r} of node {node.name[:200]!r} hold numbers that are infinite or not "
                    "numbers. Keep the node in float (keep_float), or export the model again.",
                    code="weights_not_finite",
                )
