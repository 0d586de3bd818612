"""Rounding that gradients decide: each weight lies between its two neighbours, and is pushed to one of them.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", §3.2: W̃ = s · clip(⌊W/s⌋ + h(V)),
h a sigmoid stretched over [γ, ζ] and cut to [0, 1] (eq. 23), and the penalty Σ 1 − |2h(V) − 1|^β (eq. 24), whose β
falls from 20 to 2. The scale s is learned with the choices, and stretches what they lead to.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from workers.quantization.affine import Affine
from workers.quantization.qdq.plan import Array
from workers.quantization.recovery.learned_scales import LearnedScale

ZETA, GAMMA = 1.1, -0.1
_FIRST_BETA, _LAST_BETA = 20.0, 2.0
_WITHOUT = 0.2
"""Part of the way that is gone without the penalty."""


class SoftRounding(nn.Module):
    """The rounding of one weight tensor, float32 of any shape; it begins where the float numbers lie."""

    def __init__(self, values: Array, affine: Affine) -> None:
        super().__init__()
        self._affine = affine
        self.scale = LearnedScale(affine)
        self._shape = [1] * values.ndim
        if affine.axis is not None:
            self._shape[affine.axis] = -1
        numbers = (affine.scale, affine.zero_point.astype(np.float32))
        scale, zero = (of.reshape(self._shape if of.ndim else ()) for of in numbers)
        steps = (values.astype(np.float32) / scale).astype(np.float32)
        below, above = (np.clip(np.floor(steps) + up, affine.low - zero, affine.high - zero) for up in (0, 1))
        self._zero = zero
        self._below = torch.from_numpy(below.astype(np.float32))
        self._step = torch.from_numpy((above - below).astype(np.float32))
        # A fraction next to 0 or 1 would begin at an infinite V.
        share = torch.from_numpy(steps - np.floor(steps)).clamp(1e-3, 1 - 1e-3)
        self.choice = nn.Parameter(-torch.log((ZETA - GAMMA) / (share - GAMMA) - 1))

    def forward(self) -> Tensor:
        """The weight as it is between its neighbours now, float32."""
        return torch.addcmul(self._below, self._up(), self._step) * self._scale()

    def hard(self) -> Tensor:
        """The weight with every choice made."""
        return self._chosen() * self._scale()

    def whole(self) -> Array:
        """The chosen integers, in the quantized type."""
        chosen: Array = self._chosen().numpy() + self._zero
        return chosen.astype(self._affine.dtype)

    def penalty(self, way: float) -> Tensor:
        """How undecided the choices are, summed; 0 at the beginning of the way."""
        if way < _WITHOUT:
            return self.choice.new_zeros(())
        beta = _LAST_BETA + (_FIRST_BETA - _LAST_BETA) * (1 - (way - _WITHOUT) / (1 - _WITHOUT))
        undecided: Tensor = _Undecided.apply(2 * self._up() - 1, beta)  # type: ignore[no-untyped-call]  # torch's own
        return undecided

    def _chosen(self) -> Tensor:
        """The chosen integers, counted from the zero point, as float32."""
        return self._below + self._step * (self._up().detach() >= 0.5)

    def _scale(self) -> Tensor:
        scale: Tensor = self.scale()
        return scale.reshape(self._shape) if scale.dim() else scale

    def _up(self) -> Tensor:
        return torch.clamp(torch.sigmoid(self.choice) * (ZETA - GAMMA) + GAMMA, 0, 1)


class _Undecided(torch.autograd.Function):
    """Σ 1 − |x|^β, with one power for the value and the gradient, which cost the most of all here."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, beta: float) -> Tensor:
        size = x.abs()
        slope = size.pow(beta - 1)
        ctx.save_for_backward(slope.copysign(x).mul_(-beta))
        return x.numel() - torch.dot(slope.flatten(), size.flatten())

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        (slope,) = ctx.saved_tensors
        return gradients[0] * slope, None
