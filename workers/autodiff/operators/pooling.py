"""Pooling over windows, and over whole images."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workers.autodiff.node import Node
from workers.autodiff.operators.windows import Pads, flat, numbers, pads_of

_AVERAGES: dict[int, Callable[..., Tensor]] = {
    1: functional.avg_pool1d,
    2: functional.avg_pool2d,
    3: functional.avg_pool3d,
}
_MAXIMA: dict[int, Callable[..., Tensor]] = {
    1: functional.max_pool1d,
    2: functional.max_pool2d,
    3: functional.max_pool3d,
}


def _average(node: Node, x: Tensor) -> Tensor:
    kernel, strides, pads, beyond = _windows(node, x)
    pool = _AVERAGES[len(kernel)]
    inside = torch.ones_like(x[:1, :1])
    counted = functional.pad(inside, flat(pads), value=float(node.get("count_include_pad", 0)))
    counted = functional.pad(counted, flat(beyond))
    summed = pool(functional.pad(functional.pad(x, flat(pads)), flat(beyond)), kernel, strides)
    return summed / pool(counted, kernel, strides)


def _max(node: Node, x: Tensor) -> Tensor:
    kernel, strides, pads, beyond = _windows(node, x)
    lowest = -torch.inf if x.is_floating_point() else torch.iinfo(x.dtype).min
    padded = functional.pad(functional.pad(x, flat(pads), value=lowest), flat(beyond), value=lowest)
    return _MAXIMA[len(kernel)](padded, kernel, strides, 0, numbers(node, "dilations", len(kernel)))


def _windows(node: Node, x: Tensor) -> tuple[list[int], list[int], Pads, Pads]:
    """Kernel, strides, padding, and what is added behind the padding so that a last partial window fits."""
    kernel = [int(width) for width in node.get("kernel_shape")]
    axes = len(kernel)
    strides, dilations = numbers(node, "strides", axes), numbers(node, "dilations", axes)
    pads = pads_of(node, x.shape[2:], kernel)
    beyond: Pads = [(0, 0)] * axes
    if node.get("ceil_mode", 0):
        beyond = []
        for axis, (before, after) in enumerate(pads):
            size = x.shape[2 + axis]
            left = size + before + after - (kernel[axis] - 1) * dilations[axis] - 1
            windows = -(-left // strides[axis])
            # A window that would begin in the padding behind is none (PyTorch and onnxruntime alike).
            windows -= windows * strides[axis] >= size + before
            beyond.append((0, max(windows * strides[axis] - left, 0)))
    return kernel, strides, pads, beyond


def _spatial(x: Tensor) -> list[int]:
    return list(range(2, x.dim()))


def _global_average(node: Node, x: Tensor) -> Tensor:
    return x.mean(_spatial(x), keepdim=True)


def _global_max(node: Node, x: Tensor) -> Tensor:
    return x.amax(_spatial(x), keepdim=True)


OPERATORS: dict[str, Callable[..., Any]] = {
    "AveragePool": _average,
    "GlobalAveragePool": _global_average,
    "GlobalMaxPool": _global_max,
    "MaxPool": _max,
}
