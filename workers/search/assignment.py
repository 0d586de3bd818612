"""Which precision each unit of a model gets: the least cost for so much noise, and the whole curve of it.

An integer program (scipy's `milp`, which is HiGHS). Costs are measured milliseconds or bytes. A unit that changes
between floats and integers pays for the conversion of the tensor between; noise that several units cause is there as
soon as one of them does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

FLOAT = "float"
"""The option of staying as it is, which every unit has."""

_GAP = 1e-4  # of the cost: far below what measured times are good for
_SECONDS = 10.0  # for one program; the best found until then is taken


@dataclass(frozen=True, slots=True)
class Option:
    """One way to compute a unit: its cost in ms or bytes, and the power of the noise that it alone adds at the outputs,
    as a share of their signal. `integers` says whether the unit reads and makes integers."""

    name: str
    cost: float
    noise: float = 0.0
    integers: bool = False


@dataclass(frozen=True, slots=True)
class Unit:
    """What is computed in one precision: an operator, with those that are fused into it."""

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True, slots=True)
class Crossing:
    """A tensor from `maker` (None: an input of the model, in float) to its readers, and what converting it costs.

    It is paid once where the maker's integers are read as floats, and once where its floats are read as integers.
    """

    maker: str | None
    readers: tuple[str, ...]
    cost: float


@dataclass(frozen=True, slots=True)
class SharedNoise:
    """Noise that is there as soon as one of the holders takes an option of integers."""

    holders: tuple[str, ...]
    noise: float


@dataclass(frozen=True, slots=True)
class Problem:
    """Units, the tensors between them, and the noise that they share."""

    units: tuple[Unit, ...]
    crossings: tuple[Crossing, ...] = ()
    shared: tuple[SharedNoise, ...] = ()


@dataclass(frozen=True, slots=True)
class Assignment:
    """The option of each unit by its name, with the cost and the noise of all together."""

    options: dict[str, str]
    cost: float
    noise: float


@dataclass(slots=True)
class _Program:
    """Columns and rows of an integer program as they are laid out."""

    costs: list[float] = field(default_factory=list)
    noises: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    columns: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)

    def column(self, cost: float, noise: float = 0.0) -> int:
        self.costs.append(cost)
        self.noises.append(noise)
        return len(self.costs) - 1

    def row(self, terms: Sequence[tuple[int, float]], lower: float, upper: float) -> None:
        for column, value in terms:
            self.rows.append(len(self.lower))
            self.columns.append(column)
            self.values.append(value)
        self.lower.append(lower)
        self.upper.append(upper)


class Solver:
    """One problem, solved for as many bounds on its noise as are asked for."""

    def __init__(self, problem: Problem) -> None:
        """Raises ValueError for a unit without the option `float`, or with two units or options of one name."""
        self._problem = problem
        program = _Program()
        self._of: dict[str, dict[str, int]] = {}
        integers: dict[str, list[int]] = {}
        for unit in problem.units:
            names = [option.name for option in unit.options]
            if FLOAT not in names or len(set(names)) < len(names) or unit.name in self._of:
                raise ValueError(f"{unit.name} needs a name of its own, and one option {FLOAT!r} among different ones")
            self._of[unit.name] = {option.name: program.column(option.cost, option.noise) for option in unit.options}
            integers[unit.name] = [self._of[unit.name][option.name] for option in unit.options if option.integers]
            program.row([(column, 1.0) for column in self._of[unit.name].values()], 1.0, 1.0)
        self._chosen = len(program.costs)
        for crossing in problem.crossings:
            self._cross(program, crossing, integers)
        for shared in problem.shared:
            there = program.column(0.0, shared.noise)
            for holder in shared.holders:
                if integers.get(holder):
                    program.row([(there, 1.0), *((column, -1.0) for column in integers[holder])], 0.0, np.inf)
        self._costs, self._noises = np.array(program.costs), np.array(program.noises)
        shape = (len(program.lower), len(program.costs))
        matrix = coo_array((program.values, (program.rows, program.columns)), shape=shape).tocsr()
        self._structure = LinearConstraint(matrix, np.array(program.lower), np.array(program.upper))

    def cheapest(self, most_noise: float = np.inf) -> Assignment:
        """The least cost with no more than so much noise; all in float has none."""
        constraints = [self._structure]
        if np.isfinite(most_noise):
            constraints.append(LinearConstraint(self._noises[np.newaxis], -np.inf, most_noise))
        return self._assignment(self._solved(self._costs, constraints))

    def quietest(self, most_cost: float) -> Assignment | None:
        """The least noise at no more than so much cost; None where nothing is so cheap."""
        bound = LinearConstraint(self._costs[np.newaxis], -np.inf, most_cost)
        # Of equal noise, the cheaper.
        tie = 1e-9 * (float(self._noises.sum()) or 1.0) / (float(np.abs(self._costs).sum()) or 1.0)
        found = self._solved(self._noises + tie * self._costs, [self._structure, bound], or_none=True)
        return None if found is None else self._assignment(found)

    def curve(self, points: int) -> list[Assignment]:
        """Assignments that no other beats, from the cheapest to one without noise, about so many.

        Bounds on the cost are spread evenly between both ends.
        """
        cheapest = self.cheapest()
        silent = self.quietest(np.inf)
        assert silent is not None  # all in float is always possible
        found = [cheapest]
        for bound in np.linspace(cheapest.cost, silent.cost, max(points, 2))[1:]:
            quiet = self.quietest(float(bound) + 1e-9 * abs(float(bound)))
            if quiet is not None:
                found.append(quiet)
        found.sort(key=lambda each: (each.noise, each.cost))
        kept: list[Assignment] = []
        for each in found:
            if not kept or each.cost < kept[-1].cost:
                kept.append(each)
        return kept[::-1]

    def _cross(self, program: _Program, crossing: Crossing, integers: dict[str, list[int]]) -> None:
        made = integers.get(crossing.maker, []) if crossing.maker is not None else []
        to_float, to_integers = program.column(crossing.cost), program.column(crossing.cost)
        for reader in crossing.readers:
            read = integers.get(reader, [])
            # At least the maker's being in integers less the reader's, and the other way round.
            program.row([(to_float, 1.0), *((i, -1.0) for i in made), *((i, 1.0) for i in read)], 0.0, np.inf)
            program.row([(to_integers, 1.0), *((i, 1.0) for i in made), *((i, -1.0) for i in read)], 0.0, np.inf)

    def _solved(
        self, objective: NDArray[np.float64], constraints: list[LinearConstraint], *, or_none: bool = False
    ) -> NDArray[np.float64] | None:
        found = milp(
            objective,
            constraints=constraints,
            integrality=np.ones(len(objective)),
            bounds=Bounds(0, 1),
            options={"mip_rel_gap": _GAP, "time_limit": _SECONDS},
        )
        if found.x is None:
            if or_none:
                return None
            raise AssertionError(f"all in float always solves it: {found.message}")
        chosen: NDArray[np.float64] = np.asarray(found.x, dtype=np.float64).round()
        return chosen

    def _assignment(self, found: NDArray[np.float64] | None) -> Assignment:
        assert found is not None
        options = {
            unit: next(name for name, column in columns.items() if found[column]) for unit, columns in self._of.items()
        }
        return evaluated(self._problem, options)


def evaluated(problem: Problem, options: dict[str, str]) -> Assignment:
    """Cost and noise of one choice of options, added up as they are."""
    chosen = {
        unit.name: next(each for each in unit.options if each.name == options[unit.name]) for unit in problem.units
    }
    in_integers = {name for name, option in chosen.items() if option.integers}
    cost = sum(option.cost for option in chosen.values())
    for crossing in problem.crossings:
        made = crossing.maker in in_integers
        cost += crossing.cost * len({reader in in_integers for reader in crossing.readers} - {made})
    noise = sum(option.noise for option in chosen.values())
    noise += sum(each.noise for each in problem.shared if in_integers & set(each.holders))
    return Assignment(dict(options), cost, noise)
