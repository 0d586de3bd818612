"""SmoothQuant: move what is hard about an activation's channels into the weights that read them.

Dividing channel j of an activation by s_j and multiplying row j of the weights by it changes nothing in float; with
s_j = max|X_j|^α / max|W_j|^(1−α) both are easier to quantize (Xiao et al. 2023, "SmoothQuant", eq. 4). Here α is
searched for each activation, by the squared error of the products that read it. The division is folded into a
LayerNormalization where only these products read what it makes, else it is one multiplication before the quantization.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from onnx import NodeProto, TensorProto, helper, numpy_helper

from app.errors import StepError
from workers.quantization.affine import for_range, reach_of, symmetric
from workers.quantization.graph import attribute, defined, fresh, sort_nodes
from workers.quantization.qdq.plan import Array, Plan, Setting, make_plan
from workers.quantization.recovery.material import Material
from workers.quantization.recovery.measuring import observed_session

ALPHAS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_LEAST_GAIN = 0.9
"""A share of the error that has to be left at most, or the tensor stays as it is."""
_ROWS = 512
_ROWS_A_FEED = 16


@dataclass(frozen=True, slots=True)
class _Shared:
    """An activation, and the products that read it quantized: their nodes, and weights as [inputs, outputs]."""

    tensor: str
    readers: tuple[NodeProto, ...]
    weights: tuple[Array, ...]


def smoothquant(plan: Plan, material: Material) -> Plan:
    """Smooth every activation whose products come out nearer for it.

    Raises StepError `step_not_applicable` where there is none.
    """
    changed = plan.copy()
    shared = _shared(changed)
    if not shared:
        raise StepError("No matrix products read an activation that could be smoothed.", code="step_not_applicable")
    samples = _samples(changed, [each.tensor for each in shared], material)
    smoothed: list[str] = []
    for each, (rows, peaks) in zip(shared, samples, strict=True):
        scale = best_scale(rows, peaks, each.weights, material.setting) if len(rows) else None
        if scale is not None:
            smoothed.append(_apply(changed, each, scale.astype(np.float32)))
    if not smoothed:
        raise StepError("No activation's products come nearer when it is smoothed.", code="step_not_applicable")
    sort_nodes(changed.model.graph)
    statistics = material.observed_anew(changed.model, smoothed)
    return make_plan(changed.model, statistics, material.setting)


def best_scale(rows: Array, peaks: Array, weights: Sequence[Array], setting: Setting) -> Array | None:
    """The divisor of each channel that leaves the products' squared error least; None where none is worth it.

    `rows` are samples of the activation [n, inputs], `peaks` the largest magnitudes of its channels over all rows,
    `weights` are [inputs, outputs] each.
    """
    exact = [rows @ weight for weight in weights]
    needed = np.max([np.abs(weight).max(axis=1) for weight in weights], axis=0)
    plain = _error(rows, weights, exact, np.ones(rows.shape[1]), setting)
    found: list[tuple[float, Array]] = []
    for alpha in ALPHAS:
        scale = np.maximum(peaks, 1e-5) ** alpha / np.maximum(needed, 1e-5) ** (1 - alpha)
        scale /= np.exp(np.mean(np.log(scale)))
        found.append((_error(rows, weights, exact, scale, setting), scale))
    error, scale = min(found, key=lambda each: each[0])
    return scale if error < _LEAST_GAIN * plain else None


def _error(rows: Array, weights: Sequence[Array], exact: Sequence[Array], scale: Array, setting: Setting) -> float:
    smooth = (rows / scale).astype(np.float32)
    dtype = setting.activation_dtype
    if dtype.endswith("16"):
        affine = symmetric(np.abs(smooth).max(), dtype, bits=16)
    else:
        affine = for_range(float(smooth.min()), float(smooth.max()), dtype)
    smooth = affine.rounded(smooth)
    error = 0.0
    for weight, wanted in zip(weights, exact, strict=True):
        harder = (weight * scale[:, np.newaxis]).astype(np.float32)
        axis = 1 if setting.per_channel else None
        rounded = symmetric(reach_of(harder, axis), setting.weight_dtype, bits=setting.weight_bits, axis=axis).rounded(
            harder
        )
        # Huge numbers make an infinite error, which no scale is chosen for.
        with np.errstate(over="ignore", invalid="ignore"):
            error += float(np.sum(np.square(smooth @ rounded - wanted, dtype=np.float64)))
    return error


def _shared(plan: Plan) -> list[_Shared]:
    """Activations whose quantized readers are all matrix products with stored weights."""
    graph = plan.model.graph
    weights = {weight.node: weight.tensor for weight in plan.placement.weights if weight.product}
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for index in plan.placement.readers.get(node.name, []):
            readers[node.input[index]].append(node)
    integers = {name for node in graph.node if node.name in plan.placement.nodes for name in node.output}
    found = []
    for name in plan.placement.activations:
        nodes = readers[name]
        if name in integers or not nodes or any(node.op_type not in ("MatMul", "Gemm") for node in nodes):
            continue
        stored = [plan.stored(weights[node.name]) for node in nodes]
        if any(values.ndim != 2 for values in stored):
            continue
        turned = [
            values.T if attribute(node, "transB", 0) else values for node, values in zip(nodes, stored, strict=True)
        ]
        found.append(_Shared(name, tuple(nodes), tuple(values.astype(np.float32) for values in turned)))
    return found


def _samples(plan: Plan, names: list[str], material: Material) -> list[tuple[Array, Array]]:
    """Of each tensor some rows [n, channels], and the largest magnitude of each channel over all of them."""
    session = observed_session(plan.model, names, material.work / "smooth.onnx", threads=material.threads)
    rng = np.random.default_rng(0)
    rows: list[list[Array]] = [[] for _ in names]
    peaks: list[Array] = [np.zeros(1)] * len(names)
    for feed, _ in material.feeds():
        for index, values in enumerate(session.run(feed)):
            if not values.size:
                continue
            flat = values.reshape(-1, values.shape[-1])
            peaks[index] = np.maximum(peaks[index], np.abs(flat).max(axis=0))
            taken = rng.choice(len(flat), min(_ROWS_A_FEED, len(flat)), replace=False)
            rows[index].append(flat[taken])
    kept = []
    for each, peak in zip(rows, peaks, strict=True):
        whole = np.concatenate(each) if each else np.empty((0, 1), np.float32)
        kept.append((whole[rng.permutation(len(whole))[:_ROWS]], peak))
    return kept


def _apply(plan: Plan, shared: _Shared, scale: Array) -> str:
    """Multiply the weights' rows, divide what they read; returns the name of the smoothed tensor."""
    graph = plan.model.graph
    others = {name for node in graph.node if node not in shared.readers for name in node.input}
    for number, node in enumerate(shared.readers):
        weight = (shared.weights[number] * scale[:, np.newaxis]).astype(np.float32)
        turned = weight.T if attribute(node, "transB", 0) else weight
        name = _own_weight(plan, node)
        plan.store(name, turned)
    producer = next((node for node in graph.node if shared.tensor in node.output), None)
    outputs = {value.name for value in graph.output}
    if producer is not None and _foldable(plan, producer) and shared.tensor not in others | outputs:
        for place in (1, 2):
            if len(producer.input) > place and producer.input[place]:
                name = _own_copy(plan, producer, place)
                plan.store(name, plan.stored(name) / scale)
        return shared.tensor
    smooth = fresh(f"{shared.tensor}_smooth", defined(plan.model.graph))
    divisor = fresh(f"{shared.tensor}_smoothing", defined(plan.model.graph))
    graph.initializer.append(numpy_helper.from_array((1 / scale).astype(np.float32), divisor))
    graph.node.append(helper.make_node("Mul", [shared.tensor, divisor], [smooth], name=smooth))
    graph.value_info.append(helper.make_tensor_value_info(smooth, TensorProto.FLOAT, None))
    for node in shared.readers:
        node.input[0] = smooth
    return smooth


def _foldable(plan: Plan, node: NodeProto) -> bool:
    stored = {tensor.name for tensor in plan.model.graph.initializer}
    return (
        node.op_type == "LayerNormalization"
        and attribute(node, "axis", -1) == -1
        and all(name in stored for name in node.input[1:3] if name)
    )


def _own_weight(plan: Plan, node: NodeProto) -> str:
    return _own_copy(plan, node, 1)


def _own_copy(plan: Plan, node: NodeProto, place: int) -> str:
    """Give a node a stored tensor of its own where others read the same one; returns its name."""
    name: str = node.input[place]
    readers = sum(1 for other in plan.model.graph.node for given in other.input if given == name)
    if readers > 1:
        copy: str = fresh(f"{name}_own", defined(plan.model.graph))
        plan.model.graph.initializer.append(numpy_helper.from_array(plan.stored(name), copy))
        node.input[place] = copy
        name = copy
    return name
