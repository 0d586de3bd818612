"""Decoders: the two shapes that a model with a cache of earlier tokens is served in."""

from collections.abc import Sequence

from app.domain.model import is_cache
from workers.runtimes.session import Port

PREFILL, STEP = "prefill", "step"

TOKENS = 128
"""Of a prompt, where no data tell."""

Shapes = dict[str, tuple[int, ...]]


def decoder_cases(inputs: Sequence[Port], tokens: int = TOKENS) -> dict[str, Shapes]:
    """A prompt of some tokens without a past, and one token after it; nothing for a model that has no cache."""
    if not any(is_cache(port.name, port.shape) for port in inputs):
        return {}
    return {PREFILL: _shapes(inputs, new=tokens, past=0), STEP: _shapes(inputs, new=1, past=tokens)}


def _shapes(inputs: Sequence[Port], *, new: int, past: int) -> Shapes:
    found: Shapes = {}
    for port in inputs:
        # A mask tells of every token there is, also of those in the cache.
        varies = past if is_cache(port.name, port.shape) else past + new if "mask" in port.name.lower() else new
        found[port.name] = tuple(
            (axis if isinstance(axis, int) else 1) if place == 0 else axis if isinstance(axis, int) else varies
            for place, axis in enumerate(port.shape)
        )
    return found
