"""How far a quantized model is from its original on some rows: at the outputs, and layer by layer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from workers.quantization.graph import save
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.plan import Array, Plan
from workers.runtimes.session import Optimization, Session, load

CAP_DB = 200.0
"""What stands for a difference of nothing, as in the metric `sqnr_db`."""

Feeds = Sequence[Mapping[str, Array]]


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Signal to quantization noise in dB, pooled over rows: of all outputs together, and of each quantized tensor."""

    output_db: float
    layers_db: Mapping[str, float]


def observed_session(
    model: ModelProto, names: Sequence[str], path: Path, *, threads: int, optimization: Optimization = "all"
) -> Session:
    """A model whose outputs are these float tensors, loaded from `path`, where it is written."""
    source = ModelProto()
    source.CopyFrom(model)
    known = {value.name: value for value in (*source.graph.output, *source.graph.value_info)}
    outputs = [
        known[name] if name in known else helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names
    ]
    copies = [type(value).FromString(value.SerializeToString()) for value in outputs]
    del source.graph.output[:]
    source.graph.output.extend(copies)
    save(source, path)
    return load(path, threads=threads, optimization=optimization)


class Judge:
    """Compares plans with the model that they come from, on the same rows.

    `layers` are the tensors of the model to compare besides its outputs.
    """

    def __init__(self, model: ModelProto, layers: Sequence[str], rows: Feeds, work: Path, *, threads: int = 1) -> None:
        self._rows = rows
        self._work = work
        self._threads = threads
        self._outputs = [
            value.name for value in model.graph.output if value.type.tensor_type.elem_type == TensorProto.FLOAT
        ]
        self._layers = [name for name in layers if name not in self._outputs]
        session = observed_session(model, [*self._outputs, *self._layers], work / "float.onnx", threads=threads)
        self._float = [session.run(row) for row in rows]

    def fidelity(self, plan: Plan) -> Fidelity:
        """How near the quantized model is, run as the artifact will be."""
        made = insert(plan)
        # A step may have put another tensor in the place of one that was quantized.
        layers = [name for name in self._layers if name in made.values]
        names = [*self._outputs, *(made.values[name] for name in layers)]
        session = observed_session(made.model, names, self._work / "quantized.onnx", threads=self._threads)
        known = [*self._outputs, *self._layers]
        places = [known.index(name) for name in [*self._outputs, *layers]]
        signal, noise = np.zeros(len(names)), np.zeros(len(names))
        for row, wanted in zip(self._rows, self._float, strict=True):
            for index, (got, place) in enumerate(zip(session.run(row), places, strict=True)):
                exact = wanted[place].astype(np.float64)
                signal[index] += np.sum(exact**2)
                noise[index] += np.sum((exact - got) ** 2)
        count = len(self._outputs)
        return Fidelity(
            output_db=decibel(signal[:count].sum(), noise[:count].sum()),
            layers_db={
                name: decibel(power, error)
                for name, power, error in zip(layers, signal[count:], noise[count:], strict=True)
            },
        )


def decibel(signal: float, noise: float) -> float:
    """10·log10 of a ratio of powers, between plus and minus the cap."""
    if noise <= 0:
        return CAP_DB
    if signal <= 0:
        return -CAP_DB
    return float(np.clip(10 * np.log10(signal / noise), -CAP_DB, CAP_DB))


def channel_means(session: Session, feeds: Iterable[Mapping[str, Array]], axes: Sequence[int]) -> list[Array]:
    """Mean of each output over all but the axis of its channels, float64 [channels] each; axes may be negative."""
    sums: list[Array] = [np.zeros(1)] * len(axes)
    runs = [0] * len(axes)
    for given in feeds:
        for index, (values, axis) in enumerate(zip(session.run(given), axes, strict=True)):
            if values.size:
                others = tuple(at for at in range(values.ndim) if at != axis % values.ndim)
                sums[index] = sums[index] + values.mean(axis=others, dtype=np.float64)
                runs[index] += 1
    return [total / max(count, 1) for total, count in zip(sums, runs, strict=True)]
