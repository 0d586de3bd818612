"""The frontier: constraints as they are written, who beats whom, and what is best for sure."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.frontier import BadConstraint, choose, place, read_bound
from app.domain.metric import METRICS
from app.domain.variants import Data, Measured

LEVELS = st.sampled_from([0.25, 0.5, 1.0, 2.0])


def variant(
    name: str,
    *,
    latency: float = 1.0,
    size: float = 1.0,
    top1: float = 0.9,
    spread: float = 0.01,
    rows: float = 0.02,
    drop: tuple[float, float, float] | None = None,
) -> Measured:
    """A variant whose latency and size are multiples of the original's."""

    def measured(what: str, value: float, ci95: Any, unit: str, better: str) -> dict[str, Any]:
        return {"name": what, "value": value, "ci95": ci95, "unit": unit, "better": better, "conditions": {}}

    original = name == "original"
    compared = [
        {"name": "latency_p50", "ratio": latency, "ci95": [latency * (1 - spread), latency * (1 + spread)]},
        {"name": "artifact_bytes", "ratio": size, "ci95": None},
    ]
    return Measured(
        id=name,
        model="mdl_1",
        job="job_1",
        is_original=original,
        target="local",
        data=Data("evaluation", "dst_1", "digest"),
        measurements=[
            measured("latency_p50", 10 * latency, [9.9 * latency, 10.1 * latency], "ms", "lower"),
            measured("artifact_bytes", 1000 * size, None, "bytes", "lower"),
            measured("top1", top1, [top1 - rows, top1 + rows], "fraction", "higher"),
        ],
        comparisons=[] if original else compared,
        drops=[] if original or drop is None else [{"metric": "top1", "value": drop[0], "ci95": drop[1:]}],
    )


ORIGINAL = variant("original")


@pytest.mark.parametrize(
    ("text", "name", "is_drop", "at_most", "limit"),
    [
        ("top1>=0.9", "top1", False, False, 0.9),
        ("latency_p50<=5", "latency_p50", False, True, 5.0),
        ("latency<=5", "latency_p50", False, True, 5.0),
        ("size <= 1e6", "artifact_bytes", False, True, 1e6),
        ("max_drop:top1<=0.01", "top1", True, True, 0.01),
        ("max_drop:memory<=-1.5e3", "peak_memory", True, True, -1500.0),
    ],
)
def test_constraints_are_read(text: str, name: str, is_drop: bool, at_most: bool, limit: float) -> None:
    found = read_bound(text)

    assert (found.name, found.is_drop, found.at_most, found.limit, found.text) == (name, is_drop, at_most, limit, text)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "invalid_constraint"),
        ("top1", "invalid_constraint"),
        ("top1>0.9", "invalid_constraint"),
        ("top1=0.9", "invalid_constraint"),
        ("top1>=", "invalid_constraint"),
        ("top1>=nan", "invalid_constraint"),
        ("top1>=1e999", "invalid_constraint"),
        ("top1>=1-2", "invalid_constraint"),
        ("min_drop:top1<=0.1", "invalid_constraint"),
        ("max_drop:top1>=0.1", "invalid_constraint"),
        ("top1>=0.9;latency<=5", "invalid_constraint"),
        ("x" * 100_000 + ">=1", "invalid_constraint"),
        ("\0>=1", "invalid_constraint"),
        ("latncy<=5", "unknown_metric"),
        ("max_drop:tpo1<=0.1", "unknown_metric"),
    ],
)
def test_others_are_refused_with_a_code_and_advice(text: str, code: str) -> None:
    with pytest.raises(BadConstraint) as raised:
        read_bound(text)

    assert raised.value.code == code
    assert len(raised.value.detail) < 400


def test_near_names_are_offered() -> None:
    with pytest.raises(BadConstraint, match="Did you mean latency"):
        read_bound("latncy<=5")


@given(st.lists(st.tuples(LEVELS, LEVELS, LEVELS), max_size=6))
def test_pareto_is_what_nobody_beats(given_: list[tuple[float, float, float]]) -> None:
    made = [
        variant(f"v{number}", latency=latency, size=size, top1=accuracy / 2, spread=0.001)
        for number, (latency, size, accuracy) in enumerate(given_)
    ]
    original = variant("original", top1=0.5)
    placed, axes = place([original, *made], [])

    assert axes == ["latency_p50", "artifact_bytes", "top1"]
    points = [(1.0, 1.0, -0.5), *((latency, size, -accuracy / 2) for latency, size, accuracy in given_)]
    for mine, found in zip(points, placed, strict=True):
        beaten = any(
            all(other[axis] <= mine[axis] for axis in range(3)) and any(other[axis] < mine[axis] for axis in range(3))
            for other in points
        )
        assert found.pareto is not beaten


def test_faster_within_noise_is_not_faster() -> None:
    """As large and as accurate, and not surely faster: the original is not beaten, nor is the other."""
    placed, _ = place([ORIGINAL, variant("noisy", latency=0.97, spread=0.05)], [])

    assert [each.pareto for each in placed] == [True, True]
    placed, _ = place([ORIGINAL, variant("sure", latency=0.97, spread=0.01)], [])
    assert [each.pareto for each in placed] == [False, True]


@pytest.mark.parametrize(
    ("constraint", "standing"),
    [
        ("top1>=0.87", "met"),  # the interval is 0.88 to 0.92
        ("top1>=0.9", "undecided"),
        ("top1>=0.93", "missed"),
        ("top1<=0.93", "met"),
        ("latency<=10.1", "met"),
        ("latency<=10", "undecided"),
        ("latency<=9.8", "missed"),
        ("size<=1000", "met"),
        ("size<=999", "missed"),
        ("kl<=1", "unknown"),
        ("max_drop:top1<=0.03", "met"),  # the drop is 0.01 to 0.03
        ("max_drop:top1<=0.02", "undecided"),
        ("max_drop:top1<=0.005", "missed"),
        ("max_drop:latency<=0.1", "undecided"),  # 0.99 to 1.01 of 10 ms
        ("max_drop:latency<=0.11", "met"),
        ("max_drop:size<=0", "met"),
    ],
)
def test_a_constraint_is_met_where_the_whole_interval_is(constraint: str, standing: str) -> None:
    made = variant("made", drop=(0.02, 0.01, 0.03))
    placed, _ = place([ORIGINAL, made], [read_bound(constraint)])

    assert placed[1].standings == (standing,)


def following(metric: str, value: float, ci95: tuple[float, float] | None) -> Measured:
    """A variant of which only a metric is known that compares it with the original."""
    found = {"name": metric, "value": value, "ci95": ci95, "unit": "1", "better": METRICS[metric].better}
    return replace(variant("made"), measurements=[found])


@pytest.mark.parametrize(
    ("metric", "value", "ci95", "drop"),
    [
        ("agreement", 0.98, (0.97, 0.99), (0.01, 0.03)),
        ("next_token", 0.98, (0.97, 0.99), (0.01, 0.03)),
        ("cosine", 0.98, (0.97, 0.99), (0.01, 0.03)),
        ("kl", 0.02, (0.01, 0.03), (0.01, 0.03)),
        ("max_error", 0.02, None, (0.02, 1e9)),  # these rows' greatest: there may be greater ones
    ],
)
def test_fidelity_drops_from_what_the_original_has_compared_with_itself(
    metric: str, value: float, ci95: tuple[float, float] | None, drop: tuple[float, float]
) -> None:
    between = [drop[0] * 0.99, (drop[0] + drop[1]) / 2, drop[1] * 1.01]
    bounds = [read_bound(f"max_drop:{metric}<={limit:.6g}") for limit in between]
    placed, _ = place([ORIGINAL, following(metric, value, ci95)], bounds)

    assert placed[1].standings[:2] == ("missed", "undecided")
    assert placed[1].standings[2] == ("undecided" if metric == "max_error" else "met")
    assert placed[0].standings == ("met",) * 3, "the original itself drops by nothing"


def test_decibels_have_no_ideal_to_drop_from() -> None:
    placed, _ = place([ORIGINAL, following("sqnr_db", 30.0, (29.0, 31.0))], [read_bound("max_drop:sqnr_db<=1000")])

    assert placed[1].standings == ("unknown",)


@pytest.mark.parametrize("name", ["latency_p50", "latency_p99", "peak_memory", "top1"])
def test_a_value_without_an_interval_meets_nothing_and_misses_nothing(name: str) -> None:
    """A p99 of 25.6 ms that was pooled over processes, against 25.7 ms: nobody knows."""
    unit, better = ("fraction", "higher") if name == "top1" else ("ms", "lower")
    value = 0.256 if name == "top1" else 25.6
    pooled = {"name": name, "value": value, "ci95": None, "unit": unit, "better": better, "conditions": {}}
    alone = replace(variant("made"), measurements=[pooled])
    scale = 0.01 if name == "top1" else 1.0
    bounds = [read_bound(f"{name}{sign}{scale * limit:g}") for sign in ("<=", ">=") for limit in (25.7, 25.5)]
    placed, _ = place([alone], bounds)

    assert placed[0].standings == ("unknown",) * 4


def test_a_size_is_what_it_is() -> None:
    placed, _ = place([ORIGINAL], [read_bound("size<=1000"), read_bound("size<=999")])

    assert placed[0].standings == ("met", "missed")


def test_a_latency_without_an_interval_is_not_the_best() -> None:
    """It may be as little as any other, and more than all."""
    once = variant("once", latency=0.1)
    once = replace(once, comparisons=[{"name": "latency_p50", "ratio": 0.1, "ci95": None}])
    found = chosen([ORIGINAL, once, variant("sure", latency=0.8)])

    assert found.variant is not None
    assert found.variant.id == "sure"
    assert found.indistinguishable == (once,)


def test_two_results_of_one_file_have_each_their_own_costs() -> None:
    made, again = variant("art_1", latency=0.5), replace(variant("art_1", latency=2.0), comparisons=[])
    placed, _ = place([ORIGINAL, made, again], [])

    assert [each.costs["latency_p50"][0] for each in placed] == pytest.approx([1.0, 0.5, 2.0])
    assert [each.pareto for each in placed] == [False, True, False]


def test_what_was_measured_elsewise_is_no_cost() -> None:
    def at(length: int, one: Measured) -> Measured:
        shaped = [found | {"conditions": {"shapes": {"x": [1, length]}}} for found in one.measurements]
        return replace(one, measurements=shaped, comparisons=[])

    placed, axes = place([at(512, ORIGINAL), at(4, variant("short", latency=0.01))], [])

    assert set(placed[1].costs) == {"artifact_bytes"}
    assert "latency_p50" not in axes


@pytest.mark.parametrize("text", ["top1>=92", "max_drop:top1<=2", "agreement<=-5"])
def test_percents_are_not_fractions(text: str) -> None:
    with pytest.raises(BadConstraint, match="is a fraction from 0 to 1") as raised:
        read_bound(text)
    assert raised.value.code == "invalid_constraint"
    advice = raised.value.detail.rsplit(" ", 1)[1].removesuffix(".")
    assert abs(read_bound(advice).limit) < 1


@pytest.mark.parametrize("text", ["wer<=1.5", "top1>=1", "perplexity<=92", "max_drop:sqnr_db<=20"])
def test_what_may_exceed_one_may_be_bounded_there(text: str) -> None:
    assert read_bound(text).text == text


def test_the_greatest_error_of_some_rows_bounds_no_other_s() -> None:
    found = chosen([following("max_error", 0.02, None)], "max_error<=0.1")

    assert found.variant is None
    assert "no number of rows bounds it" in found.reason


def test_the_original_drops_by_nothing() -> None:
    placed, _ = place([ORIGINAL], [read_bound("max_drop:top1<=0"), read_bound("max_drop:latency<=0")])

    assert placed[0].standings == ("met", "met")


def chosen(variants: list[Measured], *constraints: str, minimize: Any = "latency") -> Any:
    bounds = [read_bound(text) for text in constraints]
    placed, _ = place(variants, bounds)
    return choose(placed, bounds, minimize)


def test_the_best_is_the_least_that_meets_all() -> None:
    fast = variant("fast", latency=0.5, size=0.9, top1=0.7)
    good = variant("good", latency=0.8, size=0.3, top1=0.89)

    assert chosen([ORIGINAL, fast, good]).variant is fast
    assert chosen([ORIGINAL, fast, good], "top1>=0.8").variant is good
    assert chosen([ORIGINAL, fast, good], minimize="size").variant is good
    assert chosen([ORIGINAL, fast, good], "top1>=0.88").variant is ORIGINAL


def test_luck_is_no_reason() -> None:
    """The lower median with the wider interval is not the sure one; both are told."""
    lucky, sure = variant("lucky", latency=0.6, spread=0.3), variant("sure", latency=0.65, spread=0.01)
    found = chosen([ORIGINAL, lucky, sure])

    assert found.variant is sure
    assert found.indistinguishable == (lucky,)


@pytest.mark.parametrize(
    ("constraints", "said"),
    [
        (["size<=1"], "No variant satisfies size<=1."),
        (["top1>=0.9"], "No variant is sure to satisfy top1>=0.9"),
        (["kl<=1"], "kl was not measured here"),
        (["size<=500", "top1>=0.85"], "no variant satisfies all"),
        (["f1>=0.9"], "No variant is known to satisfy f1>=0.9: of some, f1 was not measured"),
    ],
)
def test_where_none_is_best_the_reason_is_told(constraints: list[str], said: str) -> None:
    f1 = {"name": "f1", "value": 0.5, "ci95": [0.4, 0.6], "unit": "fraction", "better": "higher", "conditions": {}}
    original = replace(ORIGINAL, measurements=[*ORIGINAL.measurements, f1])
    found = chosen([original, variant("small", size=0.4, top1=0.5)], *constraints)

    assert found.variant is None
    assert said in found.reason
