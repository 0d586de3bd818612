"""Tensors as onnxruntime's convolutions hold them, channels in blocks: to put them in order for us is half as much
work as the model itself, and nothing that is observed depends on the order."""

from collections.abc import Mapping
from pathlib import Path

import onnx
from onnx import ModelProto

from workers.quantization.graph import attribute, captured
from workers.runtimes.optimized import optimized

LARGEST = 1 << 30
"""Bytes of the largest model that is written out and read again for this."""

BLOCK = 16
"""Channels of the largest block (8 without AVX-512). Others than whole blocks are filled up with zeros, which are no
numbers of the tensor: such tensors leave in order."""


def leave_blocked(path: Path, into: Path) -> Mapping[str, str]:
    """Write a model with observed outputs as onnxruntime optimizes it, to be loaded as it is.

    Outputs that would leave through a `ReorderOutput`, in whole blocks, are what that reads. Their elements are in
    another order within a row, and rows in the same one. Returns the names of those by the names that they had; the
    others have kept theirs. Raises StepError `model_does_not_load`.
    """
    model = optimized(path, "all")
    reorders = {node.output[0]: node for node in model.graph.node if node.op_type == "ReorderOutput"}
    read = {name for node in model.graph.node for name in (*node.input, *captured(node))}
    names: dict[str, str] = {}
    for value in model.graph.output:
        node = reorders.get(value.name)
        if node is None or attribute(node, "channels", 1) % BLOCK or node.input[0] in names.values():
            continue
        if value.name not in read:
            model.graph.node.remove(node)
        names[value.name] = value.name = node.input[0]
        value.type.tensor_type.ClearField("shape")
    onnx.save(model, into)
    return names


def worth_it(model: ModelProto) -> bool:
    """Whether it has convolutions, and is small enough."""
    return any(node.op_type == "Conv" for node in model.graph.node) and model.ByteSize() < LARGEST
