"""Shapes: looking at them, changing them, and tensors made from them."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from onnx import numpy_helper
from torch import Tensor
from torch.nn import functional

from app.errors import StepError
from workers.autodiff.node import Node
from workers.autodiff.operators.values import DTYPES, axes_of, integers
from workers.autodiff.operators.windows import flat

_PAD_MODES = {"reflect": "reflect", "edge": "replicate"}


def _shape(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(list(x.shape)[node.get("start", 0) : node.get("end")], dtype=torch.int64)


def _size(node: Node, x: Tensor) -> Tensor:
    return torch.tensor(x.numel(), dtype=torch.int64)


def _reshape(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    sizes = integers(shape)
    if not node.get("allowzero", 0):
        sizes = [x.shape[index] if size == 0 else size for index, size in enumerate(sizes)]
    return x.reshape(sizes)


def _transpose(node: Node, x: Tensor) -> Tensor:
    return x.permute(node.get("perm") or list(reversed(range(x.dim()))))


def _squeeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    along = axes_of(node, axes)
    return x.squeeze() if along is None else x.squeeze(tuple(along))


def _unsqueeze(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
    along = axes_of(node, axes) or []
    rank = x.dim() + len(along)
    for axis in sorted(axis % rank for axis in along):
        x = x.unsqueeze(axis)
    return x


def _flatten(node: Node, x: Tensor) -> Tensor:
    axis = node.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(int(np.prod(x.shape[:axis], dtype=np.int64)), -1)


def _concat(node: Node, *inputs: Tensor) -> Tensor:
    return torch.cat(inputs, node.get("axis"))


def _split(node: Node, x: Tensor, sizes: Tensor | None = None) -> Sequence[Tensor]:
    axis = node.get("axis", 0)
    given = node.get("split") if sizes is None else integers(sizes)
    if given is None:
        parts = node.get("num_outputs") or len(node.outputs)
        size = -(-x.shape[axis] // parts)
        given = [min(size, max(x.shape[axis] - size * part, 0)) for part in range(parts)]
    return torch.split(x, given, axis)


def _constant(node: Node) -> Tensor:
    if "value" in node.attributes:
        return torch.from_numpy(np.array(numpy_helper.to_array(node.get("value"))))
    for name, dtype in (("value_float", torch.float32), ("value_int", torch.int64)):
        for form in (name, f"{name}s"):
            if form in node.attributes:
                return torch.tensor(node.get(form), dtype=dtype)
    raise StepError(f"The Constant {node.name!r} is no tensor of numbers.", code="operator_not_differentiable")


def _constant_of_shape(node: Node, shape: Tensor) -> Tensor:
    value = np.zeros(1, np.float32) if node.get("value") is None else numpy_helper.to_array(node.get("value"))
    return torch.from_numpy(np.full(integers(shape), value.reshape(-1)[0], value.dtype))


def _expand(node: Node, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(np.broadcast_shapes(tuple(x.shape), tuple(integers(shape))))


def _tile(node: Node, x: Tensor, repeats: Tensor) -> Tensor:
    return x.repeat(integers(repeats))


def _cast(node: Node, x: Tensor) -> Tensor:
    dtype = DTYPES.get(node.get("to"))
    if dtype is None:
        raise StepError(
            f"Node {node.name!r} casts to a type that torch does not compute with.", code="operator_not_differentiable"
        )
    return x.to(dtype)


def _pad(node: Node, x: Tensor, pads: Tensor, value: Tensor | None = None, axes: Tensor | None = None) -> Tensor:
    given = integers(pads)
    along = [axis % x.dim() for axis in (integers(axes) if axes is not None else range(x.dim()))]
    wanted = [(0, 0)] * x.dim()
    for index, axis in enumerate(along):
        wanted[axis] = (given[index], given[index + len(along)])
    mode = node.get("mode", "constant")
    if mode == "constant":
        return functional.pad(x, flat(wanted), value=0.0 if value is None else value.item())
    if mode not in _PAD_MODES or any(sum(map(abs, pair)) for pair in wanted[:2]) or not 3 <= x.dim() <= 5:
        raise StepError(
            f"Node {node.name!r} (Pad, mode {mode!r}) pads in a way that has no gradient here.",
            code="operator_not_differentiable",
        )
    return functional.pad(x, flat(wanted[2:]), mode=_PAD_MODES[mode])


def _range(node: Node, start: Tensor, limit: Tensor, delta: Tensor) -> Tensor:
    return torch.arange(start.item(), limit.item(), delta.item(), dtype=start.dtype)


def _trilu(node: Node, x: Tensor, diagonal: Tensor | None = None) -> Tensor:
    offset = 0 if diagonal is None else int(diagonal.item())
    return torch.triu(x, offset) if node.get("upper", 1) else torch.tril(x, offset)


def _depth_to_space(node: Node, x: Tensor) -> Tensor:
    rows, depth, height, width = x.shape
    block = node.get("blocksize")
    inner = depth // block**2
    if node.get("mode", "DCR") == "DCR":
        parts = x.reshape(rows, block, block, inner, height, width).permute(0, 3, 4, 1, 5, 2)
    else:
        parts = x.reshape(rows, inner, block, block, height, width).permute(0, 1, 4, 2, 5, 3)
    return parts.reshape(rows, inner, height * block, width * block)


def _space_to_depth(node: Node, x: Tensor) -> Tensor:
    rows, depth, height, width = x.shape
    block = node.get("blocksize")
    parts = x.reshape(rows, depth, height // block, block, width // block, block).permute(0, 3, 5, 1, 2, 4)
    return parts.reshape(rows, depth * block**2, height // block, width // block)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "DepthToSpace": _depth_to_space,
    "Expand": _expand,
    "Flatten": _flatten,
    "Pad": _pad,
    "Range": _range,
    "Reshape": _reshape,
    "Shape": _shape,
    "Size": _size,
    "SpaceToDepth": _space_to_depth,
    "Split": _split,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Trilu": _trilu,
    "Unsqueeze": _unsqueeze,
}
