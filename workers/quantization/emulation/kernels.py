"""The runtime's operators that multiply 8-bit numbers, on the arithmetic of either kind of processor.

Each gives what onnxruntime's kernel gives, to the last bit: scales are multiplied, and totals brought to the output's
scale, in float32; rounding is half to even (MlasRequantizeOutput and the kernels' own tails).
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import product as combinations
from typing import Any

import numpy as np
from onnx import NodeProto, helper

from app.errors import StepError
from workers.quantization.emulation.arithmetic import Arithmetic, Array, Product, Weights, multiply, prepare


@dataclass(slots=True)
class Tally:
    """What 16 bits did in a node, over all runs: pairs in all and saturated, energy of exact sums and of what was lost.

    The energies are in units of the output channels' scales.
    """

    pairs: int = 0
    saturated: int = 0
    signal: float = 0.0
    noise: float = 0.0

    def add(self, product: Product, scale: Array) -> None:
        """Count a product whose outputs have these scales: float32 [outputs or 1, 1]."""
        self.pairs += product.pairs
        self.saturated += product.saturated
        self.signal += _energy(product.totals if product.excess is None else product.totals + product.excess, scale)
        if product.excess is not None:
            self.noise += _energy(product.excess, scale)


class Kernel(ABC):
    """One node: holds its prepared weights where they are stored ones."""

    weight: int
    """Which input the weights are."""
    weight_zero_point: int

    def __init__(self, node: NodeProto, stored: Collection[str]) -> None:
        self.node = node
        self.attributes = {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}
        self.tally = Tally()
        places = [place for place in (self.weight, self.weight_zero_point) if place < len(node.input)]
        self._fixed = all(node.input[place] in stored for place in places if node.input[place])
        self._prepared: Any = None

    def run(self, inputs: Sequence[Array | None], arithmetic: Arithmetic) -> Array:
        """The node's output; `inputs` in its order, None for those left out."""
        given = [*inputs, *[None] * 9]
        if self._prepared is None or not self._fixed:
            self._prepared = self.prepared(given)
        return self.output(given, self._prepared, arithmetic)

    @abstractmethod
    def prepared(self, given: Sequence[Array | None]) -> Any:
        """The weights among the inputs, in the form that `output` takes them."""

    @abstractmethod
    def output(self, given: Sequence[Array | None], weights: Any, arithmetic: Arithmetic) -> Array:
        """What the node puts out, by weights that `prepared` made."""


class _Convolution(Kernel):
    """QLinearConv: x, its scale and zero point; w, its; y's; bias.

    The reduction runs over the kernel's positions, and within each over the group's input channels: so are the
    weights reordered for all kernels, and the image is gathered (Im2col in NHWC order, or by indirection).
    """

    weight, weight_zero_point = 3, 5

    def prepared(self, given: Sequence[Array | None]) -> list[Weights] | Array:
        """One matrix a group; for depthwise ones, which no kernel saturates, int32 [channels, positions]."""
        filters, zero_point = _present(given[3]), _present(given[5]).reshape(-1)
        groups = self.attributes.get("group", 1)
        if _is_depthwise(filters, groups):
            zero = zero_point.astype(np.int32).reshape(-1, 1)
            moved: Array = filters.reshape(len(filters), -1).astype(np.int32) - zero
            return moved
        rows = np.moveaxis(filters, 1, -1).reshape(groups, len(filters) // groups, -1)
        zeros = np.broadcast_to(zero_point, (len(filters),)).reshape(groups, -1)
        return [prepare(matrix, zero) for matrix, zero in zip(rows, zeros, strict=True)]

    def output(self, given: Sequence[Array | None], weights: list[Weights] | Array, arithmetic: Arithmetic) -> Array:
        images, zero_point = _present(given[0]), _scalar(given[2])
        shape = _present(given[3]).shape
        window = _Window.of(self.attributes, images.shape[2:], shape[2:])
        scale = _present(given[4]).reshape(-1, 1)
        made = []
        for image in images:
            patches = window.patches(image, zero_point)
            if isinstance(weights, list):
                totals = self._by_groups(patches, weights, zero_point, scale, arithmetic)
            else:
                totals = _depthwise(patches, weights, zero_point)
            if given[8] is not None:
                totals += given[8].reshape(-1, 1)
            made.append(_requantized(totals, given[1], scale, given[6], given[7]).reshape(-1, *window.outputs))
        return np.stack(made) if made else np.empty((0, shape[0], *window.outputs), images.dtype)

    def _by_groups(
        self, patches: Array, weights: list[Weights], zero_point: int, scale: Array, arithmetic: Arithmetic
    ) -> Array:
        channels = patches.shape[1] // len(weights)
        scales = np.broadcast_to(scale, (sum(len(group.numbers) for group in weights), 1))
        totals: list[Array] = []
        for index, group in enumerate(weights):
            columns = patches[:, index * channels : (index + 1) * channels].reshape(-1, patches.shape[2])
            product = multiply(group, columns, zero_point, arithmetic)
            outputs = len(group.numbers)
            self.tally.add(product, scales[index * outputs : (index + 1) * outputs])
            totals.append(product.totals)
        return np.concatenate(totals)


@dataclass(frozen=True, slots=True)
class _Window:
    """Where a kernel reads: all by spatial axis; `pads` are those before and those after."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]
    outputs: tuple[int, ...]

    @classmethod
    def of(cls, attributes: Mapping[str, Any], sizes: Sequence[int], kernel: Sequence[int]) -> "_Window":
        """The window of a convolution over an image of these sizes."""
        axes = range(len(sizes))
        strides = tuple(attributes.get("strides") or (1 for _ in axes))
        dilations = tuple(attributes.get("dilations") or (1 for _ in axes))
        reach = [(kernel[axis] - 1) * dilations[axis] + 1 for axis in axes]
        pads = _pads(attributes, sizes, reach, strides)
        outputs = tuple((sizes[axis] + sum(pads[axis]) - reach[axis]) // strides[axis] + 1 for axis in axes)
        return cls(tuple(kernel), strides, dilations, pads, outputs)

    def patches(self, image: Array, zero_point: int) -> Array:
        """What each output is made of: [positions of the kernel, channels, outputs] of an image [channels, ...]."""
        if any(side for both in self.pads for side in both):
            image = np.pad(image, ((0, 0), *self.pads), constant_values=zero_point)
        parts = []
        for position in combinations(*(range(size) for size in self.kernel)):
            starts = [at * step for at, step in zip(position, self.dilations, strict=True)]
            cut = tuple(
                slice(start, start + (count - 1) * stride + 1, stride)
                for start, count, stride in zip(starts, self.outputs, self.strides, strict=True)
            )
            parts.append(image[(slice(None), *cut)].reshape(len(image), -1))
        return parts[0][np.newaxis] if len(parts) == 1 else np.stack(parts)


def _pads(
    attributes: Mapping[str, Any], sizes: Sequence[int], reach: Sequence[int], strides: Sequence[int]
) -> tuple[tuple[int, int], ...]:
    mode = bytes(attributes.get("auto_pad", b"NOTSET"))
    if mode in (b"SAME_UPPER", b"SAME_LOWER"):
        made = []
        for size, wide, stride in zip(sizes, reach, strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + wide - size, 0)
            less = total // 2
            made.append((less, total - less) if mode == b"SAME_UPPER" else (total - less, less))
        return tuple(made)
    given = list(attributes.get("pads") or [0] * (2 * len(sizes))) if mode == b"NOTSET" else [0] * (2 * len(sizes))
    return tuple(zip(given[: len(sizes)], given[len(sizes) :], strict=True))


def _is_depthwise(filters: Array, groups: int) -> bool:
    return filters.shape[1] == 1 and len(filters) == groups


def _depthwise(patches: Array, weights: Array, zero_point: int) -> Array:
    totals = np.zeros(patches.shape[1:], np.int32)
    for position, values in enumerate(patches):
        totals += (values.astype(np.int32) - zero_point) * weights[:, position, np.newaxis]
    return totals


class _Multiplication(Kernel):
    """What QLinearMatMul, MatMulInteger, MatMulIntegerToFloat and QGemm share: rows times columns."""

    activation_zero_point: int

    def prepared(self, given: Sequence[Array | None]) -> list[Weights]:
        """One matrix for each of the right operand's batch, in C order."""
        right = self._right(given)
        if right.ndim < 2:
            raise _unsupported(self.node, "a vector as an operand")
        zero_point = given[self.weight_zero_point]
        zero = np.zeros(1, right.dtype) if zero_point is None else zero_point.reshape(-1)
        if zero.size not in (1, right.shape[-1]):
            raise _unsupported(self.node, "a zero point for each matrix of a batch")
        return [prepare(matrix.T, zero) for matrix in right.reshape(-1, *right.shape[-2:])]

    def output(self, given: Sequence[Array | None], weights: list[Weights], arithmetic: Arithmetic) -> Array:
        left, right = _present(given[0]), self._right(given)
        if left.ndim < 2:
            raise _unsupported(self.node, "a vector as an operand")
        scale = self._weight_scale(given)
        batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
        if len(weights) == 1:
            totals = self._rows(left.reshape(-1, left.shape[-1]), weights[0], given, scale, arithmetic)
            return self._finished(totals.reshape(*batch, left.shape[-2], right.shape[-1]), given)
        lefts = np.broadcast_to(left, (*batch, *left.shape[-2:]))
        numbers = np.broadcast_to(np.arange(len(weights)).reshape(right.shape[:-2]), batch)
        made = np.empty((*batch, left.shape[-2], right.shape[-1]), np.int32)
        for index in np.ndindex(*batch):
            made[index] = self._rows(lefts[index], weights[numbers[index]], given, scale, arithmetic)
        return self._finished(made, given)

    def _rows(
        self, rows: Array, weights: Weights, given: Sequence[Array | None], scale: Array, arithmetic: Arithmetic
    ) -> Array:
        zero_point = given[self.activation_zero_point]
        product = multiply(weights, rows.T, 0 if zero_point is None else _scalar(zero_point), arithmetic)
        self.tally.add(product, scale)
        return product.totals.T

    def _right(self, given: Sequence[Array | None]) -> Array:
        return _present(given[self.weight])

    @abstractmethod
    def _weight_scale(self, given: Sequence[Array | None]) -> Array:
        """Scales of the outputs as float32 [outputs or 1, 1]."""

    @abstractmethod
    def _finished(self, totals: Array, given: Sequence[Array | None]) -> Array:
        """The output, of totals int32 [..., rows, columns]."""


class _QLinearMatMul(_Multiplication):
    """a, its scale and zero point; b, its; y's."""

    activation_zero_point, weight, weight_zero_point = 2, 3, 5

    def _weight_scale(self, given: Sequence[Array | None]) -> Array:
        return _columns(self.node, given[4], self._right(given)).reshape(-1, 1)

    def _finished(self, totals: Array, given: Sequence[Array | None]) -> Array:
        scale = _columns(self.node, given[4], self._right(given))
        return _requantized(totals, given[1], scale, given[6], given[7])


class _MatMulInteger(_Multiplication):
    """a, b, their zero points."""

    activation_zero_point, weight, weight_zero_point = 2, 1, 3

    def _weight_scale(self, given: Sequence[Array | None]) -> Array:
        return np.ones((1, 1), np.float32)

    def _finished(self, totals: Array, given: Sequence[Array | None]) -> Array:
        return totals


class _MatMulIntegerToFloat(_Multiplication):
    """a, b, their scales, their zero points, a float bias."""

    activation_zero_point, weight, weight_zero_point = 4, 1, 5

    def _weight_scale(self, given: Sequence[Array | None]) -> Array:
        return _columns(self.node, given[3], self._right(given)).reshape(-1, 1)

    def _finished(self, totals: Array, given: Sequence[Array | None]) -> Array:
        scale = _present(given[2]).reshape(()) * _columns(self.node, given[3], self._right(given))
        values: Array = totals.astype(np.float32) * scale
        return values if given[6] is None else values + given[6]


class _QGemm(_Multiplication):
    """A, its scale and zero point; B, its; an int32 C; y's scale and zero point, without which the output is float."""

    activation_zero_point, weight, weight_zero_point = 2, 3, 5

    def output(self, given: Sequence[Array | None], weights: list[Weights], arithmetic: Arithmetic) -> Array:
        if self.attributes.get("transA", 0):
            given = [_present(given[0]).T, *given[1:]]
        return super().output(given, weights, arithmetic)

    def _right(self, given: Sequence[Array | None]) -> Array:
        right = _present(given[self.weight])
        return right.T if self.attributes.get("transB", 0) else right

    def _weight_scale(self, given: Sequence[Array | None]) -> Array:
        return _present(given[4]).reshape(-1, 1)

    def _finished(self, totals: Array, given: Sequence[Array | None]) -> Array:
        if given[6] is not None:
            totals = totals + given[6]
        source = np.float32(self.attributes.get("alpha", 1.0)) * _present(given[1])
        if given[7] is not None:
            return _requantized(totals, source, _present(given[4]).reshape(-1), given[7], given[8])
        values: Array = totals.astype(np.float32) * (source.reshape(()) * _present(given[4]).reshape(-1))
        return values


KERNELS: dict[tuple[str, str], type[Kernel]] = {
    ("", "QLinearConv"): _Convolution,
    ("", "QLinearMatMul"): _QLinearMatMul,
    ("", "MatMulInteger"): _MatMulInteger,
    ("com.microsoft", "MatMulIntegerToFloat"): _MatMulIntegerToFloat,
    ("com.microsoft", "QGemm"): _QGemm,
}
"""What is emulated, by domain and operator type: every operator that a static artifact's products become."""

OTHER_PRODUCTS = frozenset(
    {
        ("", "ConvInteger"),
        ("com.microsoft", "QLinearConv"),
        ("com.microsoft", "DynamicQuantizeMatMul"),
        ("com.microsoft", "DynamicQuantizeLSTM"),
        ("com.microsoft", "QAttention"),
    }
)
"""Operators that saturate too, and of which no emulation exists: those of dynamic artifacts."""


def _energy(sums: Array, scale: Array) -> float:
    values = sums * scale.astype(np.float32)
    return float(np.vdot(values, values))


def _requantized(
    totals: Array, source: Array | None, weights: Array, target: Array | None, zero_point: Array | None
) -> Array:
    """Totals int32 in units of both operands' scales as the output's 8-bit numbers; `weights` broadcasts with them."""
    zero = _present(zero_point)
    scale = _present(source).reshape(()) * weights / _present(target).reshape(())
    limits, middle = np.iinfo(zero.dtype), int(zero.reshape(()))
    steps = totals.astype(np.float32) * scale
    np.clip(steps, np.float32(limits.min - middle), np.float32(limits.max - middle), out=steps)
    whole: Array = (np.rint(steps, out=steps).astype(np.int32) + middle).astype(zero.dtype)
    return whole


def _columns(node: NodeProto, scale: Array | None, right: Array) -> Array:
    """Scales of a right operand, one in all or one a column: float32 [1] or [columns]."""
    values = _present(scale).reshape(-1)
    if values.size not in (1, right.shape[-1]):
        raise _unsupported(node, "a scale for each matrix of a batch")
    return values


def _scalar(values: Array | None) -> int:
    return int(_present(values).reshape(()))


def _present(values: Array | None) -> Array:
    if values is None:
        raise ValueError("an input that the operator requires is missing")
    return values


def _unsupported(node: NodeProto, what: str) -> StepError:
    return StepError(
        f"The emulator has no {node.op_type} with {what} (node {node.name!r}); measure on the target instead.",
        code="not_emulated",
    )
