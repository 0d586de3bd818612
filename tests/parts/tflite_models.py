"""Small real TFLite models, written with the schema that LiteRT brings along."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

Array = np.ndarray[Any, np.dtype[Any]]

WIDTH, UNITS = 4, 3

_TYPES = {"float32": schema.TensorType.FLOAT32, "int8": schema.TensorType.INT8, "int32": schema.TensorType.INT32}


def dense_weights() -> tuple[Array, Array]:
    """Weights (units, width) and biases (units) of `dense`."""
    rng = np.random.default_rng(7)
    return rng.normal(size=(UNITS, WIDTH)).astype(np.float32), rng.normal(size=UNITS).astype(np.float32)


def dense(*, dynamic: bool = True) -> bytes:
    """A dense layer and a softmax: `x` (batch, 4) → `scores` (batch, 3); the batch may be fixed at one."""
    weights, bias = dense_weights()
    made = _Model()
    x = made.tensor("x", (1, WIDTH), signature=(-1, WIDTH) if dynamic else None)
    w, b = made.tensor("weights", weights.shape, values=weights), made.tensor("bias", bias.shape, values=bias)
    logits = made.tensor("logits", (1, UNITS), signature=(-1, UNITS) if dynamic else None)
    scores = made.tensor("scores", (1, UNITS), signature=(-1, UNITS) if dynamic else None)
    made.operator(
        schema.BuiltinOperator.FULLY_CONNECTED,
        [x, w, b],
        [logits],
        schema.BuiltinOptions.FullyConnectedOptions,
        schema.FullyConnectedOptionsT(),
    )
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    made.operator(schema.BuiltinOperator.SOFTMAX, [logits], [scores], schema.BuiltinOptions.SoftmaxOptions, softmax)
    return made.finish([x], [scores])


def quantized_relu() -> bytes:
    """A ReLU on int8 with scale 0.5 and zero point -3: `x` (1, 4) → `y` (1, 4)."""
    made = _Model()
    x = made.tensor("x", (1, WIDTH), dtype="int8", scale=0.5, zero_point=-3)
    y = made.tensor("y", (1, WIDTH), dtype="int8", scale=0.5, zero_point=-3)
    made.operator(schema.BuiltinOperator.RELU, [x], [y])
    return made.finish([x], [y])


def one_operator() -> bytes:
    """The absolute value of one number: `x` (1,) → `y` (1,)."""
    made = _Model()
    x, y = made.tensor("x", (1,)), made.tensor("y", (1,))
    made.operator(schema.BuiltinOperator.ABS, [x], [y])
    return made.finish([x], [y])


def custom(name: str = "MyOwnOperator") -> bytes:
    """A model whose one operator nobody implements."""
    made = _Model()
    x, y = made.tensor("x", (1, WIDTH)), made.tensor("y", (1, WIDTH))
    made.operator(schema.BuiltinOperator.CUSTOM, [x], [y], custom=name)
    return made.finish([x], [y])


def save(content: bytes, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class _Model:
    def __init__(self) -> None:
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._codes: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]  # the first is by convention the empty one

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        *,
        dtype: str = "float32",
        values: Array | None = None,
        signature: Sequence[int] | None = None,
        scale: float | None = None,
        zero_point: int = 0,
    ) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, list(shape), _TYPES[dtype]
        tensor.shapeSignature = None if signature is None else list(signature)
        if scale is not None:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale, tensor.quantization.zeroPoint = [scale], [zero_point]
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = list(values.tobytes())
            self._buffers.append(buffer)
            tensor.buffer = len(self._buffers) - 1
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def operator(
        self,
        code: int,
        inputs: Sequence[int],
        outputs: Sequence[int],
        kind: int = 0,
        options: Any = None,
        *,
        custom: str | None = None,
    ) -> None:
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode, entry.customCode = code, min(code, 127), custom
        self._codes.append(entry)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self._codes) - 1
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        operator.builtinOptionsType, operator.builtinOptions = kind, options
        self._graph.operators.append(operator)

    def finish(self, inputs: Sequence[int], outputs: Sequence[int]) -> bytes:
        self._graph.inputs, self._graph.outputs = list(inputs), list(outputs)
        model = schema.ModelT()
        model.version, model.subgraphs = 3, [self._graph]
        model.operatorCodes, model.buffers = self._codes, self._buffers
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())
