"""Convolutions and matrix products."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workers.autodiff.node import Node
from workers.autodiff.operators.windows import flat, numbers, pads_of

_CONVOLUTIONS: dict[int, Callable[..., Tensor]] = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}
_TRANSPOSED: dict[int, Callable[..., Tensor]] = {
    1: functional.conv_transpose1d,
    2: functional.conv_transpose2d,
    3: functional.conv_transpose3d,
}


def _conv(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = x.dim() - 2
    pads = pads_of(node, x.shape[2:], weight.shape[2:])
    padding = [before for before, _ in pads]
    if any(before != after for before, after in pads):  # torch pads both sides alike
        x, padding = functional.pad(x, flat(pads)), [0] * axes
    strides, dilations = numbers(node, "strides", axes), numbers(node, "dilations", axes)
    return _CONVOLUTIONS[axes](x, weight, bias, strides, padding, dilations, node.get("group", 1))


def _conv_transpose(node: Node, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = x.dim() - 2
    strides, dilations = numbers(node, "strides", axes), numbers(node, "dilations", axes)
    extra = numbers(node, "output_padding", axes, default=0)
    # All that the kernel reaches, of which the pads are cut off afterwards: they may differ from side to side.
    whole = _TRANSPOSED[axes](x, weight, None, strides, 0, 0, node.get("group", 1), dilations)
    if any(extra):
        whole = functional.pad(whole, flat([(0, more) for more in extra]))
    for axis, (before, after) in enumerate(_cut(node, x, weight, whole, extra), start=2):
        whole = whole.narrow(axis, before, whole.shape[axis] - before - after)
    return whole if bias is None else whole + bias.reshape(-1, *[1] * axes)


def _cut(node: Node, x: Tensor, weight: Tensor, whole: Tensor, extra: list[int]) -> list[tuple[int, int]]:
    wanted = node.get("output_shape")
    automatic = node.get("auto_pad", "NOTSET")
    axes = x.dim() - 2
    if wanted is None and automatic in ("NOTSET", "", "VALID"):
        return pads_of(node, x.shape[2:], weight.shape[2:])
    sizes = (
        [int(size) for size in wanted[-axes:]]
        if wanted is not None
        else [size * stride for size, stride in zip(x.shape[2:], numbers(node, "strides", axes), strict=True)]
    )
    totals = [have - want for have, want in zip(whole.shape[2:], sizes, strict=True)]
    upper = automatic == "SAME_UPPER"
    return [(total // 2, total - total // 2) if upper else (total - total // 2, total // 2) for total in totals]


def _gemm(node: Node, a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    product = (a.t() if node.get("transA", 0) else a) @ (b.t() if node.get("transB", 0) else b)
    alpha, beta = node.get("alpha", 1.0), node.get("beta", 1.0)
    product = product if alpha == 1.0 else alpha * product
    if c is None:
        return product
    return product + (c if beta == 1.0 else beta * c)


def _matmul(node: Node, a: Tensor, b: Tensor) -> Tensor:
    return torch.matmul(a, b)


def _einsum(node: Node, *inputs: Tensor) -> Tensor:
    return torch.einsum(node.get("equation").replace(" ", ""), *inputs)


OPERATORS: dict[str, Callable[..., Any]] = {
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Einsum": _einsum,
    "Gemm": _gemm,
    "MatMul": _matmul,
}
