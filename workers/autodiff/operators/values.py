"""Reading small tensors as Python numbers, and the types that both libraries know."""

from typing import Any

import torch
from onnx import TensorProto
from torch import Tensor

from workers.autodiff.node import Node

DTYPES: dict[int, torch.dtype] = {
    TensorProto.FLOAT: torch.float32,
    TensorProto.DOUBLE: torch.float64,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.BFLOAT16: torch.bfloat16,
    TensorProto.INT8: torch.int8,
    TensorProto.INT16: torch.int16,
    TensorProto.INT32: torch.int32,
    TensorProto.INT64: torch.int64,
    TensorProto.UINT8: torch.uint8,
    TensorProto.UINT16: torch.uint16,
    TensorProto.BOOL: torch.bool,
}
"""torch's type for each element type of ONNX that it computes with."""


def integers(values: Tensor) -> list[int]:
    """The numbers of a small integer tensor, in one list."""
    return [int(value) for value in values.reshape(-1).tolist()]


def axes_of(node: Node, given: Tensor | None) -> list[int] | None:
    """Axes from an input, or from the attribute of older opsets; None where neither says."""
    if given is not None:
        return integers(given)
    found: Any = node.get("axes")
    return None if found is None else [int(axis) for axis in found]
