"""The layout of blocks: against a slow reference, and against what onnxruntime computes from it."""

import numpy as np
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper

from tests.parts import models
from tests.parts.models import Array
from workers.quantization.weight_only.blocks import Blocks, Grid, encode, joined, pack, packed, split, unpack

BLOCKS = (16, 32, 64, 128, 256)
RUNS = [(bits, block, symmetric) for bits in (2, 4, 8) for block in BLOCKS for symmetric in (True, False)]


def random_blocks(grid: Grid, outputs: int, inputs: int, seed: int = 0) -> Blocks:
    """Codes, scales and zero points without any weights behind them; the filling stands for 0."""
    rng = np.random.default_rng(seed)
    shape = (outputs, grid.blocks_of(inputs))
    zeros = rng.integers(0, grid.most + 1, shape).astype(np.uint8)
    if grid.symmetric:
        zeros[:] = grid.middle
    codes = rng.integers(0, grid.most + 1, (*shape, grid.block)).astype(np.uint8)
    flat = codes.reshape(outputs, -1)
    flat[:, inputs:] = np.repeat(zeros, grid.block, axis=1)[:, inputs:]
    return Blocks(codes, (rng.random(shape) + 0.5).astype(np.float32), zeros)


def plain_values(blocks: Blocks, inputs: int) -> Array:
    """(q − z) · s, weight by weight."""
    outputs, _count, block = blocks.codes.shape
    values = np.zeros((outputs, inputs))
    for row in range(outputs):
        for column in range(inputs):
            at, place = divmod(column, block)
            step = int(blocks.codes[row, at, place]) - int(blocks.zeros[row, at])
            values[row, column] = step * float(blocks.scales[row, at])
    return values


def matmul(grid: Grid, blocks: Blocks, inputs: int, level: int) -> ort.InferenceSession:
    """onnxruntime's own operator on the packed blocks."""
    stored = packed(blocks, grid)
    initializers = [numpy_helper.from_array(stored.codes, "q"), numpy_helper.from_array(stored.scales, "s")]
    if not grid.symmetric:
        initializers.append(numpy_helper.from_array(pack(stored.zeros, grid.bits), "z"))
    node = helper.make_node(
        "MatMulNBits",
        ["x", *(tensor.name for tensor in initializers)],
        ["y"],
        domain="com.microsoft",
        K=inputs,
        N=len(blocks.codes),
        bits=grid.bits,
        block_size=grid.block,
        accuracy_level=level,
    )
    made = models.model(
        [node],
        [models.value("x", ["b", inputs])],
        [models.value("y", ["b", len(blocks.codes)])],
        initializers,
        domains=[("com.microsoft", 1)],
    )
    return ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize(("bits", "block", "symmetric"), RUNS)
@pytest.mark.parametrize("inputs", [48, 300])
def test_onnxruntime_reads_the_layout(bits: int, block: int, symmetric: bool, inputs: int) -> None:
    grid = Grid(bits, block, symmetric)
    blocks = random_blocks(grid, 5, inputs)

    # The rows of a unit matrix give the weights themselves, one input a row.
    (found,) = matmul(grid, blocks, inputs, 0).run(None, {"x": np.eye(inputs, dtype=np.float32)})

    np.testing.assert_allclose(found.T, plain_values(blocks, inputs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("bits", "block", "symmetric"), RUNS)
def test_its_int8_arithmetic_stays_near(bits: int, block: int, symmetric: bool) -> None:
    grid, inputs = Grid(bits, block, symmetric), 256
    blocks = random_blocks(grid, 24, inputs)
    rows = np.random.default_rng(1).standard_normal((4, inputs)).astype(np.float32)

    (found,) = matmul(grid, blocks, inputs, 4).run(None, {"x": rows})

    wanted = rows @ plain_values(blocks, inputs).T
    assert np.abs(found - wanted).max() < 0.03 * np.abs(wanted).max()


def test_three_bits_have_no_kernel() -> None:
    # The day that this fails, `bits_not_supported` has done its duty.
    node = helper.make_node(
        "MatMulNBits", ["x", "q", "s"], ["y"], domain="com.microsoft", K=32, N=4, bits=3, block_size=32
    )
    made = models.model(
        [node],
        [models.value("x", ["b", 32])],
        [models.value("y", ["b", 4])],
        [models.tensor("q", np.zeros((4, 1, 12)), np.uint8), models.tensor("s", np.ones((4, 1)))],
        domains=[("com.microsoft", 1)],
    )

    with pytest.raises(Exception, match="2b, 4b and 8b"):
        ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


@given(codes=arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 19))), bits=st.sampled_from([2, 4, 8]))
def test_packing_puts_the_first_code_into_the_lowest_bits(codes: Array, bits: int) -> None:
    codes = codes & ((1 << bits) - 1)
    each = 8 // bits

    made = pack(codes, bits)

    for row, bytes_ in zip(codes, made, strict=True):
        for at, byte in enumerate(bytes_):
            assert byte == sum(
                int(code) << (bits * place) for place, code in enumerate(row[at * each : at * each + each])
            )
    assert np.array_equal(unpack(made, bits, codes.shape[1]), codes)


@given(rows=arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 70)), elements=st.floats(-9, 9, width=32)))
def test_splitting_fills_with_zeros_and_joining_undoes_it(rows: Array) -> None:
    made = split(rows, 16)

    assert made.shape == (len(rows), -(-rows.shape[1] // 16), 16)
    assert not made.reshape(len(rows), -1)[:, rows.shape[1] :].any()
    assert np.array_equal(joined(made, rows.shape[1]), rows)


@settings(max_examples=50)
@given(
    row=arrays(np.float32, 16, elements=st.floats(-8, 8, width=32)),
    scale=st.floats(0.125, 2, width=32),
    zero=st.integers(0, 15),
)
def test_codes_are_the_nearest(row: Array, scale: float, zero: int) -> None:
    grid = Grid(4, 16, False)

    (made,) = encode(
        row.reshape(1, 1, 16), np.array([[scale]], dtype=np.float32), np.array([[zero]], dtype=np.uint8), grid
    )[0]

    for weight, code in zip(row, made, strict=True):
        errors = [abs((other - zero) * scale - float(weight)) for other in range(16)]
        assert abs((int(code) - zero) * scale - float(weight)) <= min(errors) + 1e-5


def test_types_that_numbers_of_bits_need_are_known_to_onnx() -> None:
    assert {TensorProto.UINT2, TensorProto.UINT4} <= set(TensorProto.DataType.values())
