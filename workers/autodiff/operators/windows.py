"""Padding of windows that slide over the spatial axes, for convolutions and pooling."""

from collections.abc import Sequence

from workers.autodiff.node import Node

Pads = list[tuple[int, int]]
"""Before and after, a spatial axis each."""


def numbers(node: Node, name: str, axes: int, default: int = 1) -> list[int]:
    """An attribute that has a number for each spatial axis."""
    return [int(value) for value in node.get(name) or [default] * axes]


def pads_of(node: Node, sizes: Sequence[int], kernel: Sequence[int]) -> Pads:
    """The padding that `pads` or `auto_pad` ask for, for an input of these spatial sizes."""
    axes = len(sizes)
    automatic = node.get("auto_pad", "NOTSET")
    if automatic in ("NOTSET", ""):
        given = numbers(node, "pads", 2 * axes, default=0)
        return list(zip(given[:axes], given[axes:], strict=True))
    if automatic == "VALID":
        return [(0, 0)] * axes
    pads = []
    strides, dilations = numbers(node, "strides", axes), numbers(node, "dilations", axes)
    for size, width, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        reach = (width - 1) * dilation + 1
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        less, more = total // 2, total - total // 2
        pads.append((less, more) if automatic == "SAME_UPPER" else (more, less))
    return pads


def flat(pads: Pads) -> list[int]:
    """As torch's `pad` wants it: the last axis first."""
    return [value for pair in reversed(pads) for value in pair]
