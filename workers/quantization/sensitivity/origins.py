"""Where noise comes from, and which layers must stay in float for it to go.

A tensor that quantized nodes make is read quantized by all, so its noise goes when none of them needs it. One that is
made in float (the input of a model, a normalization) is quantized for each of its readers apart, so each reader has a
part of its noise.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from workers.quantization.qdq.placement import Weight
from workers.quantization.qdq.plan import Plan
from workers.quantization.sensitivity.outputs import Score, scaled
from workers.quantization.sensitivity.parts import Layer, made_in_integers, moved_with, placement_without
from workers.quantization.sensitivity.probing import LayerProbe, TensorProbe


@dataclass(frozen=True, slots=True)
class Origin:
    """One origin of noise: a stored operand of `node`, an activation (for one reader `node` of it, or for all where
    that is null), or what the runtime's `kernel` makes of sums that saturate.

    `held_by` are the layers that must all stay in float for it to go.
    """

    key: str
    kind: Literal["weight", "activation", "kernel"]
    tensor: str | None
    node: str | None
    held_by: tuple[str, ...]
    score: Score


def weight_key(weight: Weight) -> str:
    """What a stored operand is called among all tensors."""
    return f"{weight.node}[{weight.index}]"


def read_apart(plan: Plan, layers: Sequence[Layer]) -> dict[str, tuple[str, ...]]:
    """The activations that are made in float and read by several layers, and these."""
    readers = _readers(plan, layers)
    inside = made_in_integers(plan)
    return {name: nodes for name, nodes in readers.items() if len(nodes) > 1 and name not in inside}


def origins_of(
    plan: Plan, layers: Sequence[Layer], probes: Mapping[str, LayerProbe], activations: Mapping[str, TensorProbe]
) -> list[Origin]:
    """Every origin, with what it alone does to the outputs."""
    found = []
    for layer in layers:
        probe, held_by = probes[layer.node], (layer.node,)
        for weight, score in zip(layer.weights, probe.operand_outputs, strict=True):
            found.append(Origin(weight_key(weight), "weight", weight.tensor, layer.node, held_by, score))
        if probe.kernel_outputs.noise:
            found.append(Origin(layer.node, "kernel", None, layer.node, held_by, probe.kernel_outputs))
    apart, holders = read_apart(plan, layers), holders_of(plan, layers)
    for name, tensor in activations.items():
        if name in apart:
            found.extend(_parts(name, tensor.outputs, {node: probes[node] for node in apart[name]}))
        else:
            found.append(Origin(name, "activation", name, None, holders[name], tensor.outputs))
    return found


def freed(plan: Plan, origins: Sequence[Origin], nodes: Collection[str]) -> list[str]:
    """Keys of the origins that are gone when these layers stay in float, as `keep_float` would leave them."""
    left = placement_without(plan, nodes)
    weights = {weight_key(weight) for weight in left.weights}

    def gone(origin: Origin) -> bool:
        if origin.kind == "weight":
            return origin.key not in weights
        if origin.node is not None:
            return origin.node not in left.nodes
        assert origin.tensor is not None
        return not set(moved_with(plan, origin.tensor)) & set(left.activations)

    return [origin.key for origin in origins if gone(origin)]


def holders_of(plan: Plan, layers: Sequence[Layer]) -> dict[str, tuple[str, ...]]:
    """By activation, the layers that read it quantized or can only be computed with it quantized."""
    roots = {moved: name for name in plan.placement.observed() for moved in moved_with(plan, name)}
    found: dict[str, dict[str, None]] = {name: {} for name in plan.placement.observed()}
    for layer in layers:
        made = [] if layer.op_type in ("MatMul", "Gemm") else [layer.output]
        for name in (*layer.reads, *made):
            if name in roots:
                found[roots[name]][layer.node] = None
    return {name: tuple(nodes) for name, nodes in found.items()}


def _readers(plan: Plan, layers: Sequence[Layer]) -> dict[str, tuple[str, ...]]:
    return {name: tuple(layer.node for layer in layers if name in layer.reads) for name in plan.placement.observed()}


def _parts(name: str, together: Score, readers: Mapping[str, LayerProbe]) -> list[Origin]:
    """An activation's noise by the layer that reads it, in parts as large as each reader's alone."""
    alone = {node: probe.reads_outputs for node, probe in readers.items()}
    scores = {node: score for node, score in alone.items() if score is not None}
    whole = sum(score.noise for score in scores.values())
    factor = together.noise / whole if whole else 1.0
    return [
        Origin(f"{name} → {node}", "activation", name, node, (node,), scaled(score, factor))
        for node, score in scores.items()
    ]
