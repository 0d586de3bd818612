"""The QDQ model of a plan in torch, and by what names its parts are found there."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from workers.autodiff.graph import Graph
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.plan import Place, Plan


class Simulation:
    """What `insert` makes of a plan, with gradients: the same nodes, so the same numbers as the artifact.

    `weights` and `biases` name the float tensor that a node reads at a place, `scales` the scale of each quantized
    activation, and `read_as` what its readers read.
    """

    def __init__(self, plan: Plan) -> None:
        made = insert(plan)
        self.graph = Graph(made.model).requires_grad_(False)
        nodes = {node.name: node for node in made.model.graph.node}
        makers = {name: node for node in made.model.graph.node for name in node.output}
        self.weights: dict[Place, str] = {
            (weight.node, weight.index): nodes[weight.node].input[weight.index] for weight in plan.placement.weights
        }
        self.biases: dict[Place, str] = {
            (bias.node, bias.index): nodes[bias.node].input[bias.index] for bias in plan.placement.biases
        }
        self.read_as: dict[str, str] = dict(made.values)
        self.scales: dict[str, str] = {name: makers[result].input[1] for name, result in made.values.items()}

    def compared(self, name: str) -> str:
        """The tensor that stands for one of the float graph's: after its quantization, where it is quantized."""
        return self.read_as.get(name, name)


@contextmanager
def torch_threads(number: int) -> Iterator[None]:
    """Let torch use so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
