"""Everything that a QDQ model is made of, apart from the graph itself: what recovery steps look at and change."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper

from app.domain.recipe import Calibration
from workers.quantization.affine import Affine, for_activation, reach_of, symmetric
from workers.quantization.calibration.ranges import find_range
from workers.quantization.calibration.statistics import Statistics
from workers.quantization.graph import store, stored
from workers.quantization.qdq.placement import Bias, Placement, place

Array = NDArray[Any]
Place = tuple[str, int]
"""A node's name and which of its inputs."""

NOTHING_SEEN = Statistics(0, {})

_MASK = 1e4
"""From here on a number that is added is taken for a mask's."""

_BIAS_LIMIT = (1 << 30) - 1
"""Half of what an int32 holds: the rest is for the products that are added to the bias."""


@dataclass(slots=True)
class Plan:
    """A float model, what is quantized in it, and how.

    `activations` are by tensor, `weights` by the place that reads them. `integers` holds weights that were rounded
    otherwise than to the nearest, in their quantized type; `shifts` what biases have been corrected by, which is in the
    model's stored biases already. `seen` is what was observed of this model's activations: a step that changes some
    replaces theirs, so that a later step finds the ranges of the model that it is given.
    """

    model: ModelProto
    placement: Placement
    activations: dict[str, Affine]
    weights: dict[Place, Affine]
    integers: dict[Place, Array] = field(default_factory=dict)
    shifts: dict[str, Array] = field(default_factory=dict)
    seen: Statistics = NOTHING_SEEN

    def copy(self) -> "Plan":
        """A plan whose model and entries can be changed without changing this one's."""
        model = ModelProto()
        model.CopyFrom(self.model)
        return replace(
            self,
            model=model,
            activations=dict(self.activations),
            weights=dict(self.weights),
            integers=dict(self.integers),
            shifts=dict(self.shifts),
        )

    def stored(self, name: str) -> Array:
        """The float numbers of an initializer."""
        return stored(self.model, name)

    def store(self, name: str, values: Array) -> None:
        """Replace the numbers of an initializer."""
        store(self.model, name, values)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a recipe says, every choice made: which nodes may be quantized, and in which types.

    `activation_dtype` is uint8, int8, uint16 or int16; `weight_bits` below 8 use fewer of the type's numbers,
    and a step that finds it worth while may go up to `most_weight_bits`.
    """

    op_types: frozenset[str]
    kept: frozenset[str]
    calibration: Calibration
    activation_dtype: str = "uint8"
    weight_dtype: str = "int8"
    weight_bits: int = 8
    most_weight_bits: int = 8
    per_channel: bool = True


def place_for(model: ModelProto, setting: Setting) -> Placement:
    """Where a setting quantizes. Only a range that can end at zero replaces an activation: int16's cannot."""
    return place(model, setting.op_types, setting.kept, absorb=setting.activation_dtype != "int16")


def make_plan(
    model: ModelProto,
    seen: Statistics,
    setting: Setting,
    placement: Placement | None = None,
) -> Plan:
    """Quantize a prepared model as the setting says, with ranges from what was observed of it."""
    placement = placement or place_for(model, setting)
    activations = activation_types(placement, seen, setting.calibration, setting.activation_dtype)
    weights = weight_types(model, placement, activations, setting)
    return Plan(model, placement, activations, weights, seen=seen)


def activation_types(placement: Placement, seen: Statistics, calibration: Calibration, dtype: str) -> dict[str, Affine]:
    """How each activation is quantized, by its observed range. What was never seen (an empty tensor) covers zero."""
    bits, balanced = 16 if dtype.endswith("16") else 8, dtype == "int16"
    found = {}
    for name in placement.observed():
        seen_here = seen.tensors.get(name)
        low, high = (0.0, 0.0)
        if seen_here is not None:
            low, high = find_range(seen_here, calibration, bits=bits, symmetric=balanced)
        found[name] = for_activation(low, high, dtype)
    for name in placement.activations:
        if name in placement.shares:
            found[name] = found[placement.shares[name]]
    return found


def weight_types(
    model: ModelProto,
    placement: Placement,
    activations: Mapping[str, Affine],
    setting: Setting,
    *,
    reach: Mapping[Place, Array] | None = None,
) -> dict[Place, Affine]:
    """How each stored operand is quantized: products' weights about zero, other operands by their own range.

    `reach` is how far some of the weights are covered, where that is not as far as they go. Where a bias would not fit
    into 32 bits, the scale of its channel is made coarser until it does.
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    biases = {(bias.node, bias.weight): bias for bias in (*placement.biases, *_added_biases(model, placement))}
    found = {}
    for weight in placement.weights:
        values = numpy_helper.to_array(stored[weight.tensor])
        place = (weight.node, weight.index)
        if not weight.product:
            found[place] = for_activation(
                float(values.min(initial=0)), float(values.max(initial=0)), setting.activation_dtype
            )
            continue
        axis = weight.axis if setting.per_channel else None
        wanted = reach_of(values, axis) if reach is None or place not in reach else reach[place]
        affine = symmetric(wanted, setting.weight_dtype, bits=setting.weight_bits, axis=axis)
        bias = biases.get((weight.node, weight.tensor))
        if bias is not None:
            offsets = numpy_helper.to_array(stored[bias.tensor]).reshape(-1)
            if bias not in placement.biases:
                # What masks hold may be cut off: room for it would leave nothing of weights that share its scale.
                bound = np.inf if axis is not None else _MASK
                offsets = np.where(np.isfinite(offsets) & (np.abs(offsets) < bound), offsets, 0.0)
            affine = _room_for_bias(affine, offsets, activations[bias.source])
        found[place] = affine
    return found


def _added_biases(model: ModelProto, placement: Placement) -> Iterator[Bias]:
    """Biases that an Add puts to a matrix product: onnxruntime makes one Gemm of both and rounds them to 32 bits too.

    (WeightBiasQuantization of onnxruntime 1.32: where the sum's scale is tiny, such a bias would be cut off.)
    """
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    weights = {weight.node: weight for weight in placement.weights if weight.product}
    products = {node.output[0]: node for node in model.graph.node if node.op_type == "MatMul" and node.name in weights}
    for node in model.graph.node:
        if node.op_type != "Add":
            continue
        for made, bias in (tuple(node.input), tuple(reversed(node.input))):
            if made not in products or bias not in stored:
                continue
            product = products[made]
            weight = weights[product.name]
            if math.prod(stored[bias].dims) in (1, stored[weight.tensor].dims[-1]):
                yield Bias(product.name, 1, bias, product.input[0], weight.tensor)


def _room_for_bias(weight: Affine, bias: Array, source: Affine) -> Affine:
    """The weights' scale, coarser in channels whose bias has no room in units of both scales."""
    least = np.abs(bias.astype(np.float64)) / (float(source.scale) * _BIAS_LIMIT)
    needed = least if weight.axis is not None else least.max(initial=0.0)
    scale = np.maximum(weight.scale, np.asarray(needed, np.float32)).astype(np.float32)
    return Affine(weight.dtype, scale, weight.zero_point, weight.low, weight.high, weight.axis)
