"""Empirical bias correction: what rounding the weights shifts on average, the bias takes back.

Rounded weights W' make an output channel's mean differ by E[(W' − W)·x] (Nagel et al. 2019, "Data-Free Quantization
Through Weight Equalization and Bias Correction", §4.2 and its appendix on the empirical form). Here x is the quantized
input as the layer will get it, and both products are computed side by side in one run of the quantized graph: so the
correction of one layer does not count the shift of another, and all are found in a single pass.
"""

from onnx import ModelProto, NodeProto, TensorProto, numpy_helper

from app.errors import StepError
from workers.quantization.graph import sort_nodes
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.placement import Bias
from workers.quantization.qdq.plan import Plan
from workers.quantization.recovery.material import Material
from workers.quantization.recovery.measuring import channel_means, observed_session

_TWIN = "_in_float"


def bias_correction(plan: Plan, material: Material) -> Plan:
    """Shift each stored bias by the mean error of its layer's own weights.

    Raises StepError `step_not_applicable` where no quantized layer has a bias.
    """
    biases = plan.placement.biases
    if not biases:
        raise StepError("No quantized layer has a bias that could be corrected.", code="step_not_applicable")
    corrected = plan.copy()
    model = insert(plan).model
    nodes = {node.name: node for node in model.graph.node}
    rounded = [nodes[bias.node].output[0] for bias in biases]
    exact = [_add_twin(model, nodes[bias.node], plan, bias) for bias in biases]
    sort_nodes(model.graph)
    # Without optimizations the graph computes in float what the integers stand for, and every output is there.
    session = observed_session(
        model, [*rounded, *exact], material.work / "twins.onnx", threads=material.threads, optimization="none"
    )
    axes = [1 if nodes[bias.node].op_type == "Conv" else -1 for bias in biases]
    means = channel_means(session, (feed for feed, _ in material.feeds()), axes * 2)
    for index, bias in enumerate(biases):
        shift = means[len(biases) + index] - means[index]
        # Both products have the bias as it is now, an earlier correction included: that one is replaced.
        corrected.store(bias.tensor, plan.stored(bias.tensor) - plan.shifts.get(bias.tensor, 0.0) + shift)
        corrected.shifts[bias.tensor] = shift
    return corrected


def _add_twin(model: ModelProto, node: NodeProto, plan: Plan, bias: Bias) -> str:
    """Let the same node compute with float weights too, on the same quantized input; returns its output's name."""
    twin = model.graph.node.add()
    twin.CopyFrom(node)
    twin.name += _TWIN
    twin.output[0] += _TWIN
    for index, name in ((1, bias.weight), (bias.index, bias.tensor)):
        twin.input[index] = _float_copy(model, plan, name)
    return twin.output[0]


def _float_copy(model: ModelProto, plan: Plan, name: str) -> str:
    copy = name + _TWIN
    if all(tensor.name != copy for tensor in model.graph.initializer):
        tensor: TensorProto = numpy_helper.from_array(plan.stored(name), copy)
        model.graph.initializer.append(tensor)
    return copy
