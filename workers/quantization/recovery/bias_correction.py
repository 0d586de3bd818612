"""Empirical bias correction: what rounding the weights shifts on average, the bias takes back.

Rounded weights W' make an output channel's mean differ by E[(W' − W)·x] (Nagel et al. 2019, "Data-Free Quantization
Through Weight Equalization and Bias Correction", §4.2 and its appendix on the empirical form). Here x is the quantized
input as the layer will get it, and both products are computed side by side in one run of the quantized graph: so the
correction of one layer does not count the shift of another, and all are found in a single pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, numpy_helper

from app.errors import StepError
from workers.quantization.graph import reads, sort_nodes
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.plan import Plan
from workers.quantization.recovery.material import Material
from workers.quantization.recovery.measuring import channel_means, observed_session

_TWIN = "_in_float"


@dataclass(frozen=True, slots=True)
class Corrected:
    """A product, its weight, and the stored bias that takes its shift back: its own, or that of an Add behind it."""

    node: str
    weight: str
    bias: str


def bias_correction(plan: Plan, material: Material) -> Plan:
    """Shift each stored bias by the mean error of its layer's own weights.

    Raises StepError `step_not_applicable` where no quantized layer has a bias.
    """
    layers = list(correctable(plan))
    if not layers:
        raise StepError("No quantized layer has a bias that could be corrected.", code="step_not_applicable")
    model = insert(plan).model
    nodes = {node.name: node for node in model.graph.node}
    rounded = [nodes[layer.node].output[0] for layer in layers]
    exact = [_add_twin(model, nodes[layer.node], plan, layer) for layer in layers]
    sort_nodes(model.graph)
    # Without optimizations the graph computes in float what the integers stand for, and every output is there.
    session = observed_session(
        model, [*rounded, *exact], material.work / "twins.onnx", threads=material.threads, optimization="none"
    )
    axes = [1 if nodes[layer.node].op_type == "Conv" else -1 for layer in layers]
    means = channel_means(session, (feed for feed, _ in material.feeds()), axes * 2)
    corrected = plan.copy()
    for index, layer in enumerate(layers):
        shift = means[len(layers) + index] - means[index]
        # Both products have the bias as it is now, an earlier correction included: that one is replaced.
        corrected.store(layer.bias, plan.stored(layer.bias) - plan.shifts.get(layer.bias, 0.0) + shift)
        corrected.shifts[layer.bias] = shift
    return corrected


def uncorrected(plan: Plan) -> Plan:
    """The plan with its biases as they were before any correction."""
    changed = plan.copy()
    for name, shift in plan.shifts.items():
        changed.store(name, plan.stored(name) - shift)
    changed.shifts.clear()
    return changed


def correctable(plan: Plan) -> Iterator[Corrected]:
    """Products with a bias that nothing else reads: their own, or that of an Add behind a matrix product."""
    for bias in plan.placement.biases:
        yield Corrected(bias.node, bias.weight, bias.tensor)
    graph = plan.model.graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    readers = reads(graph)
    products = {weight.node: weight.tensor for weight in plan.placement.weights if weight.product}
    made = {node.output[0]: node for node in graph.node if node.op_type == "MatMul" and node.name in products}
    for node in graph.node:
        if node.op_type != "Add":
            continue
        for name, bias in (tuple(node.input), tuple(reversed(node.input))):
            if name in made and readers[name] == 1 and bias in stored and readers[bias] == 1:
                weight = products[made[name].name]
                if list(stored[bias].dims) == list(stored[weight].dims)[-1:]:
                    yield Corrected(made[name].name, weight, bias)


def _add_twin(model: ModelProto, node: NodeProto, plan: Plan, layer: Corrected) -> str:
    """Let the same node compute with float weights too, all else as it is; returns its output's name."""
    twin = model.graph.node.add()
    twin.CopyFrom(node)
    twin.name += _TWIN
    twin.output[0] += _TWIN
    twin.input[1] = _float_copy(model, plan, layer.weight)
    name: str = twin.output[0]
    return name


def _float_copy(model: ModelProto, plan: Plan, name: str) -> str:
    copy = name + _TWIN
    if all(tensor.name != copy for tensor in model.graph.initializer):
        model.graph.initializer.append(numpy_helper.from_array(plan.stored(name), copy))
    return copy
