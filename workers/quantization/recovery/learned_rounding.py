"""Learned rounding: which way each weight is rounded is found by gradients, block by block (AdaRound, BRECQ)."""

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from app.errors import StepError
from workers.autodiff.extra import require_torch
from workers.quantization.qdq.plan import Array, Place, Plan, weight_types
from workers.quantization.recovery.blocks import MOST_PRODUCTS, Block, blocks_of
from workers.quantization.recovery.clip_search import best_shares
from workers.quantization.recovery.material import Material
from workers.quantization.recovery.range_tuning import biases_of, that_leave_room_for_biases, with_biases

if TYPE_CHECKING:
    from torch import Tensor

    from workers.quantization.recovery.learned_scales import LearnedBias
    from workers.quantization.recovery.reconstruction import Samples, Values
    from workers.quantization.recovery.simulation import Simulation
    from workers.quantization.recovery.soft_rounding import SoftRounding


@dataclass(frozen=True, slots=True)
class Settings:
    """`rate` is Adam's, `scale_rate` that of logarithms of scales and of biases. `regularization` is the loss where no
    weight has decided yet, in units of the error of rounding to the nearest: much of it, and a high rate, for what is
    still between two numbers at the end falls back to either (of EfficientNet-Lite0's first block that was 3.5 times
    the error with 10 and 3e-2)."""

    iterations: int = 1000
    batch: int = 8
    rate: float = 1e-1
    scale_rate: float = 3e-3
    regularization: float = 100.0
    most_products: int = MOST_PRODUCTS


def learned_rounding(plan: Plan, material: Material, settings: Settings | None = None) -> Plan:
    """Round every product's weight up or down as the float model's outputs want it, not to the nearest.

    Scales are first taken to the least squared error, and then learned with the choices, as are biases; what biases
    move by is a correction, so the float model that is fitted to stays as it is. A block whose error does not fall
    keeps what it had.
    Raises StepError `needs_torch`, `operator_not_differentiable`, `graph_parity` or `step_not_applicable`.
    """
    require_torch("learned_rounding")
    if not any(weight.product for weight in plan.placement.weights):
        raise StepError("No product with stored weights is quantized, so there is nothing to round.",
                        code="step_not_applicable")  # fmt: skip
    # Nothing else of this worker needs torch.
    from workers.quantization.recovery.simulation import torch_threads

    chosen = settings or Settings()
    with torch_threads(material.threads):
        return _learned(_with_searched_scales(plan.copy(), material), material, chosen)


def _with_searched_scales(plan: Plan, material: Material) -> Plan:
    reach: dict[Place, Array] = {}
    for weight in plan.placement.weights:
        place = (weight.node, weight.index)
        if weight.product and place not in plan.integers:
            affine = plan.weights[place]
            share = best_shares(plan.stored(weight.tensor), affine)
            reach[place] = affine.scale.astype(np.float64) * share * ((affine.high - affine.low) / 2)
    found = weight_types(plan.model, plan.placement, plan.activations, material.setting, reach=reach)
    return replace(plan, weights=plan.weights | {place: found[place] for place in reach})


def _learned(plan: Plan, material: Material, settings: Settings) -> Plan:
    from workers.quantization.recovery.reconstruction import Passage
    from workers.quantization.recovery.simulation import Simulation

    simulation = Simulation(plan)
    blocks = blocks_of(plan, settings.most_products)
    passage = Passage(plan, material, blocks)
    found = _Rounded()
    for seed, block in enumerate(blocks):
        learned = _Rounded()
        if block.weights and block.outputs:
            learned = _learn(plan, simulation, block, passage.samples(block, seed), settings, seed)
        found.weights.update(learned.weights)
        found.biases.update(learned.biases)
        passage.advance(block, simulation, learned.hard(simulation))
    scales = {place: rounding.scale.affine() for place, rounding in found.weights.items()}
    changed = with_biases(plan, {place: bias().detach().numpy() for place, bias in found.biases.items()})
    return replace(
        changed,
        integers=plan.integers | {place: rounding.whole() for place, rounding in found.weights.items()},
        weights=plan.weights | that_leave_room_for_biases(changed, material, plan.activations, scales),
    )


@dataclass(slots=True)
class _Rounded:
    """What is learned of one block: of each weight the choices and the scale, and the biases beside them."""

    weights: "dict[Place, SoftRounding]" = field(default_factory=dict)
    biases: "dict[Place, LearnedBias]" = field(default_factory=dict)

    def soft(self, simulation: "Simulation") -> "Values":
        """What takes the place of the simulation's own tensors while choices are made."""
        return self._values(simulation, {place: rounding() for place, rounding in self.weights.items()})

    def hard(self, simulation: "Simulation") -> "Values":
        """The same when all are made, without gradients."""
        found = self._values(simulation, {place: rounding.hard() for place, rounding in self.weights.items()})
        return {name: tensor.detach() for name, tensor in found.items()}

    def _values(self, simulation: "Simulation", weights: "dict[Place, Tensor]") -> "Values":
        found = {simulation.weights[place]: weight for place, weight in weights.items()}
        return found | {simulation.biases[place]: bias() for place, bias in self.biases.items()}


def _learn(
    plan: Plan, simulation: "Simulation", block: Block, samples: "list[Samples]", settings: Settings, seed: int
) -> _Rounded:
    """The roundings of one block's weights; none where the block was nearer without."""
    import torch

    from workers.quantization.recovery.learned_scales import LearnedBias
    from workers.quantization.recovery.reconstruction import Fitting, error, fit
    from workers.quantization.recovery.soft_rounding import SoftRounding

    before = error(simulation, samples, {})
    if before == 0.0:
        return _Rounded()
    learned = _Rounded()
    for weight in block.weights:
        place = (weight.node, weight.index)
        learned.weights[place] = SoftRounding(plan.stored(weight.tensor), plan.weights[place])
    for bias in biases_of(plan, block):
        learned.biases[(bias.node, bias.index)] = LearnedBias(plan.stored(bias.tensor))
    roundings = learned.weights.values()
    count = sum(rounding.choice.numel() for rounding in roundings)

    def penalty(way: float) -> "Tensor":
        parts = torch.stack([rounding.penalty(way) for rounding in roundings])
        return settings.regularization * parts.sum() / count

    beside = [rounding.scale.exponent for rounding in roundings] + [bias.shift for bias in learned.biases.values()]
    optimizer = torch.optim.Adam(
        [
            {"params": [rounding.choice for rounding in roundings], "lr": settings.rate},
            {"params": beside, "lr": settings.scale_rate},
        ],
        fused=True,
    )
    fitting = Fitting(settings.iterations, settings.batch)
    fit(simulation, samples, fitting, lambda: learned.soft(simulation), penalty, optimizer, seed, before)
    return learned if error(simulation, samples, learned.hard(simulation)) < before else _Rounded()
