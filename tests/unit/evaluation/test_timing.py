"""Warm-up, planning and alternation, on an invented clock."""

import gc
from collections.abc import Collection

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.evaluation.timing import (
    CALLS_A_BLOCK,
    Plan,
    alternate,
    no_garbage_collection,
    plan_blocks,
    warm_up,
)


class InventedModel:
    """Takes the milliseconds that are due on a clock of its own, and remembers who called with what."""

    def __init__(self, *milliseconds: float) -> None:
        self.now = 0
        self.calls: list[tuple[str, int]] = []
        self._due = milliseconds

    def clock(self) -> int:
        return self.now

    def run(self, index: int, who: str = "") -> None:
        due = self._due[min(len(self.calls), len(self._due) - 1)]
        self.calls.append((who, index))
        self.now += int(due * 1e6)


class Watched:
    """A window that remembers when it was told what, and does not trust some blocks."""

    def __init__(self, model: InventedModel, bad_blocks: Collection[int] = ()) -> None:
        self.seen: list[tuple[int, int]] = []
        self._model = model
        self._bad_blocks = bad_blocks
        self._blocks = 0

    def begin(self, session: int) -> None:
        self.seen.append((session, len(self._model.calls)))

    def end(self, session: int, calls: int) -> bool:
        self.seen.append((session, len(self._model.calls)))
        self._blocks += 1
        return self._blocks - 1 not in self._bad_blocks


def test_warm_up_ends_when_the_drift_does() -> None:
    falling = [20 * 0.9**call + 1 for call in range(60)]
    model = InventedModel(*falling, 1.0)
    warm = warm_up(model.run, seconds=10, clock=model.clock)
    assert warm.settled
    assert warm.calls == len(model.calls) > 40
    assert warm.call_ms == pytest.approx(1.0, abs=0.1)


def test_a_steady_model_is_warm_soon() -> None:
    model = InventedModel(2.0)
    warm = warm_up(model.run, seconds=10, clock=model.clock)
    assert warm.settled
    assert warm.seconds < 0.05


def test_a_model_that_never_settles_is_given_up() -> None:
    model = InventedModel(*(100 * 1.05**call for call in range(400)))
    warm = warm_up(model.run, seconds=3, clock=model.clock)
    assert not warm.settled
    assert warm.seconds < 5


def test_a_slow_model_is_called_three_times_at_least() -> None:
    model = InventedModel(4000.0)
    warm = warm_up(model.run, seconds=1, clock=model.clock)
    assert warm.calls == 3
    assert warm.call_ms == 4000


@given(first=st.floats(1e-3, 1e4), second=st.floats(1e-3, 1e4), seconds=st.floats(0.05, 60))
def test_blocks_are_never_short_and_time_is_kept(first: float, second: float, seconds: float) -> None:
    plan = plan_blocks(first, second, seconds)
    slower = max(first, second)
    assert plan.rounds >= 1
    assert plan.rounds == 1 or plan.rounds % 2 == 0
    if slower <= 250:
        assert plan.calls >= CALLS_A_BLOCK
    else:
        assert plan.calls == 3 or plan.calls * slower <= 5000
    assert plan.rounds * plan.calls <= 2000
    if plan.rounds > 1:
        assert plan.rounds * plan.calls * (first + second) <= 1000 * seconds


def test_a_hundred_milliseconds_a_call_take_one_round_of_twenty() -> None:
    plan = plan_blocks(100, 100, 1.2)
    assert (plan.rounds, plan.calls) == (1, 20)


def test_a_cheap_model_gets_longer_blocks_and_many_rounds() -> None:
    plan = plan_blocks(0.05, 0.06, 1.2)
    assert plan.calls * 0.06 >= 4
    assert plan.rounds >= 10


@pytest.mark.parametrize("second_leads", [False, True])
def test_the_order_is_reversed_each_round(second_leads: bool) -> None:
    model = InventedModel(1.0)
    alternate(
        lambda index: model.run(index, "A"),
        lambda index: model.run(index, "B"),
        Plan(rounds=3, calls=4),
        second_leads=second_leads,
        clock=model.clock,
    )
    sequence = [who for who, _ in model.calls]
    blocks = [sequence[start] for start in range(0, len(sequence), 6)]  # two of six calls are not counted
    assert blocks == list("BAABBA" if second_leads else "ABBAAB")
    assert all(len(set(sequence[start : start + 6])) == 1 for start in range(0, len(sequence), 6))


def test_both_get_the_same_feeds_in_a_round() -> None:
    model = InventedModel(1.0)
    alternate(lambda index: model.run(index, "A"), lambda index: model.run(index, "B"), Plan(4, 5), clock=model.clock)
    feeds = {who: [index for caller, index in model.calls if caller == who] for who in "AB"}
    assert feeds["A"] == feeds["B"]


def test_a_series_that_takes_longer_than_planned_ends_after_both_orders() -> None:
    model = InventedModel(100.0)
    blocks = alternate(model.run, model.run, Plan(rounds=40, calls=20, seconds=6.0), clock=model.clock)
    assert len(blocks.first) == len(blocks.second) == 2


def test_the_first_calls_of_a_block_are_not_counted() -> None:
    """What the other session left in the caches would be every p99 otherwise."""
    model = InventedModel(*([9.0, 9.0, 1.0, 1.0, 1.0] * 4))
    blocks = alternate(model.run, model.run, Plan(rounds=2, calls=3), clock=model.clock)
    assert blocks.first == blocks.second == [[1.0, 1.0, 1.0]] * 2


def test_the_meter_is_read_around_counted_calls_only() -> None:
    model = InventedModel(1.0)
    window = Watched(model)
    alternate(model.run, model.run, Plan(1, 3), clock=model.clock, window=window)
    assert window.seen == [(0, 2), (0, 5), (1, 7), (1, 10)]


def test_a_disturbed_round_is_timed_again() -> None:
    model = InventedModel(1.0)
    window = Watched(model, bad_blocks={2})
    blocks = alternate(model.run, model.run, Plan(4, 3), clock=model.clock, window=window)
    assert len(blocks.first) == len(blocks.second) == 4
    assert blocks.repeated == 1
    assert len(model.calls) == 5 * 2 * (3 + 2)


def test_what_is_disturbed_most_of_the_time_is_kept_and_not_timed_for_ever() -> None:
    model = InventedModel(1.0)
    window = Watched(model, bad_blocks=set(range(1_000)))
    blocks = alternate(model.run, model.run, Plan(4, 3), clock=model.clock, window=window)
    assert len(blocks.first) == len(blocks.second) == 8
    assert (blocks.repeated, blocks.doubtful) == (0, 8)


def test_a_steady_series_ends_once_it_is_known_well() -> None:
    model = InventedModel(*np.random.default_rng(0).normal(1.0, 0.01, 100_000))
    few = alternate(model.run, model.run, Plan(64, 20), clock=model.clock, width=0.02)
    assert 140 <= 20 * len(few.first) < 400
    assert len(few.first) % 2 == 0
    scattered = InventedModel(*np.random.default_rng(0).normal(1.0, 0.2, 100_000))
    many = alternate(scattered.run, scattered.run, Plan(64, 20), clock=scattered.clock, width=0.02)
    assert len(many.first) == 64


def test_samples_are_milliseconds_to_the_nanosecond() -> None:
    model = InventedModel(0.123457)
    blocks = alternate(model.run, model.run, Plan(1, 1), clock=model.clock)
    assert blocks.first == [[0.123457]]


def test_the_collector_is_off_inside_only() -> None:
    assert gc.isenabled()
    with no_garbage_collection():
        assert not gc.isenabled()
    assert gc.isenabled()
