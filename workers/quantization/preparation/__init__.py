"""Bring a model into the one form that every technique starts from.

Models arrive with weights in Constant nodes or behind a Transpose, nodes without names, batch norms beside
convolutions, parts that nobody reads, local functions, and opsets of many years. Nothing here changes what is
computed, beyond the rounding of folded batch norms; a quantized model is turned back only where that was asked for.
"""

from workers.quantization.preparation.preparing import Prepared, prepare
from workers.quantization.preparation.quantized import quantized_operators

__all__ = ["Prepared", "prepare", "quantized_operators"]
