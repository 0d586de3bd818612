"""Measure each part by itself: what it does to its own numbers, and what that does to the outputs."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from workers.quantization.judged import power
from workers.quantization.qdq.plan import Array, Plan
from workers.quantization.sensitivity.metering import Meter
from workers.quantization.sensitivity.network import Network, Values
from workers.quantization.sensitivity.outputs import Score, same, total
from workers.quantization.sensitivity.parts import Layer
from workers.quantization.sensitivity.twins import Twins, make_twins, rounding_of

NOTHING = 1e-12
"""Noise over signal below which there is none: float32 itself is no nearer."""

KERNEL_SHARE = 0.01
"""Of a layer's noise: less than this is the last bit of what is exact otherwise."""


def _no_score() -> Score:
    return Score(0.0, 0.0)


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
    """A layer's own noise at what it makes, by what is quantized of it, and what some of that does to the outputs.

    `both` is with everything quantized, computed as in the artifact; `kernel` is how far that is from exact arithmetic
    with the same integers, as where sums saturate.
    """

    operands: list[Powers]
    activations: Powers = field(default_factory=Powers)
    both: Powers = field(default_factory=Powers)
    kernel: Powers = field(default_factory=Powers)
    both_outputs: Score = field(default_factory=_no_score)
    kernel_outputs: Score = field(default_factory=_no_score)
    reads_outputs: Score | None = None
    operand_outputs: list[Score] = field(default_factory=list)
    elements: int = 0


@dataclass(slots=True)
class TensorProbe:
    """An activation's own noise, and what it does to the outputs."""

    own: Powers = field(default_factory=Powers)
    outputs: Score = field(default_factory=_no_score)


def probe_layer(
    plan: Plan, layer: Layer, network: Network, floats: Sequence[Values], folder: Path, meter: Meter, *, reads: bool
) -> LayerProbe:
    """Quantize a layer by parts, given what it reads in the float model on each of the feeds.

    `reads` asks for what its reading quantized alone does to the outputs.
    """
    twins = make_twins(plan, layer, network.base, floats[0])
    work = network.work.of([layer.node])
    exactly = meter.load(twins.model, folder / "twins.onnx", len(twins.outputs) * work, optimization="none")
    as_run = meter.load(twins.only_both(), folder / "twin.onnx", work)
    inputs = [value.name for value in twins.model.graph.input]
    probing = _LayerProbing(network, layer, twins)
    for values in floats:
        given = {name: values[name] for name in inputs}
        variants = dict(zip(twins.outputs, exactly.run(given, twins.outputs), strict=True))
        (both,) = as_run.run(given, [twins.both])
        probing.add(values, variants, both, reads=reads)
    return probing.probe()


class _LayerProbing:
    """What is known of a layer, feed after feed."""

    def __init__(self, network: Network, layer: Layer, twins: Twins) -> None:
        self._network = network
        self._output = layer.output
        self._twins = twins
        self._found = LayerProbe([Powers() for _ in layer.weights])
        self._scores: dict[str, list[Score]] = defaultdict(list)

    def add(self, values: Values, variants: Mapping[str, Array], both: Array, *, reads: bool) -> None:
        """Add a feed: the variants in exact arithmetic, and the one with everything quantized as it is run."""
        exact, twins, found = values[self._output], self._twins, self._found
        found.elements = found.elements or exact.size
        for name, powers in zip(twins.operands, found.operands, strict=True):
            self._follow(name, values, variants[name], noisy=powers.add(exact, variants[name]))
        found.activations.add(exact, variants[twins.activations])
        self._follow(twins.both, values, both, noisy=found.both.add(exact, both))
        by_kernel = exact + (both - variants[twins.both])
        found.kernel.add(exact, by_kernel)
        self._follow("kernel", values, by_kernel, noisy=found.kernel.noise > KERNEL_SHARE * found.both.noise)
        if reads:
            changed = variants[twins.reads]
            self._follow(twins.reads, values, changed, noisy=Powers().add(exact, changed))

    def probe(self) -> LayerProbe:
        """Everything that was found."""
        found, scores = self._found, {name: total(each) for name, each in self._scores.items()}
        found.operand_outputs = [scores[name] for name in self._twins.operands]
        found.both_outputs, found.kernel_outputs = scores[self._twins.both], scores["kernel"]
        found.reads_outputs = scores.get(self._twins.reads)
        return found

    def _follow(self, name: str, values: Values, changed: Array, *, noisy: bool) -> None:
        self._scores[name].append(_effect(self._network, values, self._output, changed, noisy=noisy))


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
