"""Peak memory of this process, and the smallest model there is as the zero of the scale."""

import re
from pathlib import Path

from app.errors import StepError

_STATUS = Path("/proc/self/status")

CALLS = 3
"""Runs before the mark is read: the first reserves the arena, the next show whether it grows."""

_INT64, _BYTES = 0, 2  # protobuf wire types
_FLOAT32 = 1  # onnx.TensorProto.FLOAT


def peak_bytes(status: Path = _STATUS) -> int:
    """The high-water mark of this process's resident memory (VmHWM, proc(5)).

    Raises StepError `memory_not_measurable` where the platform does not tell.
    """
    return _read("VmHWM", status)


def present_bytes(status: Path = _STATUS) -> int:
    """This process's resident memory at this moment (VmRSS, proc(5)).

    Raises StepError `memory_not_measurable` where the platform does not tell.
    """
    return _read("VmRSS", status)


def _read(field: str, status: Path) -> int:
    try:
        found = re.search(rf"^{field}:\s+(\d+) kB$", status.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    if found is None:
        raise StepError(
            f"This platform does not tell a process's memory (no {field} in /proc/self/status).",
            code="memory_not_measurable",
        )
    return int(found.group(1)) * 1024


def one_node_model() -> bytes:
    """An ONNX model that is one `Identity` of one float: input `x`, output `y`, both of shape [1].

    Encoded here by hand (onnx.proto, IR version 8, opset 13), because importing `onnx` would raise the
    very mark that is to be measured.
    """
    dimension = _field(1, _number(1, 1))
    tensor_type = _number(1, _FLOAT32) + _field(2, dimension)
    value_type = _field(1, tensor_type)
    node = _field(1, b"x") + _field(2, b"y") + _field(4, b"Identity")
    graph = (
        _field(1, node)
        + _field(2, b"zero")
        + _field(11, _field(1, b"x") + _field(2, value_type))
        + _field(12, _field(1, b"y") + _field(2, value_type))
    )
    return _number(1, 8) + _field(7, graph) + _field(8, _number(2, 13))


def one_operator_tflite() -> bytes:
    """A TFLite model that is one `ABS` of one float: input `x`, output `y`, both of shape [1].

    As `flatbuffers` writes it with LiteRT's schema, which to load would raise the mark.
    """
    return bytes.fromhex(_ABS)


_ABS = (
    "1800000054464c3300000e00140010000c000800000004000e000000100000001c000000d0000000030000000100000008000000"
    "040004000400000001000000100000000c00140010000c00080004000c000000100000003c000000400000004400000001000000"
    "1000000000000a000c000000080004000a000000080000000c000000010000000100000001000000000000000100000001000000"
    "0100000000000000020000003000000004000000e4ffffff080000000c000000010000007900000001000000010000000c000c00"
    "08000000000004000c000000080000000c0000000100000078000000010000000100000001000000100000000c000c000b000000"
    "000004000c0000006500000000000065"
)


def _field(number: int, content: bytes) -> bytes:
    if len(content) > 127:
        raise ValueError("one byte holds no longer length")
    return bytes([number << 3 | _BYTES, len(content)]) + content


def _number(number: int, value: int) -> bytes:
    return bytes([number << 3 | _INT64, value])
