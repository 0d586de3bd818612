"""Describe a TFLite model without running it.

Source: tflite/converter/schema/schema.fbs of LiteRT 2.3, version 3 of the format, whose field numbers stand below.
"""

import math
import mmap
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.domain.model import ModelInspection, TensorSpec
from app.errors import RejectedInput
from workers.formats.limits import InputLimits, human_bytes
from workers.formats.signatures import file_head, instead, signature
from workers.formats.tflite.flatbuffer import Damaged, Table, root
from workers.formats.tflite.operators import OPERATORS

_VERSION = 3

_MODEL_VERSION, _MODEL_CODES, _MODEL_GRAPHS, _MODEL_BUFFERS = 0, 1, 2, 4
_CODE_OLD, _CODE_CUSTOM, _CODE_BUILTIN = 0, 1, 3
_GRAPH_TENSORS, _GRAPH_INPUTS, _GRAPH_OUTPUTS, _GRAPH_OPERATORS = 0, 1, 2, 3
_TENSOR_SHAPE, _TENSOR_TYPE, _TENSOR_BUFFER, _TENSOR_NAME = 0, 1, 2, 3
_TENSOR_QUANTIZATION, _TENSOR_SPARSITY, _TENSOR_SIGNATURE = 4, 6, 7
_QUANTIZATION_SCALE, _QUANTIZATION_DETAILS = 2, 4
_OPERATOR_CODE, _OPERATOR_INPUTS, _OPERATOR_OUTPUTS = 0, 1, 2
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2

_CUSTOM = OPERATORS.index("CUSTOM")
_NESTED = frozenset({"IF", "WHILE", "CALL", "CALL_ONCE", "STABLEHLO_WHILE", "STABLEHLO_CASE"})

# Element types by their code, with their bits; None for text and handles, whose size the shape does not tell.
_TYPES: tuple[tuple[str, int | None], ...] = (
    ("float32", 32), ("float16", 16), ("int32", 32), ("uint8", 8), ("int64", 64), ("string", None), ("bool", 8),
    ("int16", 16), ("complex64", 64), ("int8", 8), ("float64", 64), ("complex128", 128), ("uint64", 64),
    ("resource", None), ("variant", None), ("uint32", 32), ("uint16", 16), ("int4", 4), ("bfloat16", 16), ("int2", 2),
    ("uint4", 4), ("float8_e4m3fn", 8), ("float8_e5m2", 8),
)  # fmt: skip
_FED = frozenset(
    {"float32", "float16", "float64", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "bool"}
)
_LONGEST_NAME = 1024
_MOST_NAMES = 4096


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    dtype: str
    bits: int | None
    shape: tuple[int, ...]
    signature: tuple[int, ...]
    buffer: int
    quantized: bool
    sparse: bool

    @property
    def elements(self) -> int:
        return math.prod(self.shape)


def inspect_tflite(
    path: Path,
    *,
    limits: InputLimits | None = None,
    progress: Callable[[float, str], None] = lambda share, message: None,
) -> ModelInspection:
    """Describe a `.tflite` file; nothing of it is run or loaded by a runtime.

    Raises RejectedInput `not_tflite`, `invalid_model`, `model_too_complex`, `model_needs_too_much_memory`,
    `unsupported_input_type` or `unsupported_output_type`.
    """
    progress(0.0, "reading the model")
    if signature(file_head(path)) != "tflite":
        raise RejectedInput(
            f"This is not a TFLite model. {instead(file_head(path))}Upload a .tflite file.", code="not_tflite"
        )
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        try:
            return _describe(root(data), len(data), path.name, limits or InputLimits())
        except Damaged as error:
            raise RejectedInput(
                f"The file starts like a TFLite model but is damaged or was cut off: {error}. Upload the whole file, "
                "or convert the model again.",
                code="invalid_model",
            ) from error


def unique_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of inputs or outputs as callers use them: TFLite lets several have the same one, or none."""
    given, taken = set(names), set[str]()
    last: Counter[str] = Counter()
    found: list[str] = []
    for name in names:
        base = unique = name or "unnamed"
        while unique in taken or (last[base] and unique in given):
            last[base] += 1
            unique = f"{base}_{last[base] + 1}"
        taken.add(unique)
        found.append(unique)
    return tuple(found)


def _describe(model: Table, file_bytes: int, name: str, limits: InputLimits) -> ModelInspection:
    version = model.uint32(_MODEL_VERSION)
    if version != _VERSION:
        raise RejectedInput(
            f"The file has version {version} of the TFLite format, and {_VERSION} is the only one in use. Convert the "
            "model again.",
            code="invalid_model",
        )
    codes = [_operator_name(code) for code in model.tables(_MODEL_CODES)]
    buffers = [_stored_bytes(buffer, file_bytes) for buffer in model.tables(_MODEL_BUFFERS)]
    operators: Counter[str] = Counter()
    graphs: list[tuple[list[_Tensor], Table]] = []
    for graph in model.tables(_MODEL_GRAPHS):
        # Several graphs may be one and the same table: what is walked is counted, not what is stored.
        walked = sum(len(tensors) for tensors, _ in graphs) + operators.total()
        if walked + graph.length(_GRAPH_TENSORS, 4) + graph.length(_GRAPH_OPERATORS, 4) > limits.nodes:
            raise RejectedInput(
                f"The model has more than {limits.nodes} tensors and operators, the most that are taken.",
                code="model_too_complex",
            )
        tensors = [_tensor(entry, buffers, limits) for entry in graph.tables(_GRAPH_TENSORS)]
        operators.update(_operators(graph, codes, len(tensors)))
        graphs.append((tensors, graph))
    if not graphs:
        raise Damaged("it has no graph")
    tensors, main = graphs[0]
    inputs = _ports(main, _GRAPH_INPUTS, tensors, "input")
    outputs = _ports(main, _GRAPH_OUTPUTS, tensors, "output")
    if not outputs:
        raise RejectedInput("The model has no output. Convert it again with its outputs.", code="invalid_model")
    every = [tensor for found, _ in graphs for tensor in found]
    quantized = any(tensor.quantized for tensor in every)
    return ModelInspection(
        format="tflite",
        files=(name,),
        inputs=inputs,
        outputs=outputs,
        opset=None,
        opsets={},
        parameters=_parameters(every, buffers),
        operators=dict(sorted(operators.items(), key=lambda pair: (-pair[1], pair[0]))),
        quantized=quantized,
        dynamic=any(None in (spec.shape or ()) for spec in inputs),
        external_data=False,
        notes=tuple(_notes(operators, quantized, inputs, every)),
    )


def _operator_name(code: Table) -> str:
    # Codes beyond 127 have a field of their own since the old one is a byte; the larger counts.
    number = max(code.signed_byte(_CODE_OLD), code.int32(_CODE_BUILTIN))
    if not 0 <= number < len(OPERATORS):
        raise RejectedInput(
            f"The model uses the operator number {number}, which TFLite does not have up to LiteRT 2.3. Convert it "
            "with an older converter.",
            code="unsupported_operator",
        )
    return _clean(code.text(_CODE_CUSTOM)) or "CUSTOM" if number == _CUSTOM else OPERATORS[number]


def _stored_bytes(buffer: Table, file_bytes: int) -> int:
    """Bytes that a buffer has, inside the flatbuffer or, in files of more than 2 GB, behind it."""
    offset, size = buffer.uint64(_BUFFER_OFFSET), buffer.uint64(_BUFFER_SIZE)
    if offset <= 1 or not size:  # one is what converters write where it is filled in later
        return buffer.length(_BUFFER_DATA, 1)
    if offset + size > file_bytes:
        raise Damaged("weights lie behind the end of the file")
    return size


def _tensor(entry: Table, buffers: Sequence[int], limits: InputLimits) -> _Tensor:
    shape, code = entry.int32s(_TENSOR_SHAPE), entry.signed_byte(_TENSOR_TYPE)
    if any(size < 0 for size in shape):
        raise Damaged("a size is less than nothing")
    if not 0 <= code < len(_TYPES):
        raise Damaged(f"the element type {code} does not exist")
    dtype, bits = _TYPES[code]
    buffer = entry.uint32(_TENSOR_BUFFER)
    if buffer >= max(len(buffers), 1):
        raise Damaged("a tensor is stored nowhere")
    quantization = entry.table(_TENSOR_QUANTIZATION)
    tensor = _Tensor(
        name=_clean(entry.text(_TENSOR_NAME)),
        dtype=dtype,
        bits=bits,
        shape=shape,
        signature=entry.int32s(_TENSOR_SIGNATURE) or shape,
        buffer=buffer,
        quantized=quantization is not None
        and dtype.startswith(("int", "uint"))
        and (quantization.length(_QUANTIZATION_SCALE, 4) > 0 or quantization.byte(_QUANTIZATION_DETAILS) > 0),
        sparse=entry.has(_TENSOR_SPARSITY),
    )
    if bits is not None:
        _check_size(tensor, (tensor.elements * bits + 7) // 8, buffers, limits)
    return tensor


def _check_size(tensor: _Tensor, wanted: int, buffers: Sequence[int], limits: InputLimits) -> None:
    """A small file must not become a large load, and a runtime must not read behind the end of a weight."""
    if wanted > limits.dense_bytes:
        raise RejectedInput(
            f"The tensor {tensor.name[:100]!r} alone needs {human_bytes(wanted)}, and at most "
            f"{human_bytes(limits.dense_bytes)} are taken.",
            code="model_needs_too_much_memory",
        )
    stored = buffers[tensor.buffer] if buffers else 0
    if stored and not tensor.sparse and stored < wanted:
        raise Damaged(f"the weight {tensor.name[:100]!r} has {stored} bytes and needs {wanted}")


def _operators(graph: Table, codes: Sequence[str], tensors: int) -> Iterator[str]:
    for operator in graph.tables(_GRAPH_OPERATORS):
        code = operator.uint32(_OPERATOR_CODE)
        if code >= len(codes):
            raise Damaged("an operator has no type")
        # -1 is an input that is left out.
        if any(not -1 <= index < tensors for index in operator.int32s(_OPERATOR_INPUTS)) or any(
            not 0 <= index < tensors for index in operator.int32s(_OPERATOR_OUTPUTS)
        ):
            raise Damaged("an operator reads or writes a tensor that does not exist")
        yield codes[code]


def _ports(graph: Table, field: int, tensors: Sequence[_Tensor], role: str) -> tuple[TensorSpec, ...]:
    indices = graph.int32s(field)
    if len(indices) > _MOST_NAMES:
        raise RejectedInput(
            f"The model has {len(indices)} {role}s, and at most {_MOST_NAMES} are taken.", code="model_too_complex"
        )
    if any(not 0 <= index < len(tensors) for index in indices):
        raise Damaged(f"an {role} does not exist")
    found = [tensors[index] for index in indices]
    for tensor in found:
        if tensor.dtype not in _FED:
            raise RejectedInput(
                f"The model's {role} {tensor.name[:100]!r} has the type {tensor.dtype}, which rows cannot have. "
                "Convert the model with a float or integer tensor there.",
                code=f"unsupported_{role}_type",
            )
    return tuple(
        TensorSpec(name=name, dtype=tensor.dtype, shape=tuple(None if size < 0 else size for size in tensor.signature))
        for name, tensor in zip(unique_names([tensor.name for tensor in found]), found, strict=True)
    )


def _parameters(tensors: Sequence[_Tensor], buffers: Sequence[int]) -> int:
    """Elements of all weights; one that several tensors share counts once."""
    stored = {tensor.buffer: tensor.elements for tensor in tensors if buffers and buffers[tensor.buffer]}
    return sum(stored.values())


def _clean(name: str) -> str:
    """A name that can be kept in a database and shown. Raises Damaged where it would break either."""
    if len(name) > _LONGEST_NAME or any(ord(character) < 32 for character in name):
        raise Damaged(f"a tensor or operator has the unusable name {name[:50]!a}")
    return name


def _notes(
    operators: Counter[str], quantized: bool, inputs: Sequence[TensorSpec], tensors: Sequence[_Tensor]
) -> Iterator[str]:
    yield "TFLite models are measured as they are; to have one optimized, upload its ONNX export."
    if quantized:
        yield "Already quantized."
    if not inputs:
        yield "Has no input: it always computes the same."
    if custom := sorted(set(operators) - set(OPERATORS)):
        yield f"Uses operators outside TFLite's own: {', '.join(custom[:20])}."
    if _NESTED & set(operators):
        yield "Has nested bodies."
    if any(tensor.dtype in ("float16", "bfloat16") for tensor in tensors):
        yield "Weights are in half precision already, at least some."
    if any(tensor.sparse for tensor in tensors):
        yield "Has sparse weights."
