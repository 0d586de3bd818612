"""Resize, axis after axis, as ONNX's reference defines it."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from app.errors import StepError
from workers.autodiff.node import Node
from workers.autodiff.operators.values import integers

_COORDINATES: dict[str, Callable[[Tensor, float, int, int], Tensor]] = {
    "half_pixel": lambda at, scale, size, wanted: (at + 0.5) / scale - 0.5,
    "pytorch_half_pixel": lambda at, scale, size, wanted: (at + 0.5) / scale - 0.5 if wanted > 1 else at * 0,
    "asymmetric": lambda at, scale, size, wanted: at / scale,
    "align_corners": lambda at, scale, size, wanted: at * ((size - 1) / (wanted - 1)) if wanted > 1 else at * 0,
}
"""From a place in the output to one in the input; given the scale and both sizes."""

_ROUNDINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "round_prefer_floor": lambda at: torch.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: torch.floor(at + 0.5),
    "floor": torch.floor,
    "ceil": torch.ceil,
}


def _resize(
    node: Node, x: Tensor, region: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None
) -> Tensor:
    mode = node.get("mode", "nearest")
    position = node.get("coordinate_transformation_mode", "half_pixel")
    policy = node.get("keep_aspect_ratio_policy", "stretch")
    rounding = node.get("nearest_mode", "round_prefer_floor")
    if (
        mode not in ("nearest", "linear")
        or position not in _COORDINATES
        or policy != "stretch"
        or node.get("antialias")
    ):
        raise StepError(
            f"Node {node.name!r} (Resize, mode {mode!r}, {position!r}) has no form in torch here; "
            "nearest and linear ones have.",
            code="operator_not_differentiable",
        )
    along = [axis % x.dim() for axis in node.get("axes") or range(x.dim())]
    for axis, wanted, scale in zip(along, *_wanted(x, along, scales, sizes), strict=True):
        size = x.shape[axis]
        if wanted == size and scale == 1.0:
            continue
        at = _COORDINATES[position](torch.arange(wanted, dtype=torch.float32), scale, size, wanted)
        x = _nearest(x, axis, at, rounding) if mode == "nearest" else _linear(x, axis, at)
    return x


def _wanted(x: Tensor, axes: list[int], scales: Tensor | None, sizes: Tensor | None) -> tuple[list[int], list[float]]:
    if sizes is not None and sizes.numel():
        wanted = integers(sizes)
        return wanted, [size / x.shape[axis] for axis, size in zip(axes, wanted, strict=True)]
    assert scales is not None, "a Resize has scales or sizes"
    factors = [float(scale) for scale in scales.tolist()]
    return [math.floor(x.shape[axis] * scale) for axis, scale in zip(axes, factors, strict=True)], factors


def _nearest(x: Tensor, axis: int, at: Tensor, rounding: str) -> Tensor:
    return x.index_select(axis, _ROUNDINGS[rounding](at).clamp(0, x.shape[axis] - 1).long())


def _linear(x: Tensor, axis: int, at: Tensor) -> Tensor:
    at = at.clamp(0, x.shape[axis] - 1)
    first = at.floor()
    shape = [1] * x.dim()
    shape[axis] = -1
    share = (at - first).reshape(shape)
    last = (first + 1).clamp(max=x.shape[axis] - 1)
    return x.index_select(axis, first.long()) * (1 - share) + x.index_select(axis, last.long()) * share


OPERATORS: dict[str, Callable[..., Any]] = {"Resize": _resize}
