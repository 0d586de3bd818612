"""Everything that a QDQ model is made of, apart from the graph itself: what recovery steps look at and change."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from app.domain.recipe import Calibration
from workers.quantization.affine import Affine, for_range, reach_of, symmetric
from workers.quantization.calibration.ranges import find_range
from workers.quantization.calibration.statistics import Statistics
from workers.quantization.qdq.placement import Placement

Array = NDArray[Any]
Place = tuple[str, int]
"""A node's name and which of its inputs."""

_BIAS_LIMIT = (1 << 30) - 1
"""Half of what an int32 holds: the rest is for the products that are added to the bias."""


@dataclass(slots=True)
class Plan:
    """A float model, what is quantized in it, and how.

    `activations` are by tensor, `weights` by the place that reads them. `integers` holds weights that were rounded
    otherwise than to the nearest, in their quantized type.
    """

    model: ModelProto
    placement: Placement
    activations: dict[str, Affine]
    weights: dict[Place, Affine]
    integers: dict[Place, Array] = field(default_factory=dict)

    def stored(self, name: str) -> Array:
        """The float numbers of an initializer."""
        for tensor in self.model.graph.initializer:
            if tensor.name == name:
                return numpy_helper.to_array(tensor)
        raise KeyError(name)

    def store(self, name: str, values: Array) -> None:
        """Replace the numbers of an initializer."""
        for tensor in self.model.graph.initializer:
            if tensor.name == name:
                tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values, np.float32), name))
                return
        raise KeyError(name)


def activation_types(
    placement: Placement, seen: Statistics, calibration: Calibration, dtype: str, *, bits: int = 8
) -> dict[str, Affine]:
    """How each activation is quantized, by its observed range. What was never seen (an empty tensor) covers zero."""
    found = {}
    for name in placement.observed():
        low, high = find_range(seen.tensors[name], calibration, bits=bits) if name in seen.tensors else (0.0, 0.0)
        found[name] = for_range(low, high, dtype)
    for name in placement.activations:
        if name in placement.shares:
            found[name] = found[placement.shares[name]]
    return found


def weight_types(
    model: ModelProto,
    placement: Placement,
    activations: Mapping[str, Affine],
    *,
    dtype: str,
    bits: int = 8,
    per_channel: bool = True,
    reach: Mapping[Place, Array] | None = None,
) -> dict[Place, Affine]:
    """How each stored operand is quantized: products' weights about zero, other operands by their own range.

    `reach` is how far some of the weights are covered, where that is not as far as they go. Where a bias would not fit
    into 32 bits, the scale of its channel is made coarser until it does.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    biases = {(bias.node, bias.weight): bias for bias in placement.biases}
    found = {}
    for weight in placement.weights:
        values = numpy_helper.to_array(stored[weight.tensor])
        place = (weight.node, weight.index)
        if not weight.product:
            found[place] = for_range(float(values.min(initial=0)), float(values.max(initial=0)), "uint8")
            continue
        axis = weight.axis if per_channel else None
        wanted = reach_of(values, axis) if reach is None or place not in reach else reach[place]
        affine = symmetric(wanted, dtype, bits=bits, axis=axis)
        bias = biases.get((weight.node, weight.tensor))
        if bias is not None:
            affine = _room_for_bias(affine, numpy_helper.to_array(stored[bias.tensor]), activations[bias.source])
        found[place] = affine
    return found


def _room_for_bias(weight: Affine, bias: Array, source: Affine) -> Affine:
    """The weights' scale, coarser in channels whose bias has no room in units of both scales."""
    least = np.abs(bias.astype(np.float64)) / (float(source.scale) * _BIAS_LIMIT)
    needed = least if weight.axis is not None else least.max(initial=0.0)
    scale = np.maximum(weight.scale, np.asarray(needed, np.float32)).astype(np.float32)
    return Affine(weight.dtype, scale, weight.zero_point, weight.low, weight.high, weight.axis)
