"""Fitting a quantized model to its float one, block after block (Li et al. 2021, "BRECQ", §3).

A block is fitted to the float model's outputs, while it reads what the blocks before it, quantized already, put out;
so each makes up for errors before it too (the asymmetric form of Nagel et al. 2020, "Up or Down?", eq. 25).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from app.errors import StepError
from workers.autodiff.graph import Graph
from workers.autodiff.parity import check_parity
from workers.quantization.graph import save
from workers.quantization.qdq.plan import Plan
from workers.quantization.recovery.bias_correction import uncorrected
from workers.quantization.recovery.blocks import Block
from workers.quantization.recovery.material import Material
from workers.quantization.recovery.simulation import Simulation
from workers.runtimes.session import load

Values = dict[str, Tensor]

MOST_FEEDS = 256
"""Feeds that are kept between two blocks, at most; fewer where their tensors are large."""
MOST_BYTES = 384 << 20
"""Of tensors kept between two blocks, at most; those of the float and the quantized model each."""
SIDE = 16
"""Pixels of the windows that blocks of local operators are fitted on: where images are large, neighbouring pixels
say much the same, and a window costs a fraction. Both models see the window's border alike."""
WINDOWS = 4
"""Windows of each feed."""
CHECKED = 2
"""Feeds on which the graph in torch is compared with the runtime."""

_LOCAL = frozenset(
    {
        "Add", "AveragePool", "BatchNormalization", "Clip", "Conv", "Elu", "Erf", "Gelu", "HardSigmoid", "HardSwish",
        "Identity", "LeakyRelu", "MaxPool", "Mish", "Mul", "Relu", "Sigmoid", "Softplus", "Sub", "Tanh",
    }
)  # fmt: skip
"""Operators of which a part of the input gives a part of the output."""


@dataclass(frozen=True, slots=True)
class Samples:
    """Inputs of a block in the quantized model, and its outputs in the float one; rows along the first axis.

    `targets` are the floating outputs that hold numbers: indices and empty tensors have no distance. `shared` are
    inputs that are the same for all rows, such as shapes.
    """

    rows: int
    inputs: Values
    shared: Values
    targets: Values

    def take(self, places: Tensor) -> tuple[Values, list[Tensor]]:
        """Some of the rows: what to give the graph, and what should come out."""
        # By index, which keeps channels together; index_select does not.
        given = {name: values[places] for name, values in self.inputs.items()}
        return given | self.shared, [values[places] for values in self.targets.values()]


class Passage:
    """Both models' tensors at the border before a block, feed by feed; blocks are passed in their order."""

    def __init__(self, plan: Plan, material: Material, blocks: Sequence[Block]) -> None:
        self._plan = plan
        self._exact_graph = checked_graph(plan, material)
        feeds = (
            {name: torch.from_numpy(array.copy()) for name, array in given.items()} for given, _ in material.feeds()
        )
        first = next(feeds, None)
        if first is None:
            raise StepError("The calibration dataset has no rows.", code="calibration_empty")
        most = _most_feeds(self._exact_graph, blocks, first)
        self._exact: list[Values] = [first, *islice(feeds, most - 1)]
        self._rough: list[Values] = [dict(given) for given in self._exact]

    def samples(self, block: Block, seed: int) -> list[Samples]:
        """What a block is fitted to: groups of rows of the same shapes, windows of large images.

        Empty where no output holds floating numbers.
        """
        generator = torch.Generator().manual_seed(seed)
        found: dict[Any, list[tuple[Values, Values, Values]]] = {}
        side = SIDE if self._is_local(block) else None
        with torch.no_grad():
            for exact, rough in zip(self._exact, self._rough, strict=True):
                inputs = {name: (exact[name], rough[name]) for name in block.inputs}
                for window in _windows(inputs, side, generator):
                    cut = {name: (window(one), window(other)) for name, (one, other) in inputs.items()}
                    truth = {name: one for name, (one, _) in cut.items()}
                    made = zip(block.outputs, self._exact_graph.run(truth, block.outputs), strict=True)
                    targets = {name: one for name, one in made if one.is_floating_point() and one.numel()}
                    if not targets:
                        continue
                    seen = {name: other for name, (_, other) in cut.items()}
                    shapes = tuple((name, tuple(one.shape)) for name, one in (*seen.items(), *targets.items()))
                    found.setdefault(shapes, []).append((truth, seen, targets))
            return [samples for entries in found.values() for samples in self._stacked(entries)]

    def advance(self, block: Block, simulation: Simulation, values: Mapping[str, Tensor]) -> None:
        """Go past a block, the quantized model with `values` in place of its own tensors."""
        with torch.no_grad():
            for exact, rough in zip(self._exact, self._rough, strict=True):
                for state, graph, more in ((exact, self._exact_graph, {}), (rough, simulation.graph, dict(values))):
                    given = {name: state[name] for name in block.inputs}
                    state.update(zip(block.made, graph.run(given | more, block.made), strict=True))
                    for name in block.dropped:
                        del state[name]

    def _stacked(self, entries: list[tuple[Values, Values, Values]]) -> list[Samples]:
        """One group of rows, or one a feed where the block does not compute rows independently."""
        truths, seen, targets = ([entry[place] for entry in entries] for place in range(3))
        if len(entries) > 1 and self._rows_are_independent(truths[:2], targets[:2]):
            inputs, shared = _stack(seen)
            wanted, _ = _stack(targets, share=False)
            return [Samples(next(iter(wanted.values())).shape[0], inputs, shared, wanted)]
        return [
            Samples(1, {}, given, {name: values.unsqueeze(0) for name, values in wanted.items()})
            for given, wanted in zip(seen, targets, strict=True)
        ]

    def _rows_are_independent(self, truths: list[Values], targets: list[Values]) -> bool:
        """Whether two feeds together give what they give one by one; a batch may be written into a Reshape."""
        given, shared = _stack(truths)
        expected, _ = _stack(targets, share=False)
        try:
            found = self._exact_graph.run(given | shared, list(expected))
        except StepError:
            return False
        return all(
            one.shape == other.shape and torch.allclose(one, other, rtol=1e-3, atol=1e-4)
            for one, other in zip(found, expected.values(), strict=True)
        )

    def _is_local(self, block: Block) -> bool:
        stored = {tensor.name: tensor for tensor in self._plan.model.graph.initializer}
        for node in self._plan.model.graph.node[block.first : block.end]:
            if node.op_type not in _LOCAL:
                return False
            others = [stored[name] for name in node.input if name in stored]
            if node.op_type in ("Add", "Mul", "Sub") and any(len(t.dims) > 1 and t.dims[-1] > 1 for t in others):
                return False  # a number for each pixel
        return True


def fit(
    simulation: Simulation,
    samples: Sequence[Samples],
    settings: "Fitting",
    values: Callable[[], Values],
    penalty: Callable[[float], Tensor] | None,
    optimizer: torch.optim.Optimizer,
    seed: int,
    unit: float,
) -> None:
    """Move what the optimizer holds so that a block's outputs come nearer to the float ones.

    `values` gives the tensors that take the place of the graph's own, `penalty` a further loss at each part, 0 to 1,
    of the way. `unit` is the error that counts as a loss of 1, so that penalties weigh the same in every block.
    """
    powers = _powers(samples)
    generator = torch.Generator().manual_seed(seed)
    chances = torch.tensor([float(group.rows) for group in samples])
    rates = [entry["lr"] for entry in optimizer.param_groups]
    for iteration in range(settings.iterations):
        way = iteration / settings.iterations
        for entry, rate in zip(optimizer.param_groups, rates, strict=True):
            entry["lr"] = rate * (1 - way) if settings.slowing else rate
        group = samples[int(torch.multinomial(chances, 1, generator=generator))]
        places = torch.randint(group.rows, (min(settings.batch, group.rows),), generator=generator)
        given, targets = group.take(places)
        found = simulation.graph.run(given | values(), [simulation.compared(name) for name in group.targets])
        loss = _squared(found, targets, [powers[name] for name in group.targets]) / unit
        if penalty is not None:
            loss = loss + penalty(way)
        if not loss.requires_grad:  # only indices, say, come of what could be moved
            continue
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]  # torch's own
        optimizer.step()


@dataclass(frozen=True, slots=True)
class Fitting:
    """Steps of gradient descent a block, and rows in each; `slowing` ones come to rest by the end."""

    iterations: int
    batch: int
    slowing: bool = False


def error(simulation: Simulation, samples: Sequence[Samples], values: Values) -> float:
    """The squared error of a block's outputs over all samples, as a share of the outputs' power, summed over them.

    None without samples.
    """
    powers = _powers(samples)
    total, rows = 0.0, 0
    with torch.no_grad():
        for group in samples:
            for places in torch.split(torch.arange(group.rows), 32):
                given, targets = group.take(places)
                found = simulation.graph.run(given | values, [simulation.compared(name) for name in group.targets])
                total += float(_squared(found, targets, [powers[name] for name in group.targets])) * len(places)
            rows += group.rows
    return total / max(rows, 1)


def checked_graph(plan: Plan, material: Material) -> Graph:
    """The plan's float model in torch, compared with the runtime first. Raises StepError `graph_parity`."""
    # What corrects the quantized model is no part of the float one.
    reference = uncorrected(plan)
    graph = Graph(reference.model).requires_grad_(False)
    path = material.work / "reference.onnx"
    external = save(reference.model, path)
    session = load(path, threads=material.threads)
    check_parity(graph, session, [given for given, _ in islice(material.feeds(), CHECKED)])
    path.unlink()
    if external:
        path.with_name(path.name + ".data").unlink()
    return graph


def _squared(found: Sequence[Tensor], targets: Sequence[Tensor], powers: Sequence[float]) -> Tensor:
    """Mean squared errors as shares of the outputs' mean squares, summed over the outputs."""
    parts = [
        (one.reshape(other.shape) - other).square().mean() / power
        for one, other, power in zip(found, targets, powers, strict=True)
    ]
    return torch.stack(parts).sum()


def _powers(samples: Sequence[Samples]) -> dict[str, float]:
    """The mean square of each target over all rows."""
    squares: dict[str, float] = defaultdict(float)
    counts: dict[str, int] = defaultdict(int)
    for group in samples:
        for name, values in group.targets.items():
            squares[name] += float(values.square().sum())
            counts[name] += values.numel()
    return {name: max(square / counts[name], 1e-12) for name, square in squares.items()}


def _stack(entries: Sequence[Values], *, share: bool = True) -> tuple[Values, Values]:
    """Tensors of several feeds along the first axis, and those that are no rows but the same in all of them."""
    stacked, shared = {}, {}
    for name, first in entries[0].items():
        parts = [entry[name] for entry in entries]
        if share and (not first.is_floating_point() or first.dim() < 2) and all(torch.equal(first, p) for p in parts):
            shared[name] = first
        elif first.dim() == 4:
            # Convolutions of torch are twice as fast on rows that keep their channels together (measured).
            stacked[name] = torch.cat(parts).contiguous(memory_format=torch.channels_last)
        else:
            stacked[name] = torch.cat(parts) if first.dim() else torch.stack(parts)
    return stacked, shared


def _windows(
    inputs: Mapping[str, tuple[Tensor, Tensor]], side: int | None, generator: torch.Generator
) -> Iterable[Callable[[Tensor], Tensor]]:
    """Ways to cut a block's inputs: a few squares of large images, or the whole."""
    sizes = {tuple(one.shape[2:]) if one.dim() == 4 else () for one, _ in inputs.values()}
    height, width = sizes.pop() if len(sizes) == 1 and () not in sizes else (0, 0)
    if side is None or min(height, width) <= side:
        return [lambda values: values]
    return [_window(height, width, side, generator) for _ in range(WINDOWS)]


def _window(height: int, width: int, side: int, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    top = int(torch.randint(height - side + 1, (1,), generator=generator))
    left = int(torch.randint(width - side + 1, (1,), generator=generator))
    return lambda values: values[:, :, top : top + side, left : left + side]


def _most_feeds(graph: Graph, blocks: Sequence[Block], first: Values) -> int:
    """As many feeds as fit into memory at the border where the most has to be kept."""
    state = dict(first)
    most = _bytes(state)
    with torch.no_grad():
        for block in blocks:
            given = {name: state[name] for name in block.inputs}
            state.update(zip(block.made, graph.run(given, block.made), strict=True))
            most = max(most, _bytes(state))
            for name in block.dropped:
                del state[name]
    return max(1, min(MOST_FEEDS, MOST_BYTES // max(most, 1)))


def _bytes(state: Values) -> int:
    return sum(values.numel() * values.element_size() for values in state.values())
