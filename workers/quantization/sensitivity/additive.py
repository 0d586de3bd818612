"""The model that predicts: noises of different origin add up at the outputs, so what is taken away is missing.

Power of the noise with everything quantized is measured; each origin's part of it is its share of the sum of all
origins' noises alone. KL divergence, which is quadratic in small changes too, is taken the same way; disagreement goes
as the root of the power, since the chance that a margin is crossed grows with the size of the change.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import sqrt

from workers.evaluation.metrics.sqnr_db import decibel
from workers.quantization.sensitivity.outputs import Effect, Score


@dataclass(frozen=True, slots=True)
class Additive:
    """Each origin's score alone by its key, and that of all together on all feeds."""

    alone: Mapping[str, Score]
    together: Score

    def left(self, keys: Collection[str]) -> float:
        """The share of the noise that is there without these origins'."""
        return _left({key: each.noise for key, each in self.alone.items()}, keys)

    def without(self, keys: Collection[str]) -> Effect:
        """The effect at the outputs when everything is quantized but what these origins come of."""
        left, together = self.left(keys), self.together
        sqnr_db = decibel(together.signal, left * together.noise)
        if not together.rows:
            return Effect(sqnr_db, None, None)
        nats = _left({key: each.kl for key, each in self.alone.items()}, keys)
        differing = 1 - together.agreement / together.rows
        return Effect(sqnr_db, nats * together.kl / together.rows, 1 - differing * sqrt(left))


def _left(parts: Mapping[str, float], keys: Collection[str]) -> float:
    gone, whole = set(keys), sum(parts.values())
    return sum(part for key, part in parts.items() if key not in gone) / whole if whole > 0 else 1.0
