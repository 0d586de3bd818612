"""Smoothing for activations that are quantized at run time, their few largest channels being computed apart in float.

Which divisor is best is searched as in `recovery/smoothquant.py`, but each feed has a range of its own, as at run time.
What no divisor evens out is a channel far beyond all others: such ones leave the product of integers, and are
multiplied in float beside it (Dettmers et al. 2022, "LLM.int8()", §3). One or two make most of the difference: 4 to 5
dB at the second product of MiniLM's first four feed-forward blocks.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import ModelProto, NodeProto, helper, numpy_helper

from workers.quantization.affine import Array, for_range
from workers.quantization.calibration.collect import SLICE_BYTES, Feeds, slices
from workers.quantization.dynamic_products import WeightType, products_by_activation
from workers.quantization.graph import attribute, fresh, names_in, sort_nodes, stored
from workers.quantization.recovery.measuring import observed_session
from workers.quantization.smoothing import (
    LEAST_GAIN,
    Shared,
    divide,
    divisors,
    folding,
    multiply,
    multiply_weights,
    reads,
    shared,
)

APART = (0, 1, 2, 4, 8)
"""How many channels are tried in float."""
_LEAST_GAIN_OF_NODES = 0.7
"""A share of the error that has to be left at most, where nodes are added for it, or more channels are kept."""
_LEAST_CHANNELS = 64
"""Of an activation, for some to be computed apart: of fewer, they would be no small part of the work."""
_ROWS_A_FEED, _MOST_ROWS = 8, 512
_MOST_OUTPUTS = 512
"""Of a product, that its error is taken from: they are alike, and a language model's head has fifty thousand."""
_HUGE, _TINY = 1e30, 1e-30
_LEAST_POWER = 1e-4
"""Of the mean: rows of a product count alike, but for those that are next to nothing."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """An activation on some feeds: the extremes of its channels [feeds, channels], and sampled rows of all feeds.

    `rows` are [n, channels], `feeds` [n] say which feed each is of.
    """

    rows: Array
    feeds: Array
    lows: Array
    highs: Array

    def peaks(self) -> Array:
        """The root mean square over the feeds of each channel's largest magnitude, float64 [channels]."""
        reach = np.maximum(np.abs(self.lows), np.abs(self.highs)).astype(np.float64)
        return np.asarray(np.sqrt(np.mean(np.square(reach), axis=0)))

    def rounded(self, factors: Array) -> Array:
        """The rows with their channels multiplied, quantized by each feed's own range as at run time."""
        low, high = (self.lows * factors).min(axis=1)[self.feeds], (self.highs * factors).max(axis=1)[self.feeds]
        return for_range(low, high, "uint8", axis=0).rounded((self.rows * factors).astype(np.float32))


@dataclass(frozen=True, slots=True)
class _Choice:
    """Divisors of an activation's channels, and which channels are computed apart in float."""

    divisor: Array
    apart: Array


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
    of products that were added and have to stay in float; None where nothing was smoothed.
    """
    found = _smoothable(model, op_types, kept)
    made: list[list[str]] = []
    taken = names_in(model)
    seen_of = _observed(model, list(found), feeds, work, threads)  # of all, before any is changed
    for name, nodes in found.items():
        seen = seen_of.get(name)
        each = shared(name, nodes, [stored(model, node.input[1]) for node in nodes])
        if each is None or seen is None:
            continue
        choice = _search(each, seen, weights, folded=folding(model.graph, each) is not None)
        if choice is not None:
            made.append(_apply(model, each, choice, taken))
    sort_nodes(model.graph)
    return frozenset(name for names in made for name in names) if made else None


def _smoothable(model: ModelProto, op_types: Sequence[str], kept: frozenset[str]) -> dict[str, list[NodeProto]]:
    """Activations of matrix products alone, whose weights no other node reads: a copy for each would cost its bytes."""
    found, used = products_by_activation(model.graph, op_types, kept), reads(model.graph)
    return {
        name: nodes
        for name, nodes in found.items()
        if all(node.op_type in ("MatMul", "Gemm") for node in nodes)
        and all(count == used[weight] for weight, count in Counter(node.input[1] for node in nodes).items())
    }


def _observed(model: ModelProto, names: Sequence[str], feeds: Feeds, work: Path, threads: int) -> dict[str, _Seen]:
    """What these tensors are on the feeds, without those that are never more than empty."""
    found: dict[str, list[tuple[Array, Array, Array]]] = {name: [] for name in names}
    chances = {name: np.random.default_rng(0) for name in names}
    for part in slices(model, names, feeds, SLICE_BYTES):
        session = observed_session(model, part, work / "smoothed.onnx", threads=threads)
        for given, _ in feeds():
            for name, values in zip(part, session.run(given), strict=True):
                if values.size and np.abs(values).max() < _HUGE:  # else there is nothing that could be scaled
                    flat = values.reshape(-1, values.shape[-1])
                    some = flat[chances[name].choice(len(flat), min(_ROWS_A_FEED, len(flat)), replace=False)]
                    found[name].append((some, flat.min(axis=0), flat.max(axis=0)))
    return {name: _joined(parts) for name, parts in found.items() if parts}


def _joined(parts: Sequence[tuple[Array, Array, Array]]) -> _Seen:
    rows, lows, highs = zip(*parts, strict=True)
    feeds = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
    some = np.random.default_rng(0).permutation(len(feeds))[:_MOST_ROWS]
    return _Seen(np.concatenate(rows)[some], feeds[some], np.stack(lows), np.stack(highs))


def _search(each: Shared, seen: _Seen, weights: WeightType, *, folded: bool) -> _Choice | None:
    """What leaves the products' error least; None where nothing is worth it.

    Where the division is `folded` it costs nothing; to compute channels apart would take a node for it.
    """
    peaks = seen.peaks()
    hardest = np.argsort(
        -peaks * np.max([np.abs(weight).max(axis=1) for weight in each.weights], axis=0), kind="stable"
    )
    # Where all outputs share a scale, the largest weight has to be among them.
    most = _MOST_OUTPUTS if weights.per_channel else max(weight.shape[1] for weight in each.weights)
    some = [weight[:, :: -(-weight.shape[1] // most)] for weight in each.weights]
    exact = [seen.rows @ weight for weight in some]
    powers = [np.square(wanted, dtype=np.float64).sum(axis=1, keepdims=True) for wanted in exact]
    shares = [1 / np.maximum(power, max(_LEAST_POWER * float(power.mean()), _TINY)) for power in powers]

    def error(choice: _Choice) -> float:
        factors, inverse = 1 / choice.divisor, choice.divisor.copy()
        factors[choice.apart] = inverse[choice.apart] = 0.0
        whole, few, total = seen.rounded(factors), seen.rows[:, choice.apart], 0.0
        # Huge numbers make an infinite error, or none at all; no divisor is chosen for that.
        with np.errstate(over="ignore", invalid="ignore"):
            for weight, wanted, share in zip(some, exact, shares, strict=True):
                harder = (weight * inverse[:, np.newaxis]).astype(np.float32)
                found = whole @ weights.affine(harder, axis=1).rounded(harder) + few @ weight[choice.apart]
                total += float(np.sum(np.square(found - wanted, dtype=np.float64) * share))
        return total if np.isfinite(total) else np.inf

    best, least = None, error(_Choice(np.ones(len(peaks)), hardest[:0]))
    wanted_share = LEAST_GAIN if folded else _LEAST_GAIN_OF_NODES
    for count in APART if not folded and len(each.readers) == 1 and len(peaks) >= _LEAST_CHANNELS else APART[:1]:
        tried = [_Choice(divisor, hardest[:count]) for divisor in divisors(peaks, each.weights)]
        left, choice = min(((error(choice), choice) for choice in tried), key=lambda pair: pair[0])
        if left < wanted_share * least:
            best, least = choice, left
    return best


def _apply(model: ModelProto, each: Shared, choice: _Choice, taken: set[str]) -> list[str]:
    """Change the model; returns the names of the products that were added in float."""
    if not len(choice.apart):
        multiply_weights(model, each, choice.divisor, taken)
        divide(model, each, choice.divisor, taken)
        return []
    inside = np.ones(len(choice.divisor))
    inside[choice.apart] = 0.0
    multiply_weights(model, each, choice.divisor * inside, taken)
    multiply(model, each, inside / choice.divisor, taken)
    return [_multiply_apart(model, each.tensor, each.readers[0], each.weights[0], choice.apart, taken)]


def _multiply_apart(
    model: ModelProto, tensor: str, node: NodeProto, weight: Array, channels: Array, taken: set[str]
) -> str:
    """Add what some channels give to a product that has lost them; returns the name of their product's node."""
    graph = model.graph
    places, few, rows, part = (fresh(f"{node.name}_apart_{name}", taken) for name in ("places", "x", "weight", "y"))
    last, rest = node.output[0], fresh(f"{node.name}_rest", taken)
    factor = attribute(node, "alpha", 1.0) if node.op_type == "Gemm" else 1.0
    graph.initializer.append(numpy_helper.from_array(channels.astype(np.int64), places))
    graph.initializer.append(numpy_helper.from_array((weight[channels] * np.float32(factor)).astype(np.float32), rows))
    node.output[0] = rest
    graph.node.extend(
        [
            helper.make_node("Gather", [tensor, places], [few], name=few, axis=-1),
            helper.make_node("MatMul", [few, rows], [part], name=part),
            helper.make_node("Add", [rest, part], [last], name=fresh(f"{node.name}_whole", taken)),
        ]
    )
    return part
