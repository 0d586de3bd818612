"""Sensitivity analysis: every layer and tensor by itself, all together, and predictions that are checked.

One run of the float model keeps what crosses from one region to the next. A part is then quantized given what it reads
there, and only the regions behind it are run again; all probes share what comes before. "All but one" is not run for
each: noises of different parts add up at the outputs, which a few true measurements check.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np

from app.errors import StepError
from workers.evaluation.metrics.sqnr_db import decibel
from workers.quantization.calibration.statistics import Statistics
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.placement import Weight
from workers.quantization.qdq.plan import Array, Plan
from workers.quantization.recovery.measuring import Feeds
from workers.quantization.sensitivity.additive import Additive
from workers.quantization.sensitivity.metering import Meter
from workers.quantization.sensitivity.network import Network
from workers.quantization.sensitivity.origins import Origin, freed, holders_of, origins_of, read_apart, weight_key
from workers.quantization.sensitivity.outliers import Outliers, channel_reaches, outliers_in, outliers_of
from workers.quantization.sensitivity.outputs import Effect, Score, effect, score, total
from workers.quantization.sensitivity.parts import Layer, layers_kept, layers_of, rounded
from workers.quantization.sensitivity.probing import (
    LayerProbe,
    Powers,
    TensorProbe,
    probe_activation,
    probe_layer,
)
from workers.quantization.sensitivity.result import (
    Check,
    Cost,
    LayerSensitivity,
    NoiseOrigin,
    Sensitivity,
    TensorSensitivity,
)

PROBED = 8
"""Feeds that parts are probed on, unless said otherwise."""

_CHECKED = 3
"""Layers kept in float to check the predictions: the first two one by one, then all together."""

_LEAST_MARGIN_DB = 10.0
"""How much less than the noise of quantization running the float model in parts must differ from running it whole."""


def analyse(
    plan: Plan, feeds: Feeds, work: Path, threads: int = 1, *, seen: Statistics | None = None, probed: int = PROBED
) -> Sensitivity:
    """Rank the layers and tensors of a plan by what quantizing them costs the outputs.

    Parts are probed on `probed` of the feeds, evenly chosen; everything together and the checks are run on all.
    `seen` is what calibration observed, for the statistics of activations; else they are of the probed feeds. `work`
    is a folder for what is only needed on the way. Raises StepError `model_not_repeatable` where the float model does
    not give the same outputs in parts as whole, and as `Network`.
    """
    return _Analysis(plan, feeds, work, threads, probed).result(seen)


class _Analysis:
    def __init__(self, plan: Plan, feeds: Feeds, work: Path, threads: int, probed: int) -> None:
        if not feeds:
            raise StepError("There are no rows to find sensitivities with.", code="dataset_empty")
        self._plan, self._feeds, self._folder = plan, feeds, work
        self._meter = Meter(threads)
        self._layers = layers_of(plan)
        self._network = Network(plan, self._layers, feeds, work, self._meter)
        chosen = np.unique(np.linspace(0, len(feeds) - 1, min(probed, len(feeds))).round().astype(int))
        self._floats: list[dict[str, Array]] = [self._network.run_whole(feeds[index]) for index in chosen]
        known = dict(zip(chosen.tolist(), self._floats, strict=True))
        self._exact: list[list[Array]] = [
            [known[index][name] for name in self._network.outputs] if index in known else self._network.run(feed)
            for index, feed in enumerate(feeds)
        ]
        self._probed: list[int] = chosen.tolist()

    def result(self, seen: Statistics | None) -> Sensitivity:
        together = self._measured(self._plan)
        floor = self._floor(together)
        arguments = (self._network, self._floats, self._folder, self._meter)
        apart = {node for nodes in read_apart(self._plan, self._layers).values() for node in nodes}
        layers = {
            layer.node: probe_layer(self._plan, layer, *arguments, reads=layer.node in apart) for layer in self._layers
        }
        activations = {name: probe_activation(self._plan, name, *arguments) for name in self._plan.placement.observed()}
        origins = origins_of(self._plan, self._layers, layers, activations)
        model = Additive({origin.key: origin.score for origin in origins}, total(together))
        ranked = self._ranked_layers(layers, origins, model)
        checks = self._checks(ranked, origins, model)
        here = total(together[index] for index in self._probed).noise
        noise = sum(origin.score.noise for origin in origins)
        tensors = self._ranked_tensors(layers, activations, origins, model, seen)
        return Sensitivity(
            layers=ranked,
            tensors=tensors,
            origins=tuple(sorted(map(_plain, origins), key=lambda origin: -origin.noise)),
            total=effect(total(together)),
            additivity_db=decibel(noise, here) if noise and here else 0.0,
            checks=checks,
            deviation_db=max((abs(check.deviation_db) for check in checks), default=0.0),
            floor_db=floor,
            feeds=len(self._feeds),
            probed=len(self._probed),
            cost=self._cost(len(layers), len(tensors)),
        )

    # Measurements of whole models

    def _measured(self, plan: Plan) -> list[Score]:
        """What a plan does to the outputs, feed by feed, run as the artifact will be."""
        network = self._network
        model = insert(plan).model
        outputs = network.outputs_of(model)
        session = self._meter.observe(model, outputs, self._folder / "quantized.onnx", network.work.total)
        return [score(exact, session.run(feed, outputs)) for feed, exact in zip(self._feeds, self._exact, strict=True)]

    def _floor(self, together: Sequence[Score]) -> float:
        """SQNR of the float model in parts, on one feed."""
        index, floats = self._probed[0], self._floats[0]
        found = self._network.effect_of(floats, dict(self._feeds[index]))
        margin = decibel(found.signal, found.noise) - decibel(together[index].signal, together[index].noise)
        if found.noise and together[index].noise and margin < _LEAST_MARGIN_DB:
            raise StepError(
                "Run in parts, the float model's outputs differ from those of the whole about as much as the quantized "
                "model's: it computes with random numbers, or its outputs hang on the last bit. No sensitivities can "
                "be found for it.",
                code="model_not_repeatable",
            )
        return decibel(found.signal, found.noise)

    def _checks(
        self, ranked: Sequence[LayerSensitivity], origins: Sequence[Origin], model: Additive
    ) -> tuple[Check, ...]:
        saving = sorted(ranked, key=lambda layer: model.left(layer.frees))[:_CHECKED]
        sets: list[tuple[str, ...]] = [(layer.node,) for layer in saving[: _CHECKED - 1]]
        if len(saving) > 1:
            sets.append(tuple(layer.node for layer in saving))
        checks = []
        for nodes in sets:
            measured = effect(total(self._measured(layers_kept(self._plan, nodes))))
            predicted = model.without(freed(self._plan, origins, nodes))
            checks.append(Check(nodes, predicted.sqnr_db, measured.sqnr_db))
        return tuple(checks)

    def _cost(self, layers: int, tensors: int) -> Cost:
        runs = self._meter.multiply_adds / (self._network.work.total * len(self._feeds))
        return Cost(round(runs, 3), 2 * (layers + tensors), 2 * layers, self._meter.runs)

    # The parts

    def _ranked_layers(
        self, probes: Mapping[str, LayerProbe], origins: Sequence[Origin], model: Additive
    ) -> tuple[LayerSensitivity, ...]:
        found = [self._layer(layer, probes[layer.node], origins, model) for layer in self._layers]
        return tuple(sorted(found, key=lambda layer: layer.alone.sqnr_db))

    def _layer(self, layer: Layer, probe: LayerProbe, origins: Sequence[Origin], model: Additive) -> LayerSensitivity:
        weights = sum(each.noise for each in probe.operands)
        frees = freed(self._plan, origins, [layer.node])
        return LayerSensitivity(
            node=layer.node,
            op_type=layer.op_type,
            weights_db=decibel(probe.both.signal, weights) if layer.weights else None,
            activations_db=_own_db(probe.activations),
            both_db=_own_db(probe.both),
            weight_share=_share(weights, weights + probe.activations.noise),
            kernel_share=_share(probe.kernel.noise, probe.both.noise),
            alone=effect(probe.both_outputs),
            without=model.without(frees),
            frees=tuple(frees),
            multiply_adds=self._network.work.of([layer.node]),
            elements=probe.elements,
        )

    def _ranked_tensors(
        self,
        layers: Mapping[str, LayerProbe],
        activations: Mapping[str, TensorProbe],
        origins: Sequence[Origin],
        model: Additive,
        seen: Statistics | None,
    ) -> tuple[TensorSensitivity, ...]:
        holders = holders_of(self._plan, self._layers)
        found = []
        for layer in self._layers:
            for weight, outputs in zip(layer.weights, layers[layer.node].operand_outputs, strict=True):
                gone = _without(origins, weight.tensor, weight.node, [layer.node])
                found.append(self._operand(weight, outputs, model.without(gone)))
        for name, probe in activations.items():
            gone = _without(origins, name, None, holders[name])
            found.append(self._activation(name, probe, model.without(gone), seen))
        return tuple(sorted(found, key=lambda tensor: tensor.alone.sqnr_db))

    def _operand(self, weight: Weight, outputs: Score, without: Effect) -> TensorSensitivity:
        values, own = self._plan.stored(weight.tensor), Powers()
        own.add(values, rounded(self._plan, weight))
        return TensorSensitivity(
            key=weight_key(weight),
            tensor=weight.tensor,
            node=weight.node,
            sqnr_db=_own_db(own),
            alone=effect(outputs),
            without=without,
            outliers=outliers_in([values], weight.axis),
        )

    def _activation(self, name: str, probe: TensorProbe, without: Effect, seen: Statistics | None) -> TensorSensitivity:
        return TensorSensitivity(
            key=name,
            tensor=name,
            node=None,
            sqnr_db=_own_db(probe.own),
            alone=effect(probe.outputs),
            without=without,
            outliers=self._outliers(name, [floats[name] for floats in self._floats], seen),
        )

    def _outliers(self, name: str, values: Sequence[Array], seen: Statistics | None) -> Outliers:
        axis = self._channel_axis(name)
        if seen is not None and name in seen.tensors:
            return outliers_of(seen.tensors[name], channel_reaches(values, axis))
        return outliers_in(values, axis)

    def _channel_axis(self, name: str) -> int:
        """1 where a convolution reads or makes an activation, else the last."""
        beside = [layer.op_type for layer in self._layers if name in (*layer.reads, layer.output)]
        return 1 if "Conv" in beside else -1


def _own_db(found: Powers) -> float:
    return decibel(found.signal, found.noise)


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else 0.0


def _without(origins: Sequence[Origin], tensor: str, node: str | None, holders: Collection[str]) -> list[str]:
    """Keys of the noise that is gone with a tensor's: its own, and that of kernels which then do not compute it."""
    return [
        origin.key
        for origin in origins
        if (origin.kind == "kernel" and origin.node in holders)
        or (origin.tensor == tensor and (node is None or origin.node == node))
    ]


def _plain(origin: Origin) -> NoiseOrigin:
    noise = _share(origin.score.noise, origin.score.signal)
    return NoiseOrigin(origin.key, origin.kind, origin.tensor, origin.node, noise, origin.held_by)
