"""Range fine-tuning: scales of activations and weights, and biases, are moved by gradients, block by block (LSQ)."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from app.errors import StepError
from workers.autodiff.extra import require_torch
from workers.quantization.affine import Affine
from workers.quantization.qdq.placement import Bias
from workers.quantization.qdq.plan import Array, Place, Plan, weight_types
from workers.quantization.recovery.blocks import MOST_PRODUCTS, Block, blocks_of
from workers.quantization.recovery.material import Material

if TYPE_CHECKING:
    from torch import Tensor

    from workers.quantization.recovery.learned_scales import LearnedBias, LearnedScale, ScaledWeight
    from workers.quantization.recovery.reconstruction import Samples, Values
    from workers.quantization.recovery.simulation import Simulation


@dataclass(frozen=True, slots=True)
class Settings:
    """`rate` is Adam's, for natural logarithms of scales and for biases; it falls to nothing."""

    iterations: int = 400
    batch: int = 8
    rate: float = 1e-3
    most_products: int = MOST_PRODUCTS


def range_tuning(plan: Plan, material: Material, settings: Settings | None = None) -> Plan:
    """Move each block's scales of activations and weights, and biases, to where its outputs are nearest to the float
    model's.

    Weights whose integers were chosen (learned rounding) keep them and are only stretched; others are rounded anew.
    Zero points stay. A block whose error does not fall keeps what it had. Raises StepError `needs_torch`,
    `operator_not_differentiable`, `graph_parity` or `step_not_applicable`.
    """
    require_torch("range_tuning")
    if not plan.activations:
        raise StepError("No activation is quantized, so there is no range to tune.", code="step_not_applicable")
    # Nothing else of this worker needs torch.
    from workers.quantization.recovery.simulation import torch_threads

    with torch_threads(material.threads):
        return _tuned(plan.copy(), material, settings or Settings())


@dataclass(slots=True)
class _Scales:
    """What moves together in one block: scales of activations by name, of weights by place, and biases."""

    activations: "dict[str, LearnedScale]" = field(default_factory=dict)
    weights: "dict[Place, ScaledWeight]" = field(default_factory=dict)
    biases: "dict[Place, LearnedBias]" = field(default_factory=dict)

    def values(self, plan: Plan, simulation: "Simulation") -> "dict[str, Tensor]":
        """What takes the place of the simulation's own tensors; biases in float, for their steps depend on scales."""
        found = {simulation.weights[place]: weight.weight() for place, weight in self.weights.items()}
        found |= {simulation.biases[place]: bias() for place, bias in self.biases.items()}
        moved = {name: scale() for name, scale in self.activations.items()}
        for name, tensor in simulation.scales.items():
            owner = plan.placement.shares.get(name, name)
            if owner in moved:
                found[tensor] = moved[owner]
        return found


def _tuned(plan: Plan, material: Material, settings: Settings) -> Plan:
    from workers.quantization.recovery.reconstruction import Passage
    from workers.quantization.recovery.simulation import Simulation

    simulation = Simulation(plan)
    blocks = blocks_of(plan, settings.most_products)
    passage = Passage(plan, material, blocks)
    activations = dict(plan.activations)
    weights: dict[Place, Affine] = {}
    biases: dict[Place, Array] = {}
    settled: Values = {}
    for seed, block in enumerate(blocks):
        scales = _scales_of(plan, block)
        if block.outputs and (scales.activations or scales.weights):
            moved = _tune(plan, simulation, passage.samples(block, seed), scales, settled, settings, seed)
            if moved is not settled:
                settled = moved
                activations.update((name, scale.affine()) for name, scale in scales.activations.items())
                weights.update((place, weight.affine()) for place, weight in scales.weights.items())
                biases.update((place, bias().detach().numpy()) for place, bias in scales.biases.items())
        passage.advance(block, simulation, settled)
    for name, owner in plan.placement.shares.items():
        activations[name] = activations[owner]
    changed = with_biases(plan, biases)
    fitting = that_leave_room_for_biases(changed, material, activations, weights)
    return replace(changed, activations=activations, weights=plan.weights | fitting)


def _tune(
    plan: Plan,
    simulation: "Simulation",
    samples: "list[Samples]",
    scales: _Scales,
    settled: "Values",
    settings: Settings,
    seed: int,
) -> "Values":
    """Move one block's scales; returns what then takes the place of tensors, `settled` itself if that is nearer."""
    import torch

    from workers.quantization.recovery.reconstruction import Fitting, error, fit

    def values() -> "Values":
        return settled | scales.values(plan, simulation)

    before = error(simulation, samples, settled)
    if before == 0.0:
        return settled
    moving = [scale.exponent for scale in (*scales.activations.values(), *scales.weights.values())]
    moving += [bias.shift for bias in scales.biases.values()]
    optimizer = torch.optim.Adam(moving, lr=settings.rate, fused=True)
    fitting = Fitting(settings.iterations, settings.batch, slowing=True)
    fit(simulation, samples, fitting, values, None, optimizer, seed, before)
    moved = {name: tensor.detach() for name, tensor in values().items()}
    return moved if error(simulation, samples, moved) < before else settled


def _scales_of(plan: Plan, block: Block) -> _Scales:
    from workers.quantization.recovery.learned_scales import LearnedBias, LearnedScale, ScaledWeight

    inside = {(weight.node, weight.index): weight for weight in block.weights}
    return _Scales(
        activations={
            name: LearnedScale(plan.activations[name])
            for name in block.activations
            if name not in plan.placement.shares
        },
        weights={
            place: ScaledWeight(plan.stored(weight.tensor), plan.weights[place], plan.integers.get(place))
            for place, weight in inside.items()
        },
        biases={(bias.node, bias.index): LearnedBias(plan.stored(bias.tensor)) for bias in biases_of(plan, block)},
    )


def biases_of(plan: Plan, block: Block) -> list[Bias]:
    """The stored biases of a block's products."""
    inside = {weight.node for weight in block.weights}
    return [bias for bias in plan.placement.biases if bias.node in inside]


def with_biases(plan: Plan, biases: Mapping[Place, Array]) -> Plan:
    """The plan with these biases, which correct the quantized model alone."""
    changed = plan.copy()
    for bias in plan.placement.biases:
        if (bias.node, bias.index) in biases:
            shift = biases[(bias.node, bias.index)] - plan.stored(bias.tensor)
            changed.shifts[bias.tensor] = plan.shifts.get(bias.tensor, 0.0) + shift
            changed.store(bias.tensor, biases[(bias.node, bias.index)])
    return changed


def that_leave_room_for_biases(
    plan: Plan, material: Material, activations: dict[str, Affine], weights: dict[Place, Affine]
) -> dict[Place, Affine]:
    """Of the weights' new types those in whose units the biases fit into 32 bits, which are nearly always all."""
    reach: dict[Place, Array] = {
        place: affine.scale.astype(np.float64) * ((affine.high - affine.low) / 2) for place, affine in weights.items()
    }
    roomy = weight_types(plan.model, plan.placement, activations, material.setting, reach=reach)
    return {
        place: affine
        for place, affine in weights.items()
        if np.allclose(roomy[place].scale, affine.scale, rtol=1e-4, atol=0)
    }
