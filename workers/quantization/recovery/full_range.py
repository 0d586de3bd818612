"""Full range: weights get their eighth bit back where 16-bit sums hardly saturate for it.

Seven bits keep every pair of products within 16 bits, and cost each weight half of its precision. But pairs saturate
only where two large weights of one sign meet two large activations, and convolutions of single channels are computed
without pairs. An emulation of the saturating instruction tells, product by product, what would be lost.
"""

from dataclasses import replace
from itertools import islice

import numpy as np

from app.errors import StepError
from workers.quantization.affine import Affine
from workers.quantization.emulation.emulator import Emulator
from workers.quantization.emulation.kernels import Tally
from workers.quantization.emulation.lowering import lower
from workers.quantization.graph import save
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.plan import Array, Place, Plan, weight_types
from workers.quantization.recovery.material import Material

ROWS = 4
"""Feeds that are emulated."""
CORRELATED = 8.0
"""What saturation takes is of one sign, and adds up where roundings cancel: its power weighs so many times more."""


def full_range(plan: Plan, material: Material) -> Plan:
    """Widen the weights of every product that saturation harms less than the coarser steps of narrow weights do.

    Raises StepError `step_not_applicable` where the recipe gives all bits already or none may be given, or nothing is
    gained; `not_emulated`, or as the runtime does.
    """
    if material.setting.most_weight_bits <= material.setting.weight_bits:
        raise StepError("Weights have all bits that the recipe allows.", code="step_not_applicable")
    widened = _widened(plan, material)
    trial = replace(plan, weights=plan.weights | widened)
    tallies = _emulated(trial, material)
    tensors = {(weight.node, weight.index): weight.tensor for weight in plan.placement.weights}
    chosen = {
        place: affine
        for place, affine in widened.items()
        if place[0] in tallies and _pays(plan.stored(tensors[place]), plan.weights[place], affine, tallies[place[0]])
    }
    if not chosen:
        raise StepError("Every product loses more to saturation than to 7 bits.", code="step_not_applicable")
    changed = plan.copy()
    changed.weights.update(chosen)
    return changed


def _widened(plan: Plan, material: Material) -> dict[Place, Affine]:
    """Products' weights as far as they reach now, in as many bits as allowed; those rounded otherwise stay."""
    reach: dict[Place, Array] = {}
    for weight in plan.placement.weights:
        place = (weight.node, weight.index)
        if weight.product and place not in plan.integers:
            affine = plan.weights[place]
            reach[place] = affine.scale.astype(np.float64) * ((affine.high - affine.low) / 2)
    wide = replace(material.setting, weight_bits=material.setting.most_weight_bits)
    found = weight_types(plan.model, plan.placement, plan.activations, wide, reach=reach)
    return {place: found[place] for place in reach}


def _emulated(plan: Plan, material: Material) -> dict[str, Tally]:
    """What becomes of each product's pairs on the first feeds, by its node."""
    path = material.work / "widened.onnx"
    save(insert(plan).model, path)
    emulator = Emulator(lower(path), "saturating", threads=material.threads)
    for feed, _ in islice(material.feeds(), ROWS):
        emulator.run(feed)
    return emulator.tallies


def _pays(values: Array, narrow: Affine, wide: Affine, tally: Tally) -> bool:
    """Whether rounding takes less with wide weights than saturation adds, both as shares of what is computed.

    Rounding's share of a product is taken to be its share of the weights, which holds for inputs of even power.
    """
    exact = values.astype(np.float64)
    before, after = (float(np.sum((affine.rounded(values) - exact) ** 2)) for affine in (narrow, wide))
    return CORRELATED * tally.noise * float(np.sum(exact**2)) < (before - after) * tally.signal
