"""Smoothing for activations that are quantized at run time, by the range that each feed has."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from onnx import ModelProto, NodeProto

from workers.quantization.affine import WeightType
from workers.quantization.calibration.collect import Feeds
from workers.quantization.dynamic_products import products_by_activation
from workers.quantization.graph import names_in, reads, sort_nodes, stored
from workers.quantization.smoothing.applying import apply
from workers.quantization.smoothing.search import search
from workers.quantization.smoothing.seen import observed
from workers.quantization.smoothing.shared import folding, shared


def smooth(
    model: ModelProto,
    op_types: Sequence[str],
    kept: frozenset[str],
    weights: WeightType,
    feeds: Feeds,
    work: Path,
    *,
    threads: int = 1,
) -> frozenset[str] | None:
    """Smooth, in place, each activation of a prepared model whose products come out nearer for it on these feeds.

    Products are those of these types that are not in `kept`, as `quantize_products` will find them. Returns the names
    of nodes that were added and have to stay in float; None where nothing was smoothed.
    """
    found = _smoothable(model, op_types, kept)
    added: list[tuple[str, ...]] = []
    taken = names_in(model)
    seen_of = observed(model, list(found), feeds, work, threads)  # of all, before any is changed
    for name, nodes in found.items():
        seen = seen_of.get(name)
        each = shared(name, nodes, [stored(model, node.input[1]) for node in nodes])
        if each is None or seen is None:
            continue
        choice = search(each, seen, weights, folded=folding(model.graph, each) is not None)
        if choice is not None:
            added.append(apply(model, each, choice, taken).in_float)
    sort_nodes(model.graph)
    return frozenset(name for names in added for name in names) if added else None


def _smoothable(model: ModelProto, op_types: Sequence[str], kept: frozenset[str]) -> dict[str, list[NodeProto]]:
    """Activations of matrix products alone, whose weights no other node reads: a copy for each would cost its bytes."""
    found, used = products_by_activation(model.graph, op_types, kept), reads(model.graph)
    return {
        name: nodes
        for name, nodes in found.items()
        if all(node.op_type in ("MatMul", "Gemm") for node in nodes)
        and all(count == used[weight] for weight, count in Counter(node.input[1] for node in nodes).items())
    }
