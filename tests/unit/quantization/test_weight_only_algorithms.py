"""Every algorithm against a slow and plain reference of its aim."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from app.domain.recipe import WeightOnly
from tests.parts.models import Array
from workers.quantization.weight_only.awq import channel_scales, scaled_error
from workers.quantization.weight_only.blocks import Blocks, Grid, joined, split
from workers.quantization.weight_only.choices import resolve
from workers.quantization.weight_only.gptq import Effort, gptq, layer_error, trusted
from workers.quantization.weight_only.hqq import hqq
from workers.quantization.weight_only.mse import mse
from workers.quantization.weight_only.rtn import rtn
from workers.quantization.weight_only.statistics import quieted

GRIDS = [Grid(bits, 16, symmetric) for bits in (2, 4, 8) for symmetric in (True, False)]
weights = arrays(np.float32, (2, 2, 16), elements=st.floats(-4, 4, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3))


def squared(blocks: Blocks, rows: Array) -> Array:
    """Squared error a block, each square weighed by |w| + rms of the block."""
    weights = np.abs(rows) + np.sqrt((rows.astype(np.float64) ** 2).mean(axis=-1, keepdims=True))
    return (weights * (blocks.values().astype(np.float64) - rows) ** 2).sum(axis=-1)


def plain_rtn(block: Array, grid: Grid) -> Array:
    """Round to nearest, one weight after another, in float64."""
    low, high = min(0.0, float(block.min())), max(0.0, float(block.max()))
    if grid.symmetric:
        end = low if -low >= high else high
        scale, zero = end / -grid.middle or 1.0, grid.middle
    else:
        scale = (high - low) / grid.most or 1.0
        zero = round(-low / scale)
    return np.array([(min(max(round(float(w) / scale) + zero, 0), grid.most) - zero) * scale for w in block])


@settings(max_examples=40, deadline=None)
@given(rows=weights, grid=st.sampled_from(GRIDS))
def test_rtn_is_as_near_as_the_plain_one(rows: Array, grid: Grid) -> None:
    made = rtn(rows, grid).values()

    for row, other in zip(rows.reshape(-1, 16), made.reshape(-1, 16), strict=True):
        wanted = ((plain_rtn(row, grid) - row) ** 2).sum()
        # Ties may go either way in float32.
        assert ((other - row) ** 2).sum() <= wanted * 1.01 + 1e-5


@settings(max_examples=40, deadline=None)
@given(rows=weights, grid=st.sampled_from(GRIDS))
def test_mse_is_never_worse_than_rtn(rows: Array, grid: Grid) -> None:
    assert (squared(mse(rows, grid), rows) <= squared(rtn(rows, grid), rows) * 1.0001 + 1e-9).all()


def test_mse_finds_what_an_exhaustive_search_finds() -> None:
    grid, rows = Grid(4, 16, False), np.random.default_rng(0).standard_normal((1, 30, 16)).astype(np.float32)

    found = squared(mse(rows, grid), rows)[0]

    best = [min(_errors_of_scales(row)) for row in rows[0].astype(np.float64)]
    assert found.sum() < 1.12 * sum(best)
    assert squared(rtn(rows, grid), rows).sum() > 1.1 * sum(best)


def _errors_of_scales(row: Array) -> list[float]:
    reach = row.max() - row.min()
    weights = np.abs(row) + np.sqrt((row**2).mean())
    return [
        float((weights * ((np.clip(np.rint(row / scale) + zero, 0, 15) - zero) * scale - row) ** 2).sum())
        for scale in reach / 15 * np.linspace(0.4, 1.1, 71)
        for zero in range(16)
    ]


def test_mse_heeds_importance() -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((8, 2, 16)).astype(np.float32)
    importance = np.ones((2, 16), dtype=np.float32)
    importance[:, 3] = 1000

    plain, weighted = mse(rows, Grid(2, 16, False)), mse(rows, Grid(2, 16, False), importance)

    def error(made: Blocks) -> float:
        return float((importance * (made.values() - rows) ** 2).sum())

    assert error(weighted) < 0.5 * error(plain)


@settings(max_examples=40, deadline=None)
@given(rows=weights, grid=st.sampled_from(GRIDS))
def test_hqq_never_has_more_of_its_norm_than_rtn(rows: Array, grid: Grid) -> None:
    def norm(made: Blocks) -> Array:
        return (np.abs(made.values().astype(np.float64) - rows) ** 0.7).sum(axis=-1)

    assert (norm(hqq(rows, grid)) <= norm(rtn(rows, grid)) * 1.001 + 1e-3).all()


def test_hqq_gives_up_an_outlier_for_the_others() -> None:
    rows = np.random.default_rng(0).standard_normal((20, 1, 64)).astype(np.float32)
    rows[:, :, 0] = 6
    grid = Grid(2, 64, False)

    def off(made: Blocks) -> Array:
        return np.abs(made.values() - rows)

    found, nearest = off(hqq(rows, grid)), off(rtn(rows, grid))
    assert np.median(found[:, :, 1:]) < 0.8 * np.median(nearest[:, :, 1:])
    assert found[:, :, 0].mean() > nearest[:, :, 0].mean()


@pytest.mark.parametrize("algorithm", [rtn, mse, hqq])
@pytest.mark.parametrize("grid", GRIDS)
def test_blocks_of_zeros_stay_zeros(algorithm: object, grid: Grid) -> None:
    made = algorithm(np.zeros((3, 2, 16), dtype=np.float32), grid)  # type: ignore[operator]

    assert not made.values().any()


def correlated(rows: int, inputs: int, seed: int = 0) -> Array:
    """Calibration rows of a few directions and some noise, with one large input."""
    rng = np.random.default_rng(seed)
    found = rng.standard_normal((rows, 6)) @ rng.standard_normal((6, inputs)) + 0.3 * rng.standard_normal(
        (rows, inputs)
    )
    found[:, 5] *= 8
    return found.astype(np.float32)


def layer(seed: int = 0, outputs: int = 24, inputs: int = 80) -> tuple[Array, Array]:
    """Weights and the second moments of what they multiply."""
    rows = np.random.default_rng(seed).standard_normal((outputs, inputs)).astype(np.float32)
    inputs_seen = correlated(400, inputs, seed)
    return rows, inputs_seen.T @ inputs_seen / np.float32(len(inputs_seen))


def plain_gptq(rows: Array, hessian: Array, start: Blocks, grid: Grid, damping: float) -> Array:
    """Frantar et al. 2023 in its first form (their equations 2 and 3): the inverse is updated column by column."""
    inputs = rows.shape[1]
    damped = hessian.astype(np.float64) + damping * np.diag(hessian).mean() * np.eye(inputs)
    order = list(np.argsort(-np.diag(damped), kind="stable"))
    wanted, made = rows.astype(np.float64).copy(), np.zeros(rows.shape)
    inverse = np.linalg.inv(damped)
    left = list(range(inputs))
    for column in order:
        block = column // grid.block
        scale, zero = start.scales[:, block].astype(np.float64), start.zeros[:, block].astype(np.float64)
        made[:, column] = (np.clip(np.rint(wanted[:, column] / scale) + zero, 0, grid.most) - zero) * scale
        error = (wanted[:, column] - made[:, column]) / inverse[column, column]
        for other in left:
            if other != column:
                wanted[:, other] -= error * inverse[column, other]
        inverse = inverse - np.outer(inverse[:, column], inverse[column]) / inverse[column, column]
        left.remove(column)
    return made


@pytest.mark.parametrize("grid", [Grid(4, 16, False), Grid(4, 32, True), Grid(2, 16, False)])
def test_gptq_without_descent_is_the_plain_one(grid: Grid) -> None:
    rows, hessian = layer()
    damped = trusted(hessian, Effort(0.01, 0.0))
    start = mse(split(rows, grid.block), grid, split(np.diag(damped)[None].copy(), grid.block)[0])

    made = joined(gptq(rows, hessian, grid, Effort(0.01, 0.0, 0)).values(), rows.shape[1])

    wanted = plain_gptq(rows, hessian, start, grid, 0.01)
    # A tie may fall otherwise in float32, and changes what comes after in that row.
    same = np.isclose(made, wanted, atol=1e-4).all(axis=1)
    assert same.mean() > 0.9


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 1000), grid=st.sampled_from([Grid(4, 16, False), Grid(4, 16, True), Grid(2, 32, False)]))
def test_each_round_of_descent_lowers_the_error(seed: int, grid: Grid) -> None:
    rows, hessian = layer(seed)
    damped = trusted(hessian, Effort(0.05, 0.0))

    errors = [layer_error(rows, gptq(rows, hessian, grid, Effort(0.05, 0.0, rounds)), damped) for rounds in range(4)]

    assert all(after <= before * 1.0001 for before, after in itertools.pairwise(errors))
    assert errors[-1] < errors[0]


def test_gptq_beats_the_clip_search_on_rows_that_it_has_not_seen() -> None:
    rows, hessian = layer()
    seen = correlated(400, 80, seed=0)
    fresh = seen[::2] + 0.1 * np.random.default_rng(9).standard_normal((200, 80)).astype(np.float32)
    moments = fresh.T @ fresh
    grid = Grid(4, 16, False)

    assert layer_error(rows, gptq(rows, hessian, grid), moments) < 0.5 * layer_error(
        rows, mse(split(rows, 16), grid), moments
    )


def test_inputs_that_were_never_seen_are_rounded_to_nearest() -> None:
    rows, _ = layer()
    grid = Grid(4, 16, False)

    made = gptq(rows, np.zeros((80, 80), dtype=np.float32), grid, Effort(rounds=0))

    assert np.array_equal(made.codes, mse(split(rows, 16), grid, np.ones((5, 16), dtype=np.float32)).codes)


def test_awq_finds_scales_that_lose_less() -> None:
    rows, hessian = layer()
    grid = Grid(4, 16, False)

    scales = channel_scales([(rows, grid)], hessian)

    assert scales[5] > 1.2 * np.median(scales)  # the large input
    none = scaled_error(rows, hessian, grid, np.ones(80, dtype=np.float32))
    assert scaled_error(rows, hessian, grid, scales) < 0.9 * none


def test_awq_scales_nothing_where_all_inputs_are_alike() -> None:
    rows, _ = layer()

    assert (channel_scales([(rows, Grid(4, 16, False))], np.eye(80, dtype=np.float32)) == 1).all()


@settings(max_examples=60, deadline=None)
@given(
    tokens=arrays(
        np.float32,
        st.tuples(st.integers(1, 7), st.integers(1, 3)),
        elements=st.floats(-1000, 1000, width=32).filter(lambda x: x == 0 or abs(x) > 1e-3),
    )
)
def test_no_token_counts_more_than_four_times_the_median(tokens: Array) -> None:
    made = quieted(tokens)

    most = 4 * sorted_median([sum(float(x) ** 2 for x in token) for token in tokens])
    for token, other in zip(tokens, made, strict=True):
        square = sum(float(x) ** 2 for x in token)
        factor = (most / square) ** 0.5 if square > most > 0 else 1.0
        np.testing.assert_allclose(other, token.astype(np.float64) * factor, rtol=1e-5)


def sorted_median(values: list[float]) -> float:
    ordered = sorted(values)
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


@pytest.mark.parametrize("bits", [2, 4])
@pytest.mark.parametrize("block", [16, 64, 256])
def test_rtn_takes_zero_points_by_itself_where_they_bring_it_nearer(bits: int, block: int) -> None:
    rows = np.random.default_rng(block).standard_normal((64, 1024 // block, block)).astype(np.float32)
    error = {kind: np.square(rtn(rows, Grid(bits, block, kind)).values() - rows).sum() for kind in (True, False)}
    chosen = resolve(WeightOnly.model_validate({"bits": bits, "algorithm": "rtn"}), frozenset()).symmetric
    assert isinstance(chosen, bool)
    assert error[chosen] < error[not chosen]
