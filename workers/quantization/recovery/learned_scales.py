"""Scales that gradients move: of activations, of weights that are rounded, and of weights whose integers stay; biases.

Esser et al. 2020, "Learned Step Size Quantization": the gradient passes straight through the rounding, so that a scale
feels how far each number lies from its neighbour, and what is clipped. Scales move as powers of e, by shares of
themselves, so that one learning rate suits them all and none can change its sign.
"""

import numpy as np
import torch
from torch import Tensor, nn

from workers.quantization.affine import Affine
from workers.quantization.qdq.plan import Array


class LearnedScale(nn.Module):
    """The scale of an activation, float32 of the shape it has."""

    def __init__(self, affine: Affine) -> None:
        super().__init__()
        self._affine = affine
        self._start = torch.from_numpy(np.array(affine.scale))
        self.exponent = nn.Parameter(torch.zeros_like(self._start))

    def forward(self) -> Tensor:
        """The scale as it is now."""
        moved: Tensor = self._start * torch.exp(self.exponent)
        return moved

    def affine(self) -> Affine:
        """The same type with this scale."""
        kept = self._affine
        scale = np.asarray(self().detach().numpy(), dtype=np.float32)
        return Affine(kept.dtype, scale, kept.zero_point, kept.low, kept.high, kept.axis)


class ScaledWeight(LearnedScale):
    """A weight in steps of a learned scale, float32 in its own shape.

    With `whole`, its integers stay and the scale only stretches them; else the float `values` are rounded anew.
    """

    def __init__(self, values: Array, affine: Affine, whole: Array | None) -> None:
        super().__init__(affine)
        self._shape = [1] * values.ndim
        if affine.axis is not None:
            self._shape[affine.axis] = -1
        zero = affine.zero_point.astype(np.float32)
        self._zero = torch.from_numpy(np.array(zero)).reshape(self._shape if zero.ndim else ())
        self._values = torch.from_numpy(np.array(values, dtype=np.float32))
        self._whole = None if whole is None else torch.from_numpy(whole.astype(np.float32)) - self._zero

    def weight(self) -> Tensor:
        """What the integers stand for now."""
        scale: Tensor = self()
        scale = scale.reshape(self._shape) if scale.dim() else scale
        if self._whole is not None:
            return self._whole * scale
        steps = self._values / scale
        rounded = steps + (torch.round(steps) - steps).detach()
        low, high = self._affine.low - self._zero, self._affine.high - self._zero
        return torch.clamp(rounded, low, high) * scale


class LearnedBias(nn.Module):
    """A bias, float32 [channels], that moves in units of the tensor's root mean square; so one rate suits
    them all. One of zeros stays."""

    def __init__(self, values: Array) -> None:
        super().__init__()
        self._start = torch.from_numpy(np.array(values, dtype=np.float32))
        self._unit = self._start.square().mean().sqrt()
        self.shift = nn.Parameter(torch.zeros_like(self._start))

    def forward(self) -> Tensor:
        """The bias as it is now."""
        moved: Tensor = torch.addcmul(self._start, self._unit, self.shift)
        return moved
