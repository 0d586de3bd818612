"""Parts of tensors, by their places."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from workers.autodiff.node import Node
from workers.autodiff.operators.values import integers


def _gather(node: Node, x: Tensor, places: Tensor) -> Tensor:
    axis = node.get("axis", 0) % x.dim()
    places = torch.where(places < 0, places + x.shape[axis], places)
    found = x.index_select(axis, places.reshape(-1))
    return found.reshape((*x.shape[:axis], *places.shape, *x.shape[axis + 1 :]))


def _gather_elements(node: Node, x: Tensor, places: Tensor) -> Tensor:
    axis = node.get("axis", 0) % x.dim()
    return x.gather(axis, torch.where(places < 0, places + x.shape[axis], places).long())


def _slice(
    node: Node,
    x: Tensor,
    starts: Tensor,
    ends: Tensor,
    axes: Tensor | None = None,
    steps: Tensor | None = None,
) -> Tensor:
    firsts, lasts = integers(starts), integers(ends)
    along = integers(axes) if axes is not None else list(range(len(firsts)))
    strides = integers(steps) if steps is not None else [1] * len(firsts)
    for axis, first, last, step in zip(along, firsts, lasts, strides, strict=True):
        places = range(x.shape[axis])[first:last:step]
        if step == 1:
            x = x.narrow(axis, places.start, len(places))
        else:
            x = x.index_select(axis, torch.tensor(list(places), dtype=torch.int64))
    return x


OPERATORS: dict[str, Callable[..., Any]] = {
    "Gather": _gather,
    "GatherElements": _gather_elements,
    "Slice": _slice,
}
