"""Normalizations, as they are at inference."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workers.autodiff.node import Node


def _batch(node: Node, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return functional.batch_norm(x, mean, variance, scale, bias, training=False, eps=node.get("epsilon", 1e-5))


def _layer(node: Node, x: Tensor, scale: Tensor, bias: Tensor | None = None) -> Tensor:
    axes = _last_axes(node, x)
    centred = x - x.mean(axes, keepdim=True)
    normal = centred / torch.sqrt(centred.square().mean(axes, keepdim=True) + node.get("epsilon", 1e-5))
    return normal * scale if bias is None else normal * scale + bias


def _root_mean_square(node: Node, x: Tensor, scale: Tensor) -> Tensor:
    square = x.square().mean(_last_axes(node, x), keepdim=True)
    return x / torch.sqrt(square + node.get("epsilon", 1e-5)) * scale


def _last_axes(node: Node, x: Tensor) -> list[int]:
    return list(range(node.get("axis", -1) % x.dim(), x.dim()))


def _instance(node: Node, x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    return functional.instance_norm(x, weight=scale, bias=bias, eps=node.get("epsilon", 1e-5))


OPERATORS: dict[str, Callable[..., Any]] = {
    "BatchNormalization": _batch,
    "InstanceNormalization": _instance,
    "LayerNormalization": _layer,
    "RMSNormalization": _root_mean_square,
    "SimplifiedLayerNormalization": _root_mean_square,
}
