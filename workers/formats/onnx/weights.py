"""The tensors that a model stores: how many elements, and where those outside the file lie."""

import math
import ntpath
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import onnx
from onnx import ModelProto, SparseTensorProto, TensorProto

from app.errors import RejectedInput
from workers.formats.limits import InputLimits, human_bytes
from workers.formats.onnx.graph import all_nodes, all_sparse_tensors, all_tensors

_MOST_AXES = 64

# onnxruntime reads such a "file" as an address in its own memory (core/framework/tensorprotoutils.h).
_MEMORY_TAG = "_ORT_MEM_ADDR_"

_BITS: dict[int, int] = {
    TensorProto.FLOAT: 32, TensorProto.UINT8: 8, TensorProto.INT8: 8, TensorProto.UINT16: 16,
    TensorProto.INT16: 16, TensorProto.INT32: 32, TensorProto.INT64: 64, TensorProto.BOOL: 8,
    TensorProto.FLOAT16: 16, TensorProto.DOUBLE: 64, TensorProto.UINT32: 32, TensorProto.UINT64: 64,
    TensorProto.COMPLEX64: 64, TensorProto.COMPLEX128: 128, TensorProto.BFLOAT16: 16,
    TensorProto.FLOAT8E4M3FN: 8, TensorProto.FLOAT8E4M3FNUZ: 8, TensorProto.FLOAT8E5M2: 8,
    TensorProto.FLOAT8E5M2FNUZ: 8, TensorProto.FLOAT8E8M0: 8, TensorProto.UINT4: 4, TensorProto.INT4: 4,
    TensorProto.FLOAT4E2M1: 4, TensorProto.UINT2: 2, TensorProto.INT2: 2,
}  # fmt: skip


def dtype_name(element_type: int) -> str:
    """NumPy's name of an ONNX element type, "string" for text. Raises RejectedInput `invalid_model`."""
    if element_type == TensorProto.STRING:
        return "string"
    try:
        return str(onnx.helper.tensor_dtype_to_np_dtype(element_type).name)
    except (KeyError, ValueError, TypeError) as error:
        raise RejectedInput(
            f"The model uses the element type {element_type}, which ONNX {onnx.__version__} does not know. Export it "
            "again with a released version of ONNX.",
            code="invalid_model",
        ) from error


def count_parameters(model: ModelProto) -> int:
    """Elements of all stored tensors, each once.

    Counted are initializers and Constant nodes of the main graph, of nested bodies and of local functions
    (once, however often they are called). A sparse tensor counts its stored values. Tensors that share one
    region of external data are one. Raises RejectedInput `invalid_model` on sizes that cannot be.
    """
    total = 0
    regions: set[tuple[str, int]] = set()
    for tensor in all_tensors(model):
        count = elements(tensor)
        if tensor.data_location == TensorProto.EXTERNAL:
            place = external_place(tensor)
            region = (place.location, place.offset)
            if region in regions:
                continue
            regions.add(region)
        total += count
    total += sum(elements(sparse.values) for sparse in all_sparse_tensors(model))
    return total + sum(_constants(model))


def _constants(model: ModelProto) -> Iterator[int]:
    """Values that Constant nodes spell out instead of storing a tensor."""
    for node in all_nodes(model):
        if node.op_type != "Constant":
            continue
        for attribute in node.attribute:
            if attribute.name in ("value_float", "value_int", "value_string"):
                yield 1
            elif attribute.name in ("value_floats", "value_ints", "value_strings"):
                yield len(attribute.floats) + len(attribute.ints) + len(attribute.strings)


def elements(tensor: TensorProto) -> int:
    """How many elements a tensor has, by its shape; what is stored must agree.

    Raises RejectedInput `invalid_model`.
    """
    count = _product(tensor, tensor.dims)
    bits = _BITS.get(tensor.data_type)
    if tensor.data_location == TensorProto.EXTERNAL or bits is None:
        return count
    if tensor.HasField("raw_data") and len(tensor.raw_data) != -(-count * bits // 8):
        raise _broken(
            tensor,
            f"needs {-(-count * bits // 8)} bytes by its shape {list(tensor.dims)[:8]} and stores "
            f"{len(tensor.raw_data)}",
        )
    return count


def check_sparse(model: ModelProto, limits: InputLimits) -> None:
    """Refuse sparse tensors that would fill the memory: a runtime writes them out with their zeros.

    Raises RejectedInput `model_too_large`.
    """
    dense = sum(_dense_bytes(sparse) for sparse in all_sparse_tensors(model))
    if dense > limits.dense_bytes:
        raise RejectedInput(
            f"The model's sparse tensors take {human_bytes(dense)} once written out, as the runtime does, and at most "
            f"{human_bytes(limits.dense_bytes)} are taken. Make them smaller.",
            code="model_too_large",
        )


def _dense_bytes(sparse: SparseTensorProto) -> int:
    return _product(sparse.values, sparse.dims) * _BITS.get(sparse.values.data_type, 64) // 8


def _product(tensor: TensorProto, sizes: Sequence[int]) -> int:
    """How many elements a shape has. Raises RejectedInput where no tensor can have it."""
    if len(sizes) <= _MOST_AXES and all(size >= 0 for size in sizes):
        count = math.prod(sizes)
        if count < 1 << 62:
            return count
    raise _broken(tensor, f"has the impossible shape {list(sizes[:8])}")


def _broken(tensor: TensorProto, why: str) -> RejectedInput:
    return RejectedInput(
        f"The tensor {tensor.name[:200]!r} {why}. The file is damaged or its exporter broken: export the model again.",
        code="invalid_model",
    )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor's external data lie: the file, the first byte, and the length or None for "to the end"."""

    location: str
    offset: int
    length: int | None


def external_place(tensor: TensorProto) -> Place:
    """Where a tensor with external data says that they lie. Raises RejectedInput `invalid_model`."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries["length"]) if entries.get("length") else None
    except ValueError as error:
        raise _broken(tensor, "names a place in its external data that is no number") from error
    if not entries.get("location") or offset < 0 or (length or 0) < 0:
        raise _broken(tensor, "names no valid place in its external data")
    return Place(entries["location"], offset, length)


def external_files(model: ModelProto) -> tuple[str, ...]:
    """Names of the files that a model's tensors lie in, as the model writes them, in the order of first use."""
    stored = (*all_tensors(model), *(sparse.values for sparse in all_sparse_tensors(model)))
    outside = (tensor for tensor in stored if tensor.data_location == TensorProto.EXTERNAL)
    return tuple(dict.fromkeys(external_place(tensor).location for tensor in outside))


def check_external_data(model: ModelProto, folder: Path, present: Collection[str]) -> tuple[str, ...]:
    """Check that a model's external data are there, in its own folder, and long enough.

    `present` are the files that came with the model, relative to `folder`; nothing else that may lie there
    counts. Returns the normal names of those used. Raises RejectedInput `external_data_outside`,
    `external_data_missing` or `external_data_truncated`.
    """
    names = {written: _inside(written) for written in external_files(model)}
    missing = [name for name in names.values() if name not in present]
    if missing:
        listed = ", ".join(repr(name) for name in missing[:5]) + (" and others" if len(missing) > 5 else "")
        raise RejectedInput(
            f"The model keeps weights outside its file, in {listed}, which did not come with it. Put the .onnx file "
            "and its data files into one .zip or .tar, beside each other as they were saved, and upload that.",
            code="external_data_missing",
        )
    sizes = {name: _regular_size(folder, name) for name in set(names.values())}
    for tensor in (*all_tensors(model), *(sparse.values for sparse in all_sparse_tensors(model))):
        if tensor.data_location != TensorProto.EXTERNAL:
            continue
        place = external_place(tensor)
        name = names[place.location]
        needed = -(-elements(tensor) * _BITS.get(tensor.data_type, 8) // 8)
        if place.length is not None and place.length != needed:
            raise _broken(tensor, f"needs {needed} bytes by its shape and claims {place.length} of {name!r}")
        if place.offset + needed > sizes[name]:
            raise RejectedInput(
                f"The tensor {tensor.name[:200]!r} ends at byte {place.offset + needed} of {name!r}, which has only "
                f"{sizes[name]}: the file was cut off or belongs to another model. Upload the whole set again.",
                code="external_data_truncated",
            )
    return tuple(dict.fromkeys(names.values()))


def _inside(written: str) -> str:
    """The normal form of a location inside the model's own folder."""
    path = PurePosixPath(written)
    climbs = path.is_absolute() or ntpath.splitdrive(written)[0] or ".." in path.parts or "\\" in written
    if climbs or _MEMORY_TAG in path.parts or "\0" in written or not path.parts:
        raise RejectedInput(
            f"The model points to weights outside its own folder: {written[:200]!r}. Save it again with a plain file "
            "name as the location of its external data.",
            code="external_data_outside",
        )
    return path.as_posix()


def _regular_size(folder: Path, name: str) -> int:
    """Size of a file inside a folder; raises RejectedInput `external_data_outside` on the way through a link."""
    path = folder / name
    if path.resolve() != folder.resolve() / name or not path.is_file():
        raise RejectedInput(
            f"The model's weights {name!r} are a link or no plain file. Pack the file itself.",
            code="external_data_outside",
        )
    return path.stat().st_size
