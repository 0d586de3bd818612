"""Learned rounding: which way each weight is rounded is found by gradients, block by block (AdaRound, BRECQ)."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from app.errors import StepError
from workers.autodiff.extra import require_torch
from workers.quantization.qdq.plan import Array, Place, Plan, weight_types
from workers.quantization.recovery.blocks import MOST_PRODUCTS, Block, blocks_of
from workers.quantization.recovery.clip_search import best_shares
from workers.quantization.recovery.material import Material

if TYPE_CHECKING:
    from torch import Tensor

    from workers.quantization.recovery.reconstruction import Samples, Values
    from workers.quantization.recovery.simulation import Simulation
    from workers.quantization.recovery.soft_rounding import SoftRounding


@dataclass(frozen=True, slots=True)
class Settings:
    """`rate` is Adam's. `regularization` is the loss where no weight has decided yet, in units of the error of rounding
    to the nearest: much of it, for weights that are still between two numbers at the end fall back to either."""

    iterations: int = 1000
    batch: int = 8
    rate: float = 3e-2
    regularization: float = 10.0
    most_products: int = MOST_PRODUCTS


def learned_rounding(plan: Plan, material: Material, settings: Settings | None = None) -> Plan:
    """Round every product's weight up or down as the float model's outputs want it, not to the nearest.

    Scales are first taken to the least squared error. A block whose error does not fall keeps what it had. The float
    model of the plan is what is fitted to, so steps that change its function (bias correction) come afterwards.
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
    integers: dict[Place, Array] = dict(plan.integers)
    for seed, block in enumerate(blocks):
        chosen: dict[Place, SoftRounding] = {}
        if block.weights and block.outputs:
            chosen = _learn(plan, simulation, block, passage.samples(block, seed), settings, seed)
        integers.update((place, rounding.whole()) for place, rounding in chosen.items())
        passage.advance(block, simulation, _hard(simulation, chosen))
    return replace(plan, integers=integers)


def _learn(
    plan: Plan, simulation: "Simulation", block: Block, samples: "list[Samples]", settings: Settings, seed: int
) -> "dict[Place, SoftRounding]":
    """The roundings of one block's weights; none where the block was nearer without."""
    import torch

    from workers.quantization.recovery.reconstruction import Fitting, error, fit
    from workers.quantization.recovery.soft_rounding import SoftRounding

    places = [(weight.node, weight.index) for weight in block.weights]
    tensors = [plan.stored(weight.tensor) for weight in block.weights]
    roundings = {
        place: SoftRounding(values, plan.weights[place]) for place, values in zip(places, tensors, strict=True)
    }

    count = sum(values.size for values in tensors)

    def weights() -> "Values":
        return {simulation.weights[place]: rounding() for place, rounding in roundings.items()}

    def penalty(way: float) -> "Tensor":
        parts = torch.stack([rounding.penalty(way) for rounding in roundings.values()])
        return settings.regularization * parts.sum() / count

    before = error(simulation, samples, {})
    if before == 0.0:
        return {}
    optimizer = torch.optim.Adam([rounding.choice for rounding in roundings.values()], lr=settings.rate)
    fitting = Fitting(settings.iterations, settings.batch)
    fit(simulation, samples, fitting, weights, penalty, optimizer, seed, before)
    return roundings if error(simulation, samples, _hard(simulation, roundings)) < before else {}


def _hard(simulation: "Simulation", roundings: "dict[Place, SoftRounding]") -> "Values":
    return {simulation.weights[place]: rounding.hard().detach() for place, rounding in roundings.items()}
