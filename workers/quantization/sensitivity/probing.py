"""Measure each part by itself: what it does to its own numbers, and what that does to the outputs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.quantization.qdq.plan import Array, Plan
from workers.quantization.sensitivity.metering import Meter
from workers.quantization.sensitivity.network import Network, Values
from workers.quantization.sensitivity.outputs import Score, power, same, total
from workers.quantization.sensitivity.parts import Layer
from workers.quantization.sensitivity.twins import make_twins, rounding_of

NOTHING = 1e-12
"""Noise over signal below which there is none: float32 itself is no nearer."""


@dataclass(slots=True)
class Powers:
    """Signal and noise, summed over feeds."""

    signal: float = 0.0
    noise: float = 0.0

    def add(self, exact: Array, found: Array) -> bool:
        """Add what one feed has; whether there is any noise in it."""
        signal, noise = power(exact, found)
        self.signal += signal
        self.noise += noise
        return noise > NOTHING * signal


@dataclass(slots=True)
class LayerProbe:
    """A layer's own noise at what it makes, by which of its parts are quantized, and what it does to the outputs."""

    operands: list[Powers]
    activations: Powers = field(default_factory=Powers)
    both: Powers = field(default_factory=Powers)
    outputs: Score = field(default_factory=lambda: Score(0.0, 0.0))
    operand_outputs: list[Score] = field(default_factory=list)
    elements: int = 0


@dataclass(slots=True)
class TensorProbe:
    """An activation's own noise, and what it does to the outputs."""

    own: Powers = field(default_factory=Powers)
    outputs: Score = field(default_factory=lambda: Score(0.0, 0.0))


def probe_layer(
    plan: Plan, layer: Layer, network: Network, floats: Sequence[Values], folder: Path, meter: Meter
) -> LayerProbe:
    """Quantize a layer by parts, given what it reads in the float model on each of the feeds."""
    twins = make_twins(plan, layer, network.base, floats[0])
    session = meter.load(twins.model, folder / "twins.onnx", twins.computed * network.work.of([layer.node]))
    inputs = [value.name for value in twins.model.graph.input]
    found = LayerProbe([Powers() for _ in layer.weights])
    scores: dict[int, list[Score]] = defaultdict(list)
    for values in floats:
        exact = values[layer.output]
        found.elements = found.elements or exact.size
        variants = session.run({name: values[name] for name in inputs}, twins.outputs)
        for number, (powers, variant) in enumerate(
            zip([*found.operands, found.activations, found.both], variants, strict=True)
        ):
            noisy = powers.add(exact, variant)
            if number != len(layer.weights):  # activations are probed one by one
                scores[number].append(_effect(network, values, layer.output, variant, noisy=noisy))
    found.operand_outputs = [total(scores[number]) for number in range(len(layer.weights))]
    found.outputs = total(scores[len(layer.weights) + 1])
    return found


def probe_activation(
    plan: Plan, tensor: str, network: Network, floats: Sequence[Values], folder: Path, meter: Meter
) -> TensorProbe:
    """Quantize an activation for all that read it so."""
    model = rounding_of(plan, tensor, network.base, floats[0])
    session = meter.load(model, folder / "rounding.onnx", 0)
    found, scores = TensorProbe(), []
    for values in floats:
        (rounded,) = session.run({tensor: values[tensor]})
        noisy = found.own.add(values[tensor], rounded)
        scores.append(_effect(network, values, network.entries[tensor], rounded, noisy=noisy))
    found.outputs = total(scores)
    return found


def _effect(network: Network, values: Mapping[str, Array], name: str, changed: Array, *, noisy: bool) -> Score:
    if not noisy:
        return same([values[output] for output in network.outputs])
    return network.effect_of(values, {name: changed})
