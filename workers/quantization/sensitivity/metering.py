"""How much work an analysis is, counted as it is done: multiply-adds of everything that is run."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, helper

from app.errors import StepError
from workers.quantization.graph import save
from workers.quantization.qdq.plan import Array
from workers.runtimes.session import Optimization, Session, load

_COUNTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(slots=True)
class Meter:
    """Runs so far, and their multiply-adds."""

    threads: int
    runs: int = 0
    multiply_adds: int = 0

    def load(
        self, model: ModelProto, path: Path, multiply_adds: int, *, optimization: Optimization = "all"
    ) -> "Metered":
        """Open a model, written to `path`, each run of which is so much work."""
        save(model, path)
        return Metered(load(path, threads=self.threads, optimization=optimization), self, multiply_adds)

    def observe(self, model: ModelProto, names: Sequence[str], path: Path, multiply_adds: int) -> "Metered":
        """Open a model with these tensors as its outputs, of whatever types they are."""
        observed = ModelProto()
        observed.CopyFrom(model)
        del observed.graph.output[:]
        observed.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
        return self.load(observed, path, multiply_adds)


@dataclass(frozen=True, slots=True)
class Metered:
    """A session whose runs are counted."""

    session: Session
    meter: Meter
    multiply_adds: int

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Array]:
        """As `Session.run`."""
        self.meter.runs += 1
        self.meter.multiply_adds += self.multiply_adds
        return self.session.run(feeds, wanted)


@dataclass(frozen=True, slots=True)
class Work:
    """Multiply-adds of one run of a model by node; of convolutions and matrix products in its main graph, others 0.

    They are those of the feed that they were found with: other shapes have other numbers, but similar shares.
    """

    by_node: Mapping[str, int] = field(repr=False)

    def of(self, names: Iterable[str]) -> int:
        """Multiply-adds of some nodes together."""
        return sum(self.by_node.get(name, 0) for name in names)

    @property
    def total(self) -> int:
        return sum(self.by_node.values())


def measured_work(model: ModelProto, feeds: Iterable[Mapping[str, Array]], path: Path, *, meter: Meter) -> Work:
    """Run a model to see the shapes that its products have: on the first feed, or the first that is any work.

    How many rows come to a product may hang on the numbers, and none may. Raises StepError `nothing_to_measure` where
    none comes to any, whatever the feed.
    """
    nodes = [node for node in model.graph.node if node.op_type in _COUNTED and not node.domain]
    stored = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    names = list(dict.fromkeys(name for node in nodes for name in (node.output[0], *node.input[:2])))
    given = {value.name for value in model.graph.input}
    names = [name for name in names if name not in stored and name not in given]
    session = meter.observe(model, names, path, 0)
    for feed in feeds:
        shapes = stored | {name: value.shape for name, value in feed.items()}
        shapes |= {name: value.shape for name, value in zip(names, session.run(feed, names), strict=True)}
        work = Work({node.name: _multiply_adds(node, shapes) for node in nodes})
        if work.total:
            meter.multiply_adds += work.total
            return work
    raise StepError(
        "No product has anything to multiply on any of the rows, so there are no sensitivities to find; give others.",
        code="nothing_to_measure",
    )


def _multiply_adds(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> int:
    first, second, made = shapes[node.input[0]], shapes[node.input[1]], shapes[node.output[0]]
    if node.op_type == "Conv":
        return int(np.prod(made)) * int(np.prod(second[1:]))
    if node.op_type == "ConvTranspose":
        return int(np.prod(first)) * int(np.prod(second[1:]))
    if node.op_type == "Gemm" and any(entry.name == "transA" and entry.i for entry in node.attribute):
        return int(np.prod(made)) * first[0]
    return int(np.prod(made)) * first[-1]
