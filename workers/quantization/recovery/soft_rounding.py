"""Rounding that gradients decide: each weight lies between its two neighbours, and is pushed to one of them.

Nagel et al. 2020, "Up or Down? Adaptive Rounding for Post-Training Quantization", §3.2: W̃ = s · clip(⌊W/s⌋ + h(V)),
h a sigmoid stretched over [γ, ζ] and cut to [0, 1] (eq. 23), and the penalty Σ 1 − |2h(V) − 1|^β (eq. 24), whose β
falls from 20 to 2.
"""

import numpy as np
import torch
from torch import Tensor, nn

from workers.quantization.affine import Affine
from workers.quantization.qdq.plan import Array

ZETA, GAMMA = 1.1, -0.1
_FIRST_BETA, _LAST_BETA = 20.0, 2.0
_WITHOUT = 0.2
"""Part of the way that is gone without the penalty."""


class SoftRounding(nn.Module):
    """The rounding of one weight tensor, float32 of any shape; it begins where the float numbers lie."""

    def __init__(self, values: Array, affine: Affine) -> None:
        super().__init__()
        self._affine = affine
        shape = [1] * values.ndim
        if affine.axis is not None:
            shape[affine.axis] = -1
        scale = affine.scale.reshape(shape if affine.scale.ndim else ())
        zero = affine.zero_point.astype(np.float32).reshape(shape if affine.zero_point.ndim else ())
        steps = (values.astype(np.float32) / scale).astype(np.float32)
        self._scale = torch.from_numpy(np.array(scale))
        self._zero = torch.from_numpy(np.array(zero))
        self._floor = torch.from_numpy(np.floor(steps) + zero)
        # A fraction next to 0 or 1 would begin at an infinite V.
        share = torch.from_numpy(steps - np.floor(steps)).clamp(1e-3, 1 - 1e-3)
        self.choice = nn.Parameter(-torch.log((ZETA - GAMMA) / (share - GAMMA) - 1))

    def forward(self) -> Tensor:
        """The weight as it is between its neighbours now, float32."""
        return self._number(self._floor + self._up())

    def hard(self) -> Tensor:
        """The weight with every choice made."""
        return self._number(self._floor + (self._up() >= 0.5))

    def whole(self) -> Array:
        """The chosen integers, in the quantized type."""
        chosen = self._floor + (self._up() >= 0.5)
        return chosen.clamp(self._affine.low, self._affine.high).detach().numpy().astype(self._affine.dtype)

    def penalty(self, way: float) -> Tensor:
        """How undecided the choices are, summed; 0 at the beginning of the way."""
        if way < _WITHOUT:
            return self.choice.new_zeros(())
        beta = _LAST_BETA + (_FIRST_BETA - _LAST_BETA) * (1 - (way - _WITHOUT) / (1 - _WITHOUT))
        return (1 - (2 * self._up() - 1).abs().pow(beta)).sum()

    def _up(self) -> Tensor:
        return torch.clamp(torch.sigmoid(self.choice) * (ZETA - GAMMA) + GAMMA, 0, 1)

    def _number(self, whole: Tensor) -> Tensor:
        return (whole.clamp(self._affine.low, self._affine.high) - self._zero) * self._scale
