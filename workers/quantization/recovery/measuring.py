"""How far a quantized model is from its original on some rows: at the outputs, and layer by layer."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from workers.evaluation.metrics.sqnr_db import CAP, decibel
from workers.quantization.graph import save
from workers.quantization.judged import judged_tensors, names_within, power
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.plan import Array, Plan
from workers.runtimes.session import Optimization, Session, load, numpy_dtype

Feeds = Sequence[Mapping[str, Array]]


NEAR_ENOUGH_DB = 40.0
"""Of several outputs, each is followed up to here, where its noise is a hundredth of its size: what it has beyond that
it may lose to others, as where one that was exact is computed in another order."""
LOST_DB = -40.0
"""And down to here, where the noise is a hundred times what it hides: one that is infinite counts as no more."""

LAYER_ROWS = 8
"""Feeds on which layers are compared, at most: their tensors are many."""


@dataclass(frozen=True, slots=True)
class Fidelity:
    """Signal to quantization noise in dB, over all rows: of each output, of all their numbers together, and of each
    quantized tensor."""

    outputs_db: Mapping[str, float]
    pooled_db: float
    layers_db: Mapping[str, float]

    @property
    def output_db(self) -> float:
        """One figure for all outputs, see `level_db`."""
        return level_db(self.outputs_db)


def level_db(outputs_db: Mapping[str, float]) -> float:
    """One figure for all outputs; that of no noise where there are none.

    Of several it is the mean of each as far as it is followed, and of such as are all near enough, the least one's: one
    that is nearly exact, or lost anyhow, does not outweigh the others by what nobody sees.
    """
    if len(outputs_db) < 2:
        return next(iter(outputs_db.values()), CAP)
    least = min(outputs_db.values())
    return max(least, float(np.mean([followed_db(value) for value in outputs_db.values()])))


def followed_db(value: float) -> float:
    """The SQNR of one output of several, as far as it is followed."""
    return min(max(value, LOST_DB), NEAR_ENOUGH_DB)


def decibels(names: Iterable[str], powers: Array) -> dict[str, float]:
    """SQNR of outputs by name, from the powers of signal and noise, float64 [outputs, 2].

    The noise of an output that was zero all along is compared with 1: what rounding leaves there is next to nothing.
    """
    return {name: decibel(signal or 1.0, noise) for name, (signal, noise) in zip(names, powers.tolist(), strict=True)}


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


def outputs_db(
    original: Session, others: Sequence[Session], names: Sequence[str], rows: Iterable[Mapping[str, Array]]
) -> list[dict[str, float]]:
    """SQNR of each session's outputs of these names against the original's, in dB, as `decibels` gives it.

    Rows pass one by one, so that nothing but sums is kept. Inputs are cast to the types that each session takes.
    """
    powers = np.zeros((len(others), len(names), 2))
    dtypes = [{port.name: numpy_dtype(port) for port in session.inputs} for session in others]
    for row in rows:
        exact = original.run(row, names)
        for place, (session, types) in enumerate(zip(others, dtypes, strict=True)):
            given = {name: np.asarray(row[name]).astype(dtype, copy=False) for name, dtype in types.items()}
            powers[place] += [power(*pair) for pair in zip(exact, session.run(given, names), strict=True)]
    return [decibels(names, of) for of in powers]


class Judge:
    """Compares plans with the model that they come from, on the same rows.

    Outputs are its floating ones, or what `judged_tensors` has for them. `layers` are the tensors of the model to
    compare besides. Numbers that the model itself leaves infinite or undefined are left out.
    """

    def __init__(self, model: ModelProto, layers: Sequence[str], rows: Feeds, work: Path, *, threads: int = 1) -> None:
        self._rows = rows
        self._work = work
        self._threads = threads
        self._judged = judged_tensors(model)
        outputs = [each.name for each in self._judged if each.reader is None]
        self._layers = [name for name in layers if name not in outputs]
        self._wanted = self._runs(model, names_within(model, self._judged), rows)
        self._wanted_layers = self._runs(model, self._layers, rows[:LAYER_ROWS])

    def fidelity(self, plan: Plan) -> Fidelity:
        """How near the quantized model is, run as the artifact will be; weights beside 16 bits are read exactly."""
        made = insert(plan)
        signal, noise = self._powers(made.model, names_within(made.model, self._judged), self._wanted)
        # A step may have put another tensor in the place of one that was quantized.
        places = [place for place, name in enumerate(self._layers) if name in made.values]
        layers = self._powers(
            made.model,
            [made.values[self._layers[place]] for place in places],
            [[row[place] for place in places] for row in self._wanted_layers],
        )
        return Fidelity(
            outputs_db=decibels((each.name for each in self._judged), np.stack([signal, noise], axis=1)),
            pooled_db=decibel(signal.sum(), noise.sum()),
            layers_db={self._layers[place]: decibel(*powers) for place, powers in zip(places, layers.T, strict=True)},
        )

    def _session(self, model: ModelProto, names: Sequence[str]) -> Session:
        return observed_session(model, names, self._work / "judged.onnx", threads=self._threads)

    def _runs(self, model: ModelProto, names: Sequence[str], rows: Feeds) -> list[list[Array]]:
        if not names:
            return []
        session = self._session(model, names)
        return [session.run(row) for row in rows]

    def _powers(self, model: ModelProto, names: Sequence[str], wanted: Sequence[Sequence[Array]]) -> Array:
        """Power of the signal and of the noise of each of these tensors, float64 [2, names], on the first rows."""
        powers = np.zeros((len(names), 2))
        if names:
            session = self._session(model, names)
            for feed, expected in zip(self._rows, wanted, strict=False):
                powers += [power(*pair) for pair in zip(expected, session.run(feed), strict=True)]
        return powers.T


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
