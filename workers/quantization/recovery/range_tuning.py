"""Range fine-tuning: scales of activations and weights are moved by gradients, block by block (LSQ)."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from app.errors import StepError
from workers.autodiff.extra import require_torch
from workers.quantization.affine import Affine
from workers.quantization.qdq.plan import Array, Place, Plan, weight_types
from workers.quantization.recovery.blocks import MOST_PRODUCTS, Block, blocks_of
from workers.quantization.recovery.material import Material

if TYPE_CHECKING:
    from torch import Tensor

    from workers.quantization.recovery.learned_scales import LearnedScale, ScaledWeight
    from workers.quantization.recovery.reconstruction import Samples, Values
    from workers.quantization.recovery.simulation import Simulation


@dataclass(frozen=True, slots=True)
class Settings:
    """`rate` is Adam's, for natural logarithms of scales."""

    iterations: int = 400
    batch: int = 8
    rate: float = 1e-3
    most_products: int = MOST_PRODUCTS


def range_tuning(plan: Plan, material: Material, settings: Settings | None = None) -> Plan:
    """Move the scales of each block's activations and weights to where its outputs are nearest to the float model's.

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
    """The scales that move together in one block: of activations by name, of weights by place."""

    activations: "dict[str, LearnedScale]" = field(default_factory=dict)
    weights: "dict[Place, ScaledWeight]" = field(default_factory=dict)
    biases: "dict[Place, Tensor]" = field(default_factory=dict)

    def values(self, plan: Plan, simulation: "Simulation") -> "dict[str, Tensor]":
        """What takes the place of the simulation's own tensors; biases in float, for their steps depend on scales."""
        found = {simulation.weights[place]: weight.weight() for place, weight in self.weights.items()}
        found |= {simulation.biases[place]: bias for place, bias in self.biases.items()}
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
    settled: Values = {}
    for seed, block in enumerate(blocks):
        scales = _scales_of(plan, block)
        if block.outputs and (scales.activations or scales.weights):
            moved = _tune(plan, simulation, passage.samples(block, seed), scales, settled, settings, seed)
            if moved is not settled:
                settled = moved
                activations.update((name, scale.affine()) for name, scale in scales.activations.items())
                weights.update((place, weight.affine()) for place, weight in scales.weights.items())
        passage.advance(block, simulation, settled)
    for name, owner in plan.placement.shares.items():
        activations[name] = activations[owner]
    fitting = _that_leave_room_for_biases(plan, material, activations, weights)
    return replace(plan, activations=activations, weights=plan.weights | fitting)


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
    moving = [*scales.activations.values(), *scales.weights.values()]
    optimizer = torch.optim.Adam([scale.exponent for scale in moving], lr=settings.rate)
    fitting = Fitting(settings.iterations, settings.batch)
    fit(simulation, samples, fitting, values, None, optimizer, seed, before)
    moved = {name: tensor.detach() for name, tensor in values().items()}
    return moved if error(simulation, samples, moved) < before else settled


def _scales_of(plan: Plan, block: Block) -> _Scales:
    import torch

    from workers.quantization.recovery.learned_scales import LearnedScale, ScaledWeight

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
        biases={
            (bias.node, bias.index): torch.from_numpy(plan.stored(bias.tensor).copy())
            for bias in plan.placement.biases
            if (bias.node, 1) in inside
        },
    )


def _that_leave_room_for_biases(
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
