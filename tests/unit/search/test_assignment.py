"""The integer program against trying everything."""

from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workers.search.assignment import (
    FLOAT,
    Assignment,
    Crossing,
    Option,
    Problem,
    SharedNoise,
    Solver,
    Unit,
    evaluated,
)

COST = st.integers(0, 20).map(float)


@st.composite
def problems(draw: st.DrawFn) -> Problem:
    names = [f"u{number}" for number in range(draw(st.integers(1, 5)))]
    units = tuple(
        Unit(
            name,
            (
                Option(FLOAT, draw(COST)),
                *(
                    Option(f"way{number}", draw(COST), draw(COST), draw(st.booleans()))
                    for number in range(draw(st.integers(0, 2)))
                ),
            ),
        )
        for name in names
    )
    some = st.lists(st.sampled_from(names), min_size=1, max_size=3, unique=True).map(tuple)
    crossings = draw(st.lists(st.builds(Crossing, st.sampled_from([None, *names]), some, COST), max_size=4))
    shared = draw(st.lists(st.builds(SharedNoise, some, COST), max_size=3))
    return Problem(units, tuple(crossings), tuple(shared))


def everything(problem: Problem) -> list[Assignment]:
    ways = [[option.name for option in unit.options] for unit in problem.units]
    names = [unit.name for unit in problem.units]
    return [evaluated(problem, dict(zip(names, chosen, strict=True))) for chosen in product(*ways)]


@given(problems(), st.integers(0, 60))
@settings(deadline=None)
def test_nothing_is_cheaper_with_so_little_noise(problem: Problem, most: int) -> None:
    found = Solver(problem).cheapest(float(most))
    assert found.noise <= most + 1e-6
    assert found.cost == pytest.approx(min(each.cost for each in everything(problem) if each.noise <= most))


@given(problems(), st.integers(0, 100))
@settings(deadline=None)
def test_nothing_is_quieter_at_that_cost(problem: Problem, most: int) -> None:
    found = Solver(problem).quietest(float(most))
    within = [each for each in everything(problem) if each.cost <= most]
    if found is None:
        assert not within
        return
    assert found.cost <= most + 1e-6
    assert found.noise == pytest.approx(min(each.noise for each in within), abs=1e-6)


@given(problems())
@settings(deadline=None, max_examples=50)
def test_the_curve_runs_from_the_cheapest_to_silence_and_holds_nothing_beaten(problem: Problem) -> None:
    curve = Solver(problem).curve(8)
    tried = everything(problem)
    assert curve[0].cost == pytest.approx(min(each.cost for each in tried))
    assert curve[-1].noise == 0
    assert all(one.cost < other.cost and one.noise > other.noise for one, other in pairwise(curve))
    for point in curve:
        assert not any(each.cost < point.cost - 1e-6 and each.noise < point.noise - 1e-6 for each in tried)


def test_an_island_that_costs_more_than_it_saves_stays_in_float() -> None:
    def unit(name: str, saved: float) -> Unit:
        return Unit(name, (Option(FLOAT, 5.0), Option("int8", 5.0 - saved, 0.1, integers=True)))

    apart = Problem((unit("a", 1.0),), (Crossing(None, ("a",), 0.7), Crossing("a", ("out",), 0.7)))
    assert Solver(apart).cheapest().options == {"a": FLOAT}
    row = tuple(unit(name, 1.0) for name in "abc")
    between = (Crossing(None, ("a",), 0.7), Crossing("a", ("b",), 0.7), Crossing("b", ("c",), 0.7))
    found = Solver(Problem(row, (*between, Crossing("c", ("out",), 0.7)))).cheapest()
    assert set(found.options.values()) == {"int8"}
    assert found.cost == pytest.approx(12 + 1.4)


def test_what_all_holders_must_leave_is_heard_until_the_last_does() -> None:
    units = tuple(Unit(name, (Option(FLOAT, 2.0), Option("int8", 1.0, 0.0, integers=True))) for name in "ab")
    solver = Solver(Problem(units, shared=(SharedNoise(("a", "b"), 3.0),)))
    assert solver.cheapest(2.9).options == {"a": FLOAT, "b": FLOAT}
    assert solver.cheapest(3.0).cost == 2.0


@pytest.mark.parametrize(
    "units",
    [
        (Unit("a", (Option("int8", 1.0),)),),
        (Unit("a", (Option(FLOAT, 1.0), Option(FLOAT, 2.0))),),
        (Unit("a", (Option(FLOAT, 1.0),)), Unit("a", (Option(FLOAT, 1.0),))),
    ],
)
def test_a_problem_that_is_none_is_refused(units: tuple[Unit, ...]) -> None:
    with pytest.raises(ValueError, match="needs a name of its own"):
        Solver(Problem(units))
