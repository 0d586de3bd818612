"""How well an artifact will do on processors with and without VNNI, and what its error is made of."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from workers.evaluation.metrics.sqnr_db import decibel
from workers.quantization.emulation.arithmetic import Array
from workers.quantization.emulation.emulator import Emulator
from workers.quantization.emulation.kernels import Tally
from workers.quantization.emulation.lowering import lower
from workers.quantization.judged import FLOATING_DTYPES
from workers.runtimes.session import load


@dataclass(frozen=True, slots=True)
class OutputPrediction:
    """One output against the float model's; all SQNR in dB, at most 200.

    `exact_sqnr_db` is what rounding leaves, and what a processor with VNNI gives; `saturating_sqnr_db` what one
    without gives; `saturation_sqnr_db` compares the two artifacts' outputs, so that it is saturation alone. The
    agreements are shares of positions with the float model's highest number on the last axis; None where that axis
    has no two numbers.
    """

    name: str
    exact_sqnr_db: float
    saturating_sqnr_db: float
    saturation_sqnr_db: float
    exact_agreement: float | None
    saturating_agreement: float | None


@dataclass(frozen=True, slots=True)
class LayerPrediction:
    """One integer product on a processor without VNNI.

    `saturated` is the share of its pairs that 16 bits were too few for. `sqnr_db` compares its sums with exact ones
    of the same inputs, at most 200.
    """

    name: str
    saturated: float
    sqnr_db: float


@dataclass(frozen=True, slots=True)
class Prediction:
    """What to expect of an artifact: of its floating outputs, and of layers, those with the lowest SQNR first."""

    outputs: tuple[OutputPrediction, ...]
    layers: tuple[LayerPrediction, ...]


def predict(
    path: Path,
    float_path: Path,
    feeds: Iterable[Mapping[str, Array]],
    *,
    session_options: Mapping[str, str] | None = None,
    threads: int = 1,
) -> Prediction:
    """Run an artifact's emulations and its float model over feeds, and compare.

    Both models have the same inputs and outputs, of which the floating ones are compared: labels, text and sequences
    have no noise. `session_options` are those that the artifact requires. Raises StepError as the emulator does.
    """
    original = load(float_path, threads=threads)
    names = [port.name for port in original.outputs if port.dtype in FLOATING_DTYPES]
    # Where nothing can be compared, the layers still tell what saturates.
    wanted = names or [port.name for port in original.outputs]
    lowered = lower(path, session_options)
    exact = Emulator(lowered, "exact", wanted, threads=threads)
    saturating = Emulator(lowered, "saturating", wanted, threads=threads)
    seen = {name: _Comparison() for name in names}
    for feed in feeds:
        other = saturating.run(feed)
        if not names:
            continue
        one = exact.run(feed)
        for name, reference in zip(names, original.run(feed, names), strict=True):
            seen[name].add(reference, one[name], other[name])
    layers = [_layer(name, tally) for name, tally in saturating.tallies.items()]
    return Prediction(
        tuple(found.prediction(name) for name, found in seen.items()),
        tuple(sorted(layers, key=lambda layer: layer.sqnr_db)),
    )


@dataclass(slots=True)
class _Comparison:
    """Energies of an output and of its differences, and how often its highest numbers agree."""

    signal: float = 0.0
    exact_signal: float = 0.0
    noises: Array = field(default_factory=lambda: np.zeros(3))
    same: Array = field(default_factory=lambda: np.zeros(2))
    positions: int = 0

    def add(self, reference: Array, exact: Array, saturating: Array) -> None:
        y, one, other = (values.astype(np.float64) for values in (reference, exact, saturating))
        if y.ndim and y.shape[-1] > 1:
            highest = y.argmax(axis=-1)
            self.same += [(values.argmax(axis=-1) == highest).sum() for values in (one, other)]
            self.positions += highest.size
        # What the float model itself leaves infinite or undefined (a mask, say) is left out.
        y, one, other = (values[np.isfinite(y)] for values in (y, one, other))
        self.signal += float((y**2).sum())
        self.exact_signal += float((one**2).sum())
        self.noises += [((one - y) ** 2).sum(), ((other - y) ** 2).sum(), ((other - one) ** 2).sum()]

    def prediction(self, name: str) -> OutputPrediction:
        shares = [float(count / self.positions) for count in self.same] if self.positions else [None, None]
        return OutputPrediction(
            name,
            decibel(self.signal, self.noises[0]),
            decibel(self.signal, self.noises[1]),
            decibel(self.exact_signal, self.noises[2]),
            *shares,
        )


def _layer(name: str, tally: Tally) -> LayerPrediction:
    share = tally.saturated / tally.pairs if tally.pairs else 0.0
    return LayerPrediction(name, share, decibel(tally.signal, tally.noise))
