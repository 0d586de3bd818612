"""Read an ONNX file into its protobuf message, and say what is wrong where it cannot be.

An ONNX file has no magic bytes: it is a bare protobuf message. So its outline (the fields of ModelProto,
without what is in them) is walked first; it tells a file that was cut off from one that was never ONNX.
Source: onnx/onnx.proto of ONNX 1.23, and the protobuf wire format.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto

from app.errors import RejectedInput
from workers.formats.limits import human_bytes
from workers.formats.onnx.graph import check_text
from workers.formats.signatures import file_head, instead

MESSAGE_BYTES = (1 << 31) - 1
"""Protobuf's limit for one message."""

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_IR_VERSION, _GRAPH, _OPSETS = 1, 7, 8
# Numbers and wire types of ModelProto's fields.
_FIELDS = {
    1: _VARINT, 2: _LENGTH, 3: _LENGTH, 4: _LENGTH, 5: _VARINT, 6: _LENGTH, 7: _LENGTH, 8: _LENGTH,
    14: _LENGTH, 20: _LENGTH, 25: _LENGTH, 26: _LENGTH,
}  # fmt: skip
# A model has a few fields and some thousand functions; reading on for longer helps nobody.
_MOST_FIELDS = 1_000_000


@dataclass(slots=True)
class _Outline:
    """What a walk over the outermost fields saw. `missing` is how many bytes the last field lacks."""

    ir_version: int | None = None
    graph: bool = False
    opsets: bool = False
    missing: int = 0
    nonsense: bool = False


def load_model(path: Path) -> ModelProto:
    """Read a model file. External data are not read: their tensors keep the reference.

    Raises RejectedInput `empty_file`, `not_onnx`, `truncated`, `model_too_large` or `invalid_model`.
    """
    size = path.stat().st_size
    if size == 0:
        raise RejectedInput("The file is empty. Upload the whole model file.", code="empty_file")
    _judge(path, _outline(path, size))
    if size > MESSAGE_BYTES:
        raise RejectedInput(
            f"The file has {human_bytes(size)}, and one ONNX file can have at most 2 GiB. Save the model with external "
            "data (onnx.save_model(…, save_as_external_data=True)) and upload the files as one .zip or .tar.",
            code="model_too_large",
        )
    try:
        model: ModelProto = ModelProto.FromString(path.read_bytes())
    except DecodeError as error:
        raise RejectedInput(
            "The file starts like an ONNX model but is damaged inside, or its bodies are nested more than a hundred "
            "deep. Check it with onnx.checker.check_model and upload it again.",
            code="invalid_model",
        ) from error
    if not model.HasField("graph"):
        raise _not_onnx(path)
    check_text(model)
    return model


def _judge(path: Path, outline: _Outline) -> None:
    """Raise what the outline alone decides."""
    plausible = outline.ir_version is not None and 0 < outline.ir_version < 1000
    if outline.missing and plausible:
        raise RejectedInput(
            f"The file ends too early: at least {human_bytes(outline.missing)} are missing. The upload or an earlier "
            "copy was cut off; upload the whole file.",
            code="truncated",
        )
    if plausible and not outline.nonsense and not outline.graph:
        raise RejectedInput(
            "The file ends before its graph begins: it was cut off. Upload the whole file.", code="truncated"
        )
    # Format 3, of 2017, was the first that must name its operator sets.
    if plausible and not outline.nonsense and not outline.opsets and (outline.ir_version or 0) >= 3:
        raise RejectedInput(
            "The file names no operator set, which stands behind the graph: it was cut off there, or its exporter is "
            "broken. Upload the whole file, or export it again.",
            code="truncated",
        )
    if outline.missing or (outline.nonsense and not outline.graph) or not (plausible or outline.graph):
        raise _not_onnx(path)


def _not_onnx(path: Path) -> RejectedInput:
    return RejectedInput(
        f"This is not an ONNX model. {instead(file_head(path))}Upload a .onnx file, or a .zip or .tar with one and its "
        "external data.",
        code="not_onnx",
    )


def _outline(path: Path, size: int) -> _Outline:
    seen = _Outline()
    with path.open("rb") as file:
        for _ in range(_MOST_FIELDS):
            if file.tell() >= size or not _field(file, size, seen):
                return seen
    seen.nonsense = True
    return seen


def _field(file: BinaryIO, size: int, seen: _Outline) -> bool:
    """Step over one field; False where the walk cannot go on."""
    tag = _varint(file)
    if tag is None:
        seen.missing = 1
        return False
    number, wire = tag >> 3, tag & 7
    # Later versions may add fields, but no file begins with them.
    strange = number not in _FIELDS and seen.ir_version is None and not seen.graph
    if strange or number == 0 or _FIELDS.get(number, wire) != wire:
        seen.nonsense = True
        return False
    if wire == _VARINT:
        value = _varint(file)
        if number == _IR_VERSION:
            seen.ir_version = value
        seen.missing = int(value is None)
        return value is not None
    length = _varint(file) if wire == _LENGTH else {_FIXED64: 8, _FIXED32: 4}.get(wire, -1)
    if length is None or length < 0:
        seen.missing = int(length is None)
        seen.nonsense = length is not None
        return False
    seen.missing = max(0, file.tell() + length - size)
    seen.graph |= number == _GRAPH
    seen.opsets |= number == _OPSETS
    file.seek(min(length, size), 1)
    return seen.missing == 0


def _varint(file: BinaryIO) -> int | None:
    """A base-128 number, or None where the file ends in the middle of it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            return None
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    return value
