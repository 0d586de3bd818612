"""Describe an ONNX model without running it."""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import onnxruntime as ort
from onnx import ModelProto, TensorProto, TensorShapeProto, ValueInfoProto

from app.domain.model import Dimension, ModelInspection, TensorSpec
from app.errors import RejectedInput
from workers.formats.limits import InputLimits
from workers.formats.onnx.graph import (
    DEFAULT_DOMAIN,
    all_graphs,
    all_nodes,
    all_tensors,
    check_calls,
    domain_of,
    is_quantized,
)
from workers.formats.onnx.loading import check_loads, check_versions, node_titles
from workers.formats.onnx.message import load_model
from workers.formats.onnx.weights import (
    check_external_data,
    check_sparse,
    count_parameters,
    dtype_name,
)

# Where per-channel QDQ begins; older models are converted before they are quantized.
_PER_CHANNEL_OPSET = 13
# What is said of a model is kept in a database row and shown to people.
_MOST_NAMES = 4096
_LONGEST_NAME = 1024
_OWN_DOMAINS = frozenset({DEFAULT_DOMAIN, "ai.onnx.ml"})
_HALF = frozenset({TensorProto.FLOAT16, TensorProto.BFLOAT16})


def inspect_onnx(
    path: Path,
    *,
    beside: Collection[str] = (),
    limits: InputLimits | None = None,
    progress: Callable[[float, str], None] = lambda share, message: None,
) -> ModelInspection:
    """Describe a model file and make sure that the runtime loads it.

    `beside` are the files that came with it, relative to its folder; others are not looked at. Cheap
    checks come first: nothing is handed to the runtime before its size once loaded is known to be in
    bounds. Raises RejectedInput with the code that says why (see `message`, `weights`, `loading`).
    """
    limits = limits or InputLimits()
    progress(0.0, "reading the model")
    model = load_model(path)
    described = _describe(model, path, beside, limits)
    titles = node_titles(model)
    del model  # up to 2 GiB that the runtime will want
    progress(0.3, "loading the model")
    outputs = _with_inferred_shapes(described.outputs, check_loads(path, titles))
    return described.model_copy(update={"outputs": outputs})


def _describe(model: ModelProto, path: Path, beside: Collection[str], limits: InputLimits) -> ModelInspection:
    """What the file alone says, with the checks that keep a small file from becoming a large load."""
    opset = check_versions(model)
    operators = Counter(node.op_type for node in all_nodes(model))
    opsets = {domain_of(entry.domain): entry.version for entry in model.opset_import}
    inputs, outputs = _interface(model)
    _check_names([*operators, *opsets, *_names_of((*inputs, *outputs))])
    check_calls(model, limits)
    check_sparse(model, limits)
    external = check_external_data(model, path.parent, beside)
    quantized = any(map(is_quantized, operators))
    return ModelInspection(
        files=(path.name, *external),
        inputs=inputs,
        outputs=outputs,
        opset=opset,
        opsets=opsets,
        parameters=count_parameters(model),
        operators=dict(sorted(operators.items(), key=lambda pair: (-pair[1], pair[0]))),
        quantized=quantized,
        dynamic=any(_is_dynamic(spec) for spec in inputs),
        external_data=bool(external),
        notes=tuple(_notes(model, inputs, opset, quantized)),
    )


def _is_dynamic(spec: TensorSpec) -> bool:
    return spec.shape is None or not all(isinstance(size, int) for size in spec.shape)


def _interface(model: ModelProto) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs that must be fed, and outputs. Raises RejectedInput where one is no tensor."""
    graph = model.graph
    stored = {tensor.name for tensor in graph.initializer} | {sparse.values.name for sparse in graph.sparse_initializer}
    fed = [value for value in graph.input if value.name not in stored]
    if not graph.output:
        raise RejectedInput("The model has no output. Export it again with its outputs.", code="invalid_model")
    if len(fed) + len(graph.output) > _MOST_NAMES:
        raise RejectedInput(
            f"The model has {len(fed)} inputs and {len(graph.output)} outputs, and at most {_MOST_NAMES} are taken.",
            code="model_too_complex",
        )
    return (
        tuple(_spec(value, "input") for value in fed),
        tuple(_spec(value, "output") for value in graph.output),
    )


def _spec(value: ValueInfoProto, role: str) -> TensorSpec:
    kind = value.type.WhichOneof("value")
    # An output's type may be left to inference; an input's may not.
    if kind is None and role == "output":
        return TensorSpec(name=value.name, dtype="", shape=None)
    if kind != "tensor_type":
        what = (kind or "untyped value").removesuffix("_type").replace("_", " ")
        hint = " For scikit-learn models, convert with options={'zipmap': False}." if kind == "sequence_type" else ""
        raise RejectedInput(
            f"The model's {role} {value.name!r} is a {what}, and rows are plain tensors. Export the model with a "
            f"tensor there.{hint}",
            code=f"unsupported_{role}_type",
        )
    tensor = value.type.tensor_type
    shape = tuple(map(_dimension, tensor.shape.dim)) if tensor.HasField("shape") else None
    dtype = "" if tensor.elem_type == 0 and role == "output" else dtype_name(tensor.elem_type)
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


def _dimension(dimension: TensorShapeProto.Dimension) -> Dimension:
    kind = dimension.WhichOneof("value")
    if kind == "dim_param":
        return dimension.dim_param or None
    if kind == "dim_value":
        # Old exporters write -1 where they mean any size, and so does onnxruntime read it.
        return dimension.dim_value if dimension.dim_value >= 0 else None
    return None


def _with_inferred_shapes(declared: tuple[TensorSpec, ...], inferred: Sequence[ort.NodeArg]) -> tuple[TensorSpec, ...]:
    """Outputs as the file declares them, and as the runtime infers them where it does not."""
    seen = {argument.name: argument for argument in inferred}
    return tuple(
        spec if spec.dtype and spec.shape is not None else _completed(spec, seen[spec.name]) for spec in declared
    )


def _completed(spec: TensorSpec, argument: ort.NodeArg) -> TensorSpec:
    dtype = spec.dtype or argument.type.removeprefix("tensor(").removesuffix(")")
    dtype = {"float": "float32", "double": "float64"}.get(dtype, dtype)
    if "(" in dtype:
        raise RejectedInput(
            f"The model's output {spec.name!r} is a {argument.type}, and rows are plain tensors. Export the model "
            "with a tensor there.",
            code="unsupported_output_type",
        )
    # An empty shape means a single number or an unknown rank; the runtime does not say which.
    shape = spec.shape if spec.shape is not None or not argument.shape else tuple(argument.shape)
    return TensorSpec(name=spec.name, dtype=dtype, shape=shape)


def _names_of(specs: tuple[TensorSpec, ...]) -> list[str]:
    return [
        name for spec in specs for name in (spec.name, *(size for size in spec.shape or () if isinstance(size, str)))
    ]


def _check_names(names: list[str]) -> None:
    """Names end up in a database and on screens: refuse those that would break either."""
    if len(names) > 3 * _MOST_NAMES:
        raise RejectedInput(f"The model uses {len(names)} different names and operators.", code="model_too_complex")
    for name in names:
        if not name or len(name) > _LONGEST_NAME or any(ord(character) < 32 for character in name):
            raise RejectedInput(
                f"An input, output or operator has the unusable name {name[:50]!a}. The file is damaged or its "
                "exporter broken: export the model again.",
                code="invalid_model",
            )


def _notes(model: ModelProto, inputs: tuple[TensorSpec, ...], opset: int | None, quantized: bool) -> list[str]:
    notes = []
    if quantized:
        notes.append("Already quantized: quantizing it again is refused; start from the original.")
    if opset is not None and opset < _PER_CHANNEL_OPSET:
        notes.append(f"Opset {opset} is converted to {_PER_CHANNEL_OPSET} or later before quantization.")
    if not inputs:
        notes.append("Has no input: it always computes the same.")
    for spec in inputs:
        first = spec.shape[0] if spec.shape else None
        if isinstance(first, int) and first > 1:
            notes.append(
                f"The first axis of {spec.name!r} is fixed at {first}: rows of a dataset cannot be fed one by one."
            )
    custom = {domain_of(node.domain) for node in all_nodes(model)} - _OWN_DOMAINS
    if custom:
        notes.append(f"Uses operators outside ONNX's own sets: {', '.join(sorted(custom))}.")
    if model.functions:
        notes.append(f"Has {len(model.functions)} local functions.")
    if any(node.op_type in ("If", "Loop", "Scan") for node in all_nodes(model)):
        notes.append("Has nested bodies (If, Loop or Scan).")
    if any(tensor.data_type in _HALF for tensor in all_tensors(model)):
        notes.append("Weights are in half precision already, at least some.")
    if any(graph.sparse_initializer for graph in all_graphs(model)):
        notes.append("Has sparse weights.")
    return notes
