"""Sums, means and extremes over axes."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workers.autodiff.node import Node
from workers.autodiff.operators.values import axes_of

_Reduction = Callable[[Tensor, list[int], bool], Tensor]


def _reduced(function: _Reduction) -> Callable[..., Tensor]:
    def compute(node: Node, x: Tensor, axes: Tensor | None = None) -> Tensor:
        along = axes_of(node, axes)
        if not along:
            if node.get("noop_with_empty_axes", 0):
                return x
            along = list(range(x.dim()))
        return function(x, along, bool(node.get("keepdims", 1)))

    return compute


def _sum(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sum(x, axes, keep, dtype=x.dtype)


def _l2(x: Tensor, axes: list[int], keep: bool) -> Tensor:
    return torch.sqrt(torch.sum(x.square(), axes, keep))


def _arg_max(node: Node, x: Tensor) -> Tensor:
    return torch.argmax(x, node.get("axis", 0), bool(node.get("keepdims", 1)))


OPERATORS: dict[str, Callable[..., Any]] = {
    "ArgMax": _arg_max,
    "ReduceL2": _reduced(_l2),
    "ReduceMax": _reduced(torch.amax),
    "ReduceMean": _reduced(torch.mean),
    "ReduceMin": _reduced(torch.amin),
    "ReduceSum": _reduced(_sum),
    "ReduceSumSquare": _reduced(lambda x, axes, keep: torch.sum(x.square(), axes, keep)),
}
