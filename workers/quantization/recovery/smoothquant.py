"""SmoothQuant (Xiao et al. 2023): move what is hard about an activation's channels into the weights that read them.

α, by which it is shared out, is searched for each activation, by the squared error of the products that read it.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
from onnx import ModelProto, NodeProto

from app.errors import StepError
from workers.quantization.affine import for_range, reach_of, symmetric
from workers.quantization.graph import names_in, sort_nodes
from workers.quantization.qdq.plan import Array, Plan, Setting, make_plan
from workers.quantization.recovery.material import Material
from workers.quantization.recovery.measuring import observed_session
from workers.quantization.smoothing import LEAST_GAIN, Shared, divide, divisors, multiply_weights, shared

_ROWS = 512
_ROWS_A_FEED = 16


def smoothquant(plan: Plan, material: Material) -> Plan:
    """Smooth every activation whose products come out nearer for it.

    Raises StepError `step_not_applicable` where there is none.
    """
    changed = plan.copy()
    found = list(_smoothable(changed))
    if not found:
        raise StepError("No matrix products read an activation that could be smoothed.", code="step_not_applicable")
    samples = _samples(changed.model, [each.tensor for each in found], material)
    smoothed: list[str] = []
    taken = names_in(changed.model)
    for each, (rows, peaks) in zip(found, samples, strict=True):
        scale = _best_divisor(rows, peaks, each.weights, material.setting) if len(rows) else None
        if scale is not None:
            multiply_weights(changed.model, each, scale, taken)
            smoothed.append(divide(changed.model, each, scale, taken))
    if not smoothed:
        raise StepError("No activation's products come nearer when it is smoothed.", code="step_not_applicable")
    sort_nodes(changed.model.graph)
    statistics = material.observed_anew(changed.model, smoothed)
    return make_plan(changed.model, statistics, material.setting)


def _best_divisor(rows: Array, peaks: Array, weights: Sequence[Array], setting: Setting) -> Array | None:
    """The divisor of each channel that leaves the products' squared error least; None where none is worth it.

    `rows` are samples of the activation [n, inputs], `peaks` the largest magnitudes of its channels over all rows,
    `weights` are [inputs, outputs] each.
    """
    exact = [rows @ weight for weight in weights]
    plain = _error(rows, weights, exact, np.ones(rows.shape[1]), setting)
    found = [(_error(rows, weights, exact, scale, setting), scale) for scale in divisors(peaks, weights)]
    error, scale = min(found, key=lambda each: each[0])
    return scale if error < LEAST_GAIN * plain else None


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


def _smoothable(plan: Plan) -> Iterator[Shared]:
    """Activations whose quantized readers are all matrix products with stored weights."""
    graph = plan.model.graph
    weights = {weight.node: weight.tensor for weight in plan.placement.weights if weight.product}
    readers: dict[str, list[NodeProto]] = defaultdict(list)
    for node in graph.node:
        for index in plan.placement.readers.get(node.name, []):
            readers[node.input[index]].append(node)
    integers = {name for node in graph.node if node.name in plan.placement.nodes for name in node.output}
    for name in plan.placement.activations:
        nodes = readers[name]
        if name not in integers and all(node.op_type in ("MatMul", "Gemm") for node in nodes):
            found = shared(name, nodes, [plan.stored(weights[node.name]) for node in nodes])
            if found is not None:
                yield found


def _samples(model: ModelProto, names: list[str], material: Material) -> list[tuple[Array, Array]]:
    """Of each tensor some rows [n, channels], and the largest magnitude of each channel over all of them."""
    session = observed_session(model, names, material.work / "smooth.onnx", threads=material.threads)
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
