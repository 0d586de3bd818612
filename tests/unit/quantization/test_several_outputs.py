"""Steps on models with several outputs: none pays for another unseen, and one among many counts."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, helper

from tests.parts import models
from tests.unit.quantization.conftest import Feeds
from tests.unit.quantization.plans import planned
from workers.quantization.qdq.plan import Plan
from workers.quantization.recovery.ladder import climb, judge_for, rung_of, told
from workers.quantization.recovery.material import Material
from workers.quantization.recovery.measuring import Judge, decibels, level_db

WIDE = 32


def two_heads() -> ModelProto:
    """Two products of one activation, each an output."""
    return models.model(
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], name="shared"),
            helper.make_node("MatMul", ["h", "wa"], ["a"], name="first"),
            helper.make_node("MatMul", ["h", "wb"], ["b"], name="second"),
        ],
        [models.value("x", ["batch", WIDE])],
        [models.value("a", None), models.value("b", None)],
        [models.weights("w", WIDE, WIDE), models.weights("wa", WIDE, 8, seed=2), models.weights("wb", WIDE, 8, seed=3)],
    )


def coarsened(plan: Plan, node: str, times: float) -> Plan:
    """A plan in which a product's weights have steps so many times as large."""
    place = (node, 1)
    affine = plan.weights[place]
    return replace(
        plan, weights=plan.weights | {place: replace(affine, scale=(affine.scale * times).astype("float32"))}
    )


def one_among_many(count: int = 60) -> ModelProto:
    """A head behind a normalization with a somewhat larger channel, and many outputs that are exact."""
    gain = np.ones(WIDE)
    gain[5] = 1.4
    others = [helper.make_node("Sin", ["x"], [f"y{index}"], name=f"y{index}") for index in range(count - 1)]
    return models.model(
        [
            helper.make_node("LayerNormalization", ["x", "gain"], ["n"], name="norm", axis=-1),
            helper.make_node("MatMul", ["n", "v"], ["one"], name="one"),
            *others,
        ],
        [models.value("x", ["batch", WIDE])],
        [models.value("one", None), *(models.value(node.output[0], None) for node in others)],
        [models.tensor("gain", gain), models.weights("v", WIDE, 8)],
        opset=17,
    )


def rows(count: int, seed: int = 0) -> list[Feeds]:
    rng = np.random.default_rng(seed)
    return [{"x": rng.standard_normal((8, WIDE)).astype(np.float32)} for _ in range(count)]


@pytest.fixture
def heads(tmp_path: Path) -> tuple[Plan, Material, Judge]:
    """A plan whose first head is rough, so that there is something to gain."""
    plan, material = planned(two_heads(), rows(16), tmp_path)
    return coarsened(plan, "first", 16.0), material, judge_for(plan, material)


@pytest.mark.parametrize(("times", "kept"), [(8.0, False), (1.0, True)])
def test_a_step_that_one_output_pays_for_is_undone(
    heads: tuple[Plan, Material, Judge], monkeypatch: pytest.MonkeyPatch, times: float, kept: bool
) -> None:
    """The first head gains a little more than the second one loses."""
    plan, material, judge = heads
    monkeypatch.setattr(
        "workers.quantization.recovery.ladder._step",
        lambda _: lambda plan, _: coarsened(coarsened(plan, "first", 1 / 16), "second", times),
    )

    climbed = climb(plan, material, ["clip_search"], judge)

    (rung,) = climbed.rungs
    (a, less_rough), (b, rougher) = rung.outputs_db["a"], rung.outputs_db["b"]
    assert less_rough > a + 5
    assert (rougher < b - 5) is not kept
    assert rung.after_db is not None
    assert rung.after_db > rung.before_db + 0.05, "the mean alone would keep it either way"
    assert rung.kept is kept
    assert kept or rung.reason == f"undone: the SQNR of 'b' would fall from {b:.1f} to {rougher:.1f} dB"
    assert climbed.fidelity.outputs_db["b"] == pytest.approx(b, abs=0.01)


def test_of_two_results_the_one_that_no_output_pays_for_is_taken(
    heads: tuple[Plan, Material, Judge], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one, with biases corrected, has the better mean."""
    plan, material, judge = heads
    found = [
        coarsened(coarsened(plan, "first", 1 / 16), "second", 8.0),
        coarsened(plan, "first", 1 / 1.2),
    ]
    monkeypatch.setattr("workers.quantization.recovery.ladder._taken", lambda *_: iter(found))
    assert judge.fidelity(found[0]).output_db > judge.fidelity(found[1]).output_db

    climbed = climb(plan, material, ["clip_search"], judge)

    assert climbed.plan is found[1]
    assert climbed.rungs[0].kept


def test_what_one_output_among_many_gains_is_kept_and_told(tmp_path: Path) -> None:
    plan, material = planned(one_among_many(), rows(16), tmp_path, bits=6)
    climbed = climb(plan, material, ["smoothquant"], judge_for(plan, material))

    (rung,) = climbed.rungs
    assert rung.after_db is not None
    assert rung.after_db < rung.before_db + 0.05, "the mean alone would have undone it"
    before, after = rung.outputs_db["one"]
    assert after > before + 0.5
    assert rung.kept
    assert f"of 'one' {before:.1f} → {after:.1f} dB." in told(rung)
    assert climbed.fidelity.outputs_db["one"] == pytest.approx(after, abs=0.01)


def test_every_output_is_measured_by_its_name(tmp_path: Path) -> None:
    plan, material = planned(two_heads(), rows(4), tmp_path)
    found = judge_for(plan, material).fidelity(plan)
    assert list(found.outputs_db) == ["a", "b"]
    assert max(found.outputs_db.values()) < 40
    assert found.output_db == pytest.approx(np.mean([*found.outputs_db.values()]))
    each = Judge(plan.model, [], [dict(row) for row, _ in material.feeds()], tmp_path).fidelity(plan)
    assert each.outputs_db == found.outputs_db


def test_an_output_that_is_zero_all_along_has_no_say(tmp_path: Path) -> None:
    """Whether its zeros stay zeros moves nothing but its own figure, by hundreds of decibels."""
    model = two_heads()
    for tensor in model.graph.initializer:
        if tensor.name == next(node for node in model.graph.node if "b" in node.output).input[1]:
            tensor.CopyFrom(models.tensor(tensor.name, np.zeros(tuple(tensor.dims))))
    plan, material = planned(model, rows(4), tmp_path)
    found = judge_for(plan, material).fidelity(plan)
    assert found.outputs_db["b"] == 200
    told_of = decibels(["a", "b"], np.array([[4.0, 1.0], [0.0, 1e-9]]))
    assert told_of == pytest.approx({"a": 10 * np.log10(4), "b": 90})
    assert not rung_of("smoothing", told_of, told_of | {"b": 200.0}).kept
    assert not rung_of("smoothing", told_of | {"b": 200.0}, told_of).kept
    noisy = decibels(["a", "b"], np.array([[8.0, 1.0], [0.0, 1e9]]))
    assert rung_of("smoothing", told_of, noisy).reason == "undone: the SQNR of 'b' would fall from 90.0 to -90.0 dB"


@given(st.lists(st.floats(-200, 200), min_size=2, max_size=6), st.integers(0, 5), st.floats(0, 100))
def test_the_figure_of_all_never_falls_where_one_comes_nearer(levels: list[float], place: int, by: float) -> None:
    before = {str(number): value for number, value in enumerate(levels)}
    after = before | {str(place % len(levels)): before[str(place % len(levels))] + by}
    assert level_db(after) >= level_db(before) - 1e-9
    assert min(levels) <= level_db(before) + 1e-9
    assert level_db(before) <= max(40.0, min(levels))


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        ((20.0,), (20.05,), True),
        ((20.0,), (20.04,), False),
        ((60.0,), (60.05,), True),
        ((60.0,), (39.0,), False),
        ((10.0, 32.0), (14.0, 31.6), True),  # less than half a dB is chance
        ((10.0, 32.0), (12.0, 31.2), False),  # more than half a dB, and than the mean gains
        ((10.0, 32.0), (20.0, 31.0), True),  # one that is useless becomes useful for little
        ((10.0, 32.0), (13.0, 28.0), False),
        ((10.0, 60.0), (11.0, 50.0), True),  # beyond what anybody sees
        ((10.0, 41.0), (10.2, 39.0), False),
        ((10.0, 200.0), (10.2, 140.0), True),
        ((90.0, 200.0), (90.2, 140.0), True),  # where all are near, the least one counts
        ((90.0, 200.0), (90.0, 201.0), False),
        ((130.0, 30.0, 30.0), (200.0, 29.6, 29.6), False),  # what is exact does not pay for what is not
        ((200.0, 30.0), (45.0, 30.2), True),
        ((-200.0, 30.0), (-90.0, 29.9), False),  # what is lost stays lost
        ((20.0, 0.4), (20.5, -200.0), False),
        ((16.1, -1.0), (17.6, -9.1), False),
        ((-15.0, -15.0), (-1.0, -1.0), True),
        ((39.0, 50.0), (60.0, 41.0), True),
        ((41.0, 60.0), (39.0, 200.0), False),
        ((70.0, 80.0), (71.0, 80.0), True),
        ((20.0,) * 60, (22.0, *(20.0,) * 59), True),
        ((20.0,) * 60, (22.0, *(19.9,) * 59), False),  # all the others pay
        ((20.0,) * 60, (20.04,) * 60, False),
        ((), (), False),
    ],
)
def test_what_is_worth_it(before: tuple[float, ...], after: tuple[float, ...], kept: bool) -> None:
    named = [{f"y{place}": value for place, value in enumerate(of)} for of in (before, after)]
    rung = rung_of("smoothquant", *named)
    assert rung.kept is kept
    assert (rung.reason is None) is kept
    assert bool(rung.outputs_db) is (len(before) > 1)


def test_who_gains_most_is_told_and_who_loses() -> None:
    before, after = {"a": 10.0, "b": 32.0, "c": 20.0}, {"a": 20.0, "b": 31.0, "c": 21.0}
    gains = "Smoothing: SQNR of the outputs 20.7 → 24.0 dB taken together, of 'a' 10.0 → 20.0 dB"
    assert told(rung_of("smoothing", before, after)) == f"{gains}, of 'b' 32.0 → 31.0 dB."
    assert told(rung_of("smoothing", before, after | {"b": 32.0})).endswith("taken together, of 'a' 10.0 → 20.0 dB.")


def test_gains_are_told_beyond_what_is_followed() -> None:
    rung = rung_of("smoothing", {"a": 60.0, "b": 41.0}, {"a": 45.0, "b": 45.0})
    assert told(rung).endswith("41.0 → 45.0 dB taken together, of 'b' 41.0 → 45.0 dB, of 'a' 60.0 → 45.0 dB.")


def test_one_output_is_told_as_the_outputs() -> None:
    assert told(rung_of("clip_search", {"y": 20.0}, {"y": 21.0})) == "Clip search: SQNR of the outputs 20.0 → 21.0 dB."
    undone = rung_of("clip_search", {"y": 20.0}, {"y": 20.02})
    assert undone.reason == "undone: the outputs' SQNR changed by +0.02 dB"
