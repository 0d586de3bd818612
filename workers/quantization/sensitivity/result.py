"""What an analysis finds: plain data, ranked, that can be written as JSON."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from workers.quantization.sensitivity.outliers import Outliers
from workers.quantization.sensitivity.outputs import Effect


@dataclass(frozen=True, slots=True)
class TensorSensitivity:
    """One activation, or one stored operand of one node.

    `key` names it among all, `node` the reader of a stored operand, null for activations. `sqnr_db` is that of its own
    numbers. `alone` is the effect at the outputs when only it is quantized, measured; `without` when all but it is,
    predicted.
    """

    key: str
    tensor: str
    node: str | None
    sqnr_db: float
    alone: Effect
    without: Effect
    outliers: Outliers


@dataclass(frozen=True, slots=True)
class LayerSensitivity:
    """A quantized product or join with its weights and the activations that it reads and makes.

    The first figures are SQNR in dB of what it makes when given float numbers: with only its weights quantized (null
    without any), only its activations, and both, computed as in the artifact. `weight_share` is the weights' part of
    the first two's noise, `kernel_share` the part of the last one's that exact arithmetic does not have, as where sums
    saturate. `alone` is the effect at the outputs when only this layer is quantized, measured; `without` when all but
    it is, as `keep_float` would leave it, predicted: then the noise of the origins `frees` is gone. `multiply_adds` and
    `elements` (of its output) are its work on the first feed that is any.
    """

    node: str
    op_type: str
    weights_db: float | None
    activations_db: float
    both_db: float
    weight_share: float
    kernel_share: float
    alone: Effect
    without: Effect
    frees: tuple[str, ...]
    multiply_adds: int
    elements: int


@dataclass(frozen=True, slots=True)
class NoiseOrigin:
    """One origin of noise at the outputs: a stored operand of `node`, an activation (where `node` is given: as that one
    reads it), or the runtime's kernel for `node`.

    `noise` is its power alone as a share of the outputs' signal; it is gone when all layers in `held_by` are in float.
    """

    key: str
    kind: Literal["weight", "activation", "kernel"]
    tensor: str | None
    node: str | None
    noise: float
    held_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Check:
    """SQNR of the outputs with these nodes kept in float, as predicted and as measured on all feeds, in dB."""

    nodes: tuple[str, ...]
    predicted_db: float
    measured_db: float

    @property
    def deviation_db(self) -> float:
        return self.predicted_db - self.measured_db


@dataclass(frozen=True, slots=True)
class Cost:
    """The work of the analysis in runs of the float model over all feeds: multiply-adds executed over those of one.

    `brute_force` is what measuring each layer and tensor alone, and all but it, would have taken, `brute_force_layers`
    for layers only. `session_runs` counts calls of the runtime.
    """

    model_runs: float
    brute_force: int
    brute_force_layers: int
    session_runs: int


@dataclass(frozen=True, slots=True)
class Sensitivity:
    """Layers, tensors and origins of noise, those that cost the outputs most first.

    `total` is the effect of quantizing everything, on all feeds. `additivity_db` is the sum of the origins' noise over
    the noise of all together: 0 where noises add up as the predictions suppose. `checks` hold predictions against
    measurements, and `deviation_db` is the largest difference among them. `floor_db` is the SQNR of the float model in
    parts against the float model whole.
    """

    layers: tuple[LayerSensitivity, ...]
    tensors: tuple[TensorSensitivity, ...]
    origins: tuple[NoiseOrigin, ...]
    total: Effect
    additivity_db: float
    checks: tuple[Check, ...]
    deviation_db: float
    floor_db: float
    feeds: int
    probed: int
    cost: Cost

    def write(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1) + "\n")
