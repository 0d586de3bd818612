"""SmoothQuant (Xiao et al. 2023): move what is hard about an activation's channels into the weights that read them.

α, by which it is shared out, is searched for each activation, by the error of the products that read it; with it, how
many of its channels are better computed in float (see `workers.quantization.smoothing`).
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace

from onnx import NodeProto

from app.errors import StepError
from workers.quantization.affine import WeightType
from workers.quantization.graph import names_in, sort_nodes
from workers.quantization.qdq.plan import Plan, make_plan, place_for
from workers.quantization.recovery.material import Material
from workers.quantization.smoothing.applying import Applied, apply
from workers.quantization.smoothing.search import search
from workers.quantization.smoothing.seen import observed
from workers.quantization.smoothing.shared import Shared, folding, shared


def smoothquant(plan: Plan, material: Material) -> Plan:
    """Smooth every activation whose products come out nearer for it.

    Raises StepError `step_not_applicable` where there is none.
    """
    changed, setting = plan.copy(), material.setting
    found = list(_smoothable(changed))
    if not found:
        raise StepError("No matrix products read an activation that could be smoothed.", code="step_not_applicable")
    names = [each.tensor for each in found]
    seen_of = observed(changed.model, names, material.feeds, material.work, material.threads)
    weights = WeightType(setting.weight_dtype, setting.weight_bits, setting.per_channel)
    smoothed: list[Applied] = []
    taken = names_in(changed.model)
    for each in found:
        if each.tensor not in seen_of:
            continue
        seen = seen_of[each.tensor].with_one_range(setting.activation_dtype)
        choice = search(each, seen, weights, folded=folding(changed.model.graph, each) is not None)
        if choice is not None:
            smoothed.append(apply(changed.model, each, choice, taken))
    if not smoothed:
        raise StepError("No activation's products come nearer when it is smoothed.", code="step_not_applicable")
    sort_nodes(changed.model.graph)
    in_float = (name for each in smoothed for name in each.in_float)
    setting = replace(setting, kept=setting.kept.union(plan.placement.kept, in_float))
    placement = place_for(changed.model, setting)
    # What had the scale of another tensor may need one of its own now.
    unseen = [name for name in placement.observed() if name not in plan.seen.tensors]
    tensors = dict.fromkeys([*(each.read for each in smoothed), *unseen])
    return make_plan(changed.model, material.observed_anew(plan.seen, changed.model, list(tensors)), setting, placement)


def _smoothable(plan: Plan) -> Iterator[Shared]:
    """Activations whose quantized readers are all matrix products with stored weights."""
    graph = plan.model.graph
    weights = {weight.node: weight.tensor for weight in plan.placement.weights if weight.product}
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for index in plan.placement.readers.get(node.name, []):
            readers[node.input[index]].append(node)
    made = plan.placement.nodes.union(plan.placement.absorbed)
    integers = {name for node in graph.node if node.name in made for name in node.output}
    for name in plan.placement.activations:
        nodes = readers[name]
        if name not in integers and all(node.op_type in ("MatMul", "Gemm") for node in nodes):
            found = shared(name, nodes, [plan.stored(weights[node.name]) for node in nodes])
            if found is not None:
                yield found
