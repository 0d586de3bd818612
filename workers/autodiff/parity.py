"""Whether a graph in torch computes what the runtime computes, which is checked before it is trusted."""

from collections.abc import Iterable, Mapping

import numpy as np
import torch
from torch import Tensor

from app.errors import StepError
from workers.autodiff.graph import Graph
from workers.runtimes.session import Array, Session

BOUND = 1e-4
"""Largest relative error that is no error: two float32 libraries sum in other orders, and depth adds to it. Measured
on three real models: 1e-7 to 2e-6."""


def check_parity(
    graph: Graph, session: Session, feeds: Iterable[Mapping[str, Array]], *, bound: float = BOUND
) -> dict[str, float]:
    """The relative error of each output, ‖torch − runtime‖ / ‖runtime‖, the worst over all feeds.

    Raises StepError `graph_parity`, which names the worst output, where one is above the bound, and as `run_arrays`.
    """
    worst = dict.fromkeys(graph.outputs, 0.0)
    for given in feeds:
        expected = session.run(given, graph.outputs)
        found = run_arrays(graph, given)
        for name, reference in zip(graph.outputs, expected, strict=True):
            worst[name] = max(worst[name], relative_error(found[name], reference))
    name = max(worst, key=lambda output: worst[output])
    if not worst[name] <= bound:
        raise StepError(
            f"The model computes other numbers in torch than in the runtime: output {name!r} differs by "
            f"{worst[name]:.2e} of its size, where {bound:.0e} is allowed; leave out the steps that need gradients.",
            code="graph_parity",
        )
    return worst


def run_arrays(graph: Graph, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """All outputs as NumPy arrays, without gradients.

    Raises StepError `operator_not_differentiable` where torch has no type for an input, and as `Graph.run`.
    """
    with torch.no_grad():
        found = graph({name: _given(name, values) for name, values in feeds.items()})
    return {name: values.numpy() for name, values in found.items()}


def _given(name: str, values: Array) -> Tensor:
    try:
        return torch.from_numpy(np.array(values))
    except TypeError as error:  # text, say
        raise StepError(
            f"Input {name!r} is of type {values.dtype}, which torch does not compute with; leave out the steps that "
            "need gradients.",
            code="operator_not_differentiable",
        ) from error


def relative_error(found: Array, reference: Array) -> float:
    """‖found − reference‖ / ‖reference‖ in float64; infinite where shapes differ or what is no number differs."""
    if found.shape != reference.shape:
        return float("inf")
    one, other = found.astype(np.float64), reference.astype(np.float64)
    # Infinities and what is no number must stand at the same places; the rest is compared.
    finite = np.isfinite(other)
    if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
        return float("inf")
    difference = float(np.linalg.norm((one[finite] - other[finite]).reshape(-1)))
    if difference == 0.0:
        return 0.0
    size = float(np.linalg.norm(other[finite].reshape(-1)))
    return difference / size if size > 0 and np.isfinite(difference) else float("inf")
