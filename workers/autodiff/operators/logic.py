"""Comparisons, truth values, and choices by them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workers.autodiff.node import Node


def _compared(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[..., Tensor]:
    return lambda node, a, b: function(a, b)


def _not(node: Node, x: Tensor) -> Tensor:
    return torch.logical_not(x)


def _where(node: Node, condition: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    return torch.where(condition, chosen, other)


def _is_nan(node: Node, x: Tensor) -> Tensor:
    return torch.isnan(x)


OPERATORS: dict[str, Callable[..., Any]] = {
    "And": _compared(torch.logical_and),
    "Equal": _compared(torch.eq),
    "Greater": _compared(torch.gt),
    "GreaterOrEqual": _compared(torch.ge),
    "IsNaN": _is_nan,
    "Less": _compared(torch.lt),
    "LessOrEqual": _compared(torch.le),
    "Not": _not,
    "Or": _compared(torch.logical_or),
    "Where": _where,
    "Xor": _compared(torch.logical_xor),
}
