"""Products of 8-bit matrices against VPMADDUBSW spelled out, one pair at a time."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from workers.quantization.emulation import arithmetic as emulated
from workers.quantization.emulation.arithmetic import multiply, prepare

Array = NDArray[Any]


def clamp(number: int) -> int:
    return min(max(number, -32768), 32767)


def slow(weights: Array, zero_point: Array, activations: Array, activation_zero: int, *, saturating: bool) -> Array:
    """Totals int32 [outputs, columns] and the number of pairs that saturated, by plain integers."""
    if activations.dtype == np.int8:
        activations, activation_zero = activations.astype(np.int32) + 128, activation_zero + 128
    totals, saturated = np.zeros((len(weights), activations.shape[1]), np.int64), 0
    for row, column in np.ndindex(*totals.shape):
        w = [int(number) for number in weights[row]]
        a = [int(number) for number in activations[:, column]]
        zero = int(zero_point.reshape(-1)[row % zero_point.size])
        products = [x * y for x, y in zip(w, a, strict=True)] + [0] * (len(w) % 2)
        sums = [one + other for one, other in zip(products[::2], products[1::2], strict=True)]
        if saturating and weights.dtype == np.int8:
            saturated += sum(clamp(pair) != pair for pair in sums)
            sums = [clamp(pair) for pair in sums]
        totals[row, column] = sum(sums) - activation_zero * sum(w) - zero * sum(a) + len(w) * activation_zero * zero
    return totals, saturated


def eight_bits(dtype: type) -> st.SearchStrategy[int]:
    """Numbers of a type, its ends often."""
    low, high = int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)
    return st.one_of(st.sampled_from([low, low + 1, high - 1, high]), st.integers(low, high))


@st.composite
def problems(draw: st.DrawFn) -> tuple[Array, Array, Array, int]:
    """Weights, their zero points, activations, their zero point."""
    outputs, reduction, columns = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    kind, other = draw(st.sampled_from([np.int8, np.uint8])), draw(st.sampled_from([np.uint8, np.int8]))
    weights = draw(arrays.arrays(kind, (outputs, reduction), elements=eight_bits(kind)))
    zero_point = draw(arrays.arrays(kind, draw(st.sampled_from([1, outputs])), elements=eight_bits(kind)))
    activations = draw(arrays.arrays(other, (reduction, columns), elements=eight_bits(other)))
    return weights, zero_point, activations, draw(eight_bits(other))


@given(problems())
def test_saturating_sums_are_those_of_the_instruction(problem: tuple[Array, Array, Array, int]) -> None:
    weights, zero_point, activations, zero = problem
    made = multiply(prepare(weights, zero_point), activations, zero, "saturating")
    totals, saturated = slow(weights, zero_point, activations, zero, saturating=True)
    exact, _ = slow(weights, zero_point, activations, zero, saturating=False)
    assert np.array_equal(made.totals, totals)
    assert made.saturated == saturated
    assert made.pairs == totals.size * -(-weights.shape[1] // 2)
    assert np.array_equal(exact, made.totals + (0 if made.excess is None else made.excess))


@given(problems())
def test_exact_sums_are_those_of_integers(problem: tuple[Array, Array, Array, int]) -> None:
    weights, zero_point, activations, zero = problem
    made = multiply(prepare(weights, zero_point), activations, zero, "exact")
    assert np.array_equal(made.totals, slow(weights, zero_point, activations, zero, saturating=False)[0])
    assert made.excess is None
    assert made.saturated == 0


def test_long_sums_stay_exact_at_the_ends_of_the_types() -> None:
    weights = np.full((2, 5001), -128, np.int8)
    made = multiply(prepare(weights, np.zeros(1, np.int8)), np.full((5001, 1), 255, np.uint8), 0, "exact")
    assert made.totals.tolist() == [[-128 * 255 * 5001]] * 2


def test_7_bit_weights_never_saturate() -> None:
    weights = np.where(np.arange(64).reshape(2, 32) % 2, 64, -64).astype(np.int8)
    weights[0] = 64
    made = multiply(prepare(weights, np.zeros(1, np.int8)), np.full((32, 3), 255, np.uint8), 0, "saturating")
    assert made.excess is None
    assert made.totals[0].tolist() == [64 * 255 * 32] * 3


def test_blocks_of_pairs_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(-128, 128, (7, 40)).astype(np.int8)
    activations = rng.integers(128, 256, (40, 11)).astype(np.uint8)
    whole = multiply(prepare(weights, np.zeros(1, np.int8)), activations, 3, "saturating")
    monkeypatch.setattr(emulated, "_BLOCK", 25)
    parts = multiply(prepare(weights, np.zeros(1, np.int8)), activations, 3, "saturating")
    assert whole.saturated == parts.saturated > 0
    assert np.array_equal(whole.totals, parts.totals)
