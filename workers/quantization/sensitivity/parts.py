"""The parts of a plan that are looked at one by one, and the plans in which only one of them is (or is not) quantized.

A layer is a quantized product or join with its weights, bias and the activations that it reads and makes; what only
moves integers belongs to no layer, since it adds no noise. A tensor is an activation with a range of its own, together
with what only moves it, or a stored operand, together with its node's bias.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, numpy_helper

from workers.quantization.qdq.placement import BOUNDS, JOINS, MOVES, PRODUCTS, Placement, Weight, place
from workers.quantization.qdq.plan import Array, Plan
from workers.quantization.recovery.bias_correction import correctable


@dataclass(frozen=True, slots=True)
class Layer:
    """A quantized product or join: the activations that it reads quantized, each once, and its stored operands.

    `output` is what it makes: after the bound that the end of its range replaces, where there is one.
    """

    node: str
    op_type: str
    reads: tuple[str, ...]
    output: str
    weights: tuple[Weight, ...]


@dataclass(frozen=True, slots=True)
class Shift:
    """What a stored bias was corrected by, float [channels], for the error of one product's weights."""

    bias: str
    values: Array


def layers_of(plan: Plan) -> list[Layer]:
    """The layers in the order of computation."""
    placement = plan.placement
    bounds = _bounds(plan)
    found = []
    for node in plan.model.graph.node:
        if node.name not in placement.nodes or node.op_type in MOVES:
            continue
        reads = dict.fromkeys(node.input[index] for index in placement.readers.get(node.name, ()))
        bound = bounds.get(node.output[0])
        found.append(
            Layer(
                node=node.name,
                op_type=node.op_type,
                reads=tuple(reads),
                output=node.output[0] if bound is None else bound.output[0],
                weights=tuple(weight for weight in placement.weights if weight.node == node.name),
            )
        )
    return found


def moved_with(plan: Plan, tensor: str) -> tuple[str, ...]:
    """An activation and those that have its scale because they are it, moved."""
    return (tensor, *(name for name, source in plan.placement.shares.items() if source == tensor))


def made_in_integers(plan: Plan) -> set[str]:
    """The tensors that quantized nodes make: whoever reads one, reads it quantized."""
    bounds = _bounds(plan)
    nodes = [node for node in plan.model.graph.node if node.name in plan.placement.nodes]
    made = {name for node in nodes for name in node.output}
    return made | {bounds[name].output[0] for name in made if name in bounds}


def shifts_of(plan: Plan) -> dict[str, Shift]:
    """By product, how its bias was corrected."""
    return {
        layer.node: Shift(layer.bias, plan.shifts[layer.bias])
        for layer in correctable(plan)
        if layer.bias in plan.shifts
    }


def float_model(plan: Plan, quantized: Collection[str] = ()) -> ModelProto:
    """The plan's float model, the biases corrected for the weights of these products alone."""
    changed = plan.copy()
    for node, shift in shifts_of(plan).items():
        if node not in quantized:
            changed.store(shift.bias, plan.stored(shift.bias) - shift.values)
    return changed.model


# Plans for one part


def layer_alone(plan: Plan, layer: Layer) -> Plan:
    """Only this layer is quantized."""
    activations = {*layer.reads, layer.output} & set(plan.placement.activations)
    return _restricted(plan, {layer.node}, activations, layer.weights)


def weight_alone(plan: Plan, weight: Weight) -> Plan:
    """Only one stored operand is rounded.

    It is stored as the float numbers that its integers stand for: a product of floats with dequantized weights would be
    computed by onnxruntime (1.32) with activations that it quantizes on the way, as MatMulNBits does.
    """
    changed = Plan(float_model(plan, {weight.node}), Placement(), {}, {})
    name = f"{weight.tensor}_rounded_for_{weight.node}"
    changed.model.graph.initializer.append(numpy_helper.from_array(rounded(plan, weight), name))
    node = next(node for node in changed.model.graph.node if node.name == weight.node)
    node.input[weight.index] = name
    return changed


def rounded(plan: Plan, weight: Weight) -> Array:
    """What the integers of a stored operand stand for, float32."""
    place = (weight.node, weight.index)
    integers = plan.integers.get(place)
    if integers is not None:
        return plan.weights[place].dequantize(integers)
    return plan.weights[place].rounded(plan.stored(weight.tensor))


def activation_alone(plan: Plan, tensor: str) -> Plan:
    """Only one activation is quantized, for all that read it so."""
    moved = moved_with(plan, tensor)
    makers = {node.name for node in plan.model.graph.node if _makes(plan, node) in moved}
    readers = {
        node.name
        for node in plan.model.graph.node
        if any(node.input[index] in moved for index in plan.placement.readers.get(node.name, ()))
    }
    return _restricted(plan, makers & plan.placement.nodes, moved, (), readers=readers)


def layers_kept(plan: Plan, nodes: Collection[str]) -> Plan:
    """All is quantized but these layers, as if `keep_float` named their nodes: what stands around them may follow."""
    return _for_placement(plan, placement_without(plan, nodes))


def placement_without(plan: Plan, nodes: Collection[str]) -> Placement:
    """What is left to quantize where these nodes stay in float."""
    allowed = (plan.placement.nodes | set(plan.placement.absorbed)) - set(nodes)
    kept = {node.name for node in plan.model.graph.node} - allowed
    return place(plan.model, PRODUCTS | JOINS | MOVES | BOUNDS, kept)


def weight_kept(plan: Plan, weight: Weight) -> Plan:
    """All is quantized but one stored operand, and its node's bias."""
    rest = [other for other in plan.placement.weights if other != weight]
    return _restricted(plan, plan.placement.nodes, plan.placement.activations, rest)


def activation_kept(plan: Plan, tensor: str) -> Plan:
    """All is quantized but one activation."""
    rest = [name for name in plan.placement.activations if name not in moved_with(plan, tensor)]
    return _restricted(plan, plan.placement.nodes, rest, plan.placement.weights)


def _restricted(
    plan: Plan,
    nodes: Collection[str],
    activations: Collection[str],
    weights: Collection[Weight],
    *,
    readers: Collection[str] | None = None,
) -> Plan:
    """The plan for some of what it quantizes; `readers` are the nodes that read quantized, those of `nodes` if None."""
    whole = plan.placement
    reading = nodes if readers is None else readers
    makers = {name: node.name for node in plan.model.graph.node for name in node.output}
    with_weights = {weight.node for weight in weights}
    replaced = {
        source for source, bound in _bounds(plan).items() if bound.output[0] in activations and makers[source] in nodes
    }
    return _for_placement(
        plan,
        Placement(
            nodes=set(nodes),
            activations=[name for name in whole.activations if name in activations],
            shares={name: source for name, source in whole.shares.items() if name in activations},
            weights=[weight for weight in whole.weights if weight in weights],
            biases=[bias for bias in whole.biases if bias.node in with_weights],
            # Where its output is not quantized, a bound is what bounds.
            absorbed={name: source for name, source in whole.absorbed.items() if source in replaced},
            readers={name: places for name, places in whole.readers.items() if name in reading},
            kept=whole.kept,
        ),
    )


def _for_placement(plan: Plan, placement: Placement) -> Plan:
    model = float_model(plan, {weight.node for weight in placement.weights})
    return Plan(model, placement, plan.activations, plan.weights, plan.integers)


def _bounds(plan: Plan) -> Mapping[str, NodeProto]:
    """The nodes that ranges replace, by what they bound."""
    nodes = {node.name: node for node in plan.model.graph.node if node.name in plan.placement.absorbed}
    return {source: nodes[name] for name, source in plan.placement.absorbed.items()}


def _makes(plan: Plan, node: NodeProto) -> str:
    bound = _bounds(plan).get(node.output[0])
    name: str = node.output[0] if bound is None else bound.output[0]
    return name
