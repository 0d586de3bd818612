"""Activation functions, and Softmax."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from workers.autodiff.node import Node


def _relu(node: Node, x: Tensor) -> Tensor:
    return torch.relu(x)


def _sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.sigmoid(x)


def _leaky_relu(node: Node, x: Tensor) -> Tensor:
    return functional.leaky_relu(x, node.get("alpha", 0.01))


def _prelu(node: Node, x: Tensor, slope: Tensor) -> Tensor:
    # ONNX broadcasts the slope as it does everything else; torch's own function takes one a channel.
    return torch.where(x < 0, x * slope, x)


def _elu(node: Node, x: Tensor) -> Tensor:
    return functional.elu(x, node.get("alpha", 1.0))


def _hard_sigmoid(node: Node, x: Tensor) -> Tensor:
    return torch.clamp(node.get("alpha", 0.2) * x + node.get("beta", 0.5), 0.0, 1.0)


def _hard_swish(node: Node, x: Tensor) -> Tensor:
    return x * torch.clamp(x / 6 + 0.5, 0.0, 1.0)


def _softplus(node: Node, x: Tensor) -> Tensor:
    # Beyond a threshold torch's own form is the identity.
    return torch.logaddexp(x, torch.zeros_like(x))


def _mish(node: Node, x: Tensor) -> Tensor:
    return x * torch.tanh(_softplus(node, x))


def _gelu(node: Node, x: Tensor) -> Tensor:
    return functional.gelu(x, approximate=node.get("approximate", "none"))


def _quick_gelu(node: Node, x: Tensor) -> Tensor:
    return x * torch.sigmoid(node.get("alpha", 1.702) * x)


def _softmax(node: Node, x: Tensor) -> Tensor:
    return torch.softmax(x, node.get("axis", -1))


def _log_softmax(node: Node, x: Tensor) -> Tensor:
    return torch.log_softmax(x, node.get("axis", -1))


OPERATORS: dict[str, Callable[..., Any]] = {
    "Elu": _elu,
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "LeakyRelu": _leaky_relu,
    "LogSoftmax": _log_softmax,
    "Mish": _mish,
    "PRelu": _prelu,
    "QuickGelu": _quick_gelu,
    "Relu": _relu,
    "Sigmoid": _sigmoid,
    "Softmax": _softmax,
    "Softplus": _softplus,
}
