"""Weight clip search: give up the ends of a channel's weights where finer steps for the rest are worth more."""

import numpy as np

from app.errors import StepError
from workers.quantization.affine import Affine, reach_of
from workers.quantization.qdq.plan import Array, Place, Plan, weight_types
from workers.quantization.recovery.material import Material

_SHARES = np.linspace(1.0, 0.4, 31)


def clip_search(plan: Plan, material: Material) -> Plan:
    """Cover of each channel's weights the share of their reach that leaves the least squared error.

    Raises StepError `step_not_applicable` where no channel gains by it.
    """
    changed = plan.copy()
    reach: dict[Place, Array] = {}
    for weight in plan.placement.weights:
        place = (weight.node, weight.index)
        if weight.product and place not in plan.integers:
            affine = plan.weights[place]
            values = plan.stored(weight.tensor)
            share = best_shares(values, affine)
            if np.any(share < 1.0):
                reach[place] = reach_of(values, affine.axis) * share
    if not reach:
        raise StepError("No channel's weights are nearer to the original's when clipped.", code="step_not_applicable")
    changed.weights.update(
        {
            place: affine
            for place, affine in weight_types(
                plan.model, plan.placement, plan.activations, material.setting, reach=reach
            ).items()
            if place in reach
        }
    )
    return changed


def best_shares(values: Array, affine: Affine) -> Array:
    """The share of its reach that each channel is best covered to, by squared error; scalar without channels."""
    axes = tuple(at for at in range(values.ndim) if affine.axis is None or at != affine.axis % values.ndim)
    scale = affine.scale
    errors = []
    for share in _SHARES:
        narrower = Affine(
            affine.dtype, (scale * share).astype(np.float32), affine.zero_point, affine.low, affine.high, affine.axis
        )
        difference = narrower.rounded(values).astype(np.float64) - values
        errors.append(np.sum(difference**2, axis=axes))
    return np.asarray(_SHARES[np.argmin(np.stack(errors), axis=0)])
