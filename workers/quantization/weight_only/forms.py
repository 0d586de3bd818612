"""The graphs that hold quantized weights: onnxruntime's own operators, and DequantizeLinear in blocks.

Sources: docs/ContribOperators.md of onnxruntime 1.32 (MatMulNBits, GatherBlockQuantized); ONNX operators,
DequantizeLinear-21 and -25.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper

from workers.quantization.weight_only.blocks import Grid, Matrix, joined, pack
from workers.quantization.weight_only.storage import Sink

CONTRIB = "com.microsoft"

LEVEL_OPTION = "session.qdq_matmulnbits_accuracy_level"
"""The session option that gives the QDQ form the accuracy level that MatMulNBits has as an attribute."""

_UNSIGNED = {2: TensorProto.UINT2, 4: TensorProto.UINT4, 8: TensorProto.UINT8}


@dataclass(frozen=True, slots=True)
class Packed:
    """A quantized matrix as it is stored: names of its tensors, and how it was quantized.

    `zeros` is "" where every zero point is the grid's middle.
    """

    codes: str
    scales: str
    zeros: str
    grid: Grid
    inputs: int
    outputs: int

    @property
    def names(self) -> list[str]:
        """The tensors, in the order in which operators take them."""
        return [self.codes, self.scales, *([self.zeros] if self.zeros else [])]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a quantized matrix is to be stored: the graph, the sink of its bytes, the first part of its names.

    `inputs` are the weights a row, `dtype` the type of scales, which is that of the activations.
    """

    graph: GraphProto
    sink: Sink
    name: str
    grid: Grid
    inputs: int
    outputs: int
    dtype: np.dtype[Any]

    def names(self, *, always_zeros: bool) -> Packed:
        zeros = f"{self.name}_zeros" if always_zeros or not self.grid.symmetric else ""
        return Packed(f"{self.name}_codes", f"{self.name}_scales", zeros, self.grid, self.inputs, self.outputs)

    def put(self, name: str, values: NDArray[Any], kind: int | None = None, dims: tuple[int, ...] = ()) -> None:
        self.graph.initializer.append(self.sink.put(name, values, kind, dims))


def store_for_matmul(matrix: Matrix, to: Place) -> Packed:
    """Store a matrix as MatMulNBits reads it: bytes [outputs, blocks, bytes a block], scales [outputs, blocks]."""
    made = to.names(always_zeros=False)
    to.put(made.codes, matrix.codes)
    to.put(made.scales, matrix.scales.astype(to.dtype))
    if made.zeros:
        to.put(made.zeros, pack(matrix.zeros, to.grid.bits))
    return made


def store_for_gather(matrix: Matrix, to: Place) -> Packed:
    """Store a matrix as GatherBlockQuantized reads it: bytes [rows, bytes a row], scales [rows, blocks]."""
    made = to.names(always_zeros=False)
    to.put(made.codes, joined(matrix.codes, to.inputs * to.grid.bits // 8))
    to.put(made.scales, matrix.scales.astype(to.dtype))
    if made.zeros:
        to.put(made.zeros, pack(matrix.zeros, to.grid.bits))
    return made


def store_for_qdq(matrix: Matrix, to: Place) -> Packed:
    """Store a matrix as DequantizeLinear reads it along axis 0: codes [inputs, outputs], scales [blocks, outputs].

    Zero points are always stored: without them a type's own 0 would be meant.
    """
    made = to.names(always_zeros=True)
    bits, kind = to.grid.bits, _UNSIGNED[to.grid.bits]
    codes = joined(matrix.blocks(to.grid).codes, to.inputs).T
    to.put(made.codes, pack(codes.reshape(-1), bits), kind, codes.shape)
    to.put(made.scales, matrix.scales.T.astype(to.dtype))
    to.put(made.zeros, pack(matrix.zeros.T.reshape(-1), bits), kind, matrix.zeros.T.shape)
    return made


def matmul_nbits(node: NodeProto, packed: Packed, level: int, bias: str, output: str) -> NodeProto:
    """The MatMulNBits that computes what a product did; `bias` is a stored [outputs] or ""."""
    inputs = [node.input[0], *packed.names]
    if bias:
        inputs += [""] * (5 - len(inputs)) + [bias]
    return helper.make_node(
        "MatMulNBits",
        inputs,
        [output],
        name=node.name,
        domain=CONTRIB,
        K=packed.inputs,
        N=packed.outputs,
        bits=packed.grid.bits,
        block_size=packed.grid.block,
        accuracy_level=level,
    )


def gather_quantized(node: NodeProto, packed: Packed) -> NodeProto:
    """The GatherBlockQuantized that reads what a Gather of rows did."""
    return helper.make_node(
        "GatherBlockQuantized",
        [packed.codes, node.input[1], *packed.names[1:]],
        list(node.output),
        name=node.name,
        domain=CONTRIB,
        gather_axis=0,
        quantize_axis=1,
        bits=packed.grid.bits,
        block_size=packed.grid.block,
    )


def dequantize(packed: Packed, output: str) -> NodeProto:
    """The DequantizeLinear whose output are the weights, [inputs, outputs]."""
    return helper.make_node(
        "DequantizeLinear",
        packed.names,
        [output],
        name=f"{output}_DequantizeLinear",
        axis=0,
        block_size=packed.grid.block,
    )
