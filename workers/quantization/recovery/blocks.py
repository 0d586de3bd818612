"""Parts of a model that are reconstructed one after the other (BRECQ, Li et al. 2021, §3.2).

A part begins at a quantized product where one tensor alone carries on what earlier products computed; so a residual
branch is never cut, and what follows a product (its activation, an addition, a normalization) is in its part.
"""

from dataclasses import dataclass
from itertools import pairwise

from workers.quantization.qdq.placement import Weight
from workers.quantization.qdq.plan import Plan

MOST_PRODUCTS = 3
"""Products in a part, unless a residual branch has more: an inverted residual block has three."""


@dataclass(frozen=True, slots=True)
class Block:
    """Successive nodes of the float graph, from index `first` up to `end`.

    `inputs` are what it reads from before, `outputs` those of its tensors that carry on what products computed,
    `made` all of its tensors that are read later, and `dropped` earlier ones that nobody reads any more. `weights`
    are of the products inside, and `activations` those quantized tensors that are made inside, the graph's inputs
    among those of the first.
    """

    first: int
    end: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    made: tuple[str, ...]
    dropped: tuple[str, ...]
    weights: tuple[Weight, ...]
    activations: tuple[str, ...]


def blocks_of(plan: Plan, most_products: int = MOST_PRODUCTS) -> list[Block]:
    """The parts of a plan's model, in the order of computation; those without a quantized product among them."""
    return _Cutting(plan).blocks(most_products)


class _Cutting:
    def __init__(self, plan: Plan) -> None:
        graph = plan.model.graph
        self._plan = plan
        self._nodes = list(graph.node)
        self._fixed = {tensor.name for tensor in graph.initializer} | {""}
        self._inputs = [value.name for value in graph.input]
        self._outputs = {value.name for value in graph.output}
        self._products = {weight.node for weight in plan.placement.weights if weight.product}
        self._made_at = {name: index for index, node in enumerate(self._nodes) for name in node.output}
        self._last_read = {name: index for index, node in enumerate(self._nodes) for name in node.input}
        self._carrying: set[str] = set()
        for node in self._nodes:
            if node.name in self._products or self._carrying.intersection(node.input):
                self._carrying.update(name for name in node.output if name)

    def blocks(self, most_products: int) -> list[Block]:
        products = [index for index, node in enumerate(self._nodes) if node.name in self._products]
        starts = [index for index in products if self._narrow(index)]
        parts = pairwise([0, *starts[1:], len(self._nodes)])
        merged: list[tuple[int, int]] = []
        for first, end in parts:
            if merged and self._count(merged[-1][0], end) <= most_products:
                merged[-1] = (merged[-1][0], end)
            else:
                merged.append((first, end))
        return [self._block(first, end) for first, end in merged]

    def _narrow(self, index: int) -> bool:
        """Whether one tensor alone carries results across the border before a node."""
        crossing = [name for name in self._carrying if self._made_at[name] < index <= self._last_read.get(name, -1)]
        # What a range replaces does not exist in the quantized graph.
        return len(crossing) <= 1 and not set(crossing).intersection(self._plan.placement.absorbed.values())

    def _count(self, first: int, end: int) -> int:
        return sum(node.name in self._products for node in self._nodes[first:end])

    def _block(self, first: int, end: int) -> Block:
        inside = self._nodes[first:end]
        names = {node.name for node in inside}
        made = [name for node in inside for name in node.output if name]
        later = [name for name in made if self._last_read.get(name, -1) >= end or name in self._outputs]
        read = dict.fromkeys(name for node in inside for name in node.input)
        before = [name for name in read if name not in self._fixed and self._made_at.get(name, -1) < first]
        return Block(
            first=first,
            end=end,
            inputs=tuple(before),
            outputs=tuple(name for name in later if name in self._carrying),
            made=tuple(later),
            dropped=tuple(name for name in before if self._last_read[name] < end),
            weights=tuple(weight for weight in self._plan.placement.weights if weight.product and weight.node in names),
            activations=tuple(
                name
                for name in self._plan.placement.activations
                if name in set(made) or (first == 0 and name in self._inputs)
            ),
        )
