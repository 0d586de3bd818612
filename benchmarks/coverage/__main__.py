"""`python -m benchmarks.coverage`: the table, and 1 where an interval holds too seldom or is too wide."""

import argparse
import sys
import time
from collections.abc import Iterator

from benchmarks.coverage import development, fresh, series
from benchmarks.coverage.simulation import LEAST, WIDEST, Found, of_metrics, simulate, standard_error, truth_of
from workers.evaluation.statistics import means

_SIGNIFICANT = 2
"""Standard errors."""

_RESAMPLES = 600
"""Of a bootstrap, fewer than a job has: the ends' noise costs a tenth of a point of coverage, and the rest time."""


class Table:
    """Rows as they come, and what is wrong in them."""

    def __init__(self, trials: int) -> None:
        self.trials = trials
        self.misses: list[str] = []

    def header(self) -> str:
        side = f"{'holds':>14} {'flags':>5} {'or':>5} {'else':>5} {'width':>9}"
        first = f"{'metric':17} {'population':25} {'rows':>6} {'value':>8} {side} {'÷exact (holds)':>14}"
        return f"{first}  {'drop':>8} {side}"

    def rows(self, given: argparse.Namespace) -> Iterator[str]:
        chosen = development if given.development else fresh
        for population in of_metrics(chosen.POPULATIONS, given.metrics):
            for design in chosen.DESIGNS:
                truths = truth_of(population, design)
                name = f"{population.metric:17} {population.name:25} {design!s:>6}"
                value, drop = simulate(population, design, self.trials, given.seed)
                row = f"{name} {truths[0]:8.4g} {self._side(name + ' value', value)} {self._exact(name, value):>14}"
                yield row if drop is None else f"{row}  {truths[1]:8.3g} {self._side(name + ' drop', drop)}"
        if not given.metrics or series.METRIC in given.metrics:
            for one in series.DEVELOPMENT if given.development else series.FRESH:
                for calls in series.DESIGNS:
                    name = f"{series.METRIC:17} {one.name:25} {calls:>6}"
                    found = series.simulate_series(one, calls, self.trials, given.seed)
                    yield f"{name} {one.truth:8.4g} {self._side(name, found)} {self._exact(name, found):>14}"

    def _side(self, name: str, found: Found) -> str:
        error = standard_error(found.judged, found.trials)
        said = ""
        if found.judged < LEAST:
            said = "no" if found.judged + _SIGNIFICANT * error < LEAST else "low"
            self.misses.append(f"{said:4} {name}  {100 * found.judged:.1f} ± {100 * error:.1f}")
        held = f"{100 * found.coverage:.1f} ± {100 * found.error:.1f} {said:4}"
        shares = (found.flagged / found.trials, found.covered_or_flagged, found.coverage_unflagged)
        flags, either, rest = (f"{100 * share:.1f}" if found.flagged else "" for share in shares)
        return f"{held:>14} {flags:>5} {either:>5} {rest:>5} {found.width / found.trials:9.4g}"

    def _exact(self, name: str, found: Found) -> str:
        if found.wider is None:
            return ""
        holds = found.exact_held / found.trials
        counts = found.wider > WIDEST and holds >= LEAST
        if counts:
            self.misses.append(f"wide {name}  {found.wider:.2f}")
        return f"{found.wider:.2f} ({100 * holds:.1f}){'!' if counts else ''}"


def main() -> int:
    parser = argparse.ArgumentParser(description="Coverage and width of the intervals of all metrics, simulated.")
    parser.add_argument("metrics", nargs="*", help="metrics to look at; all of them if left out")
    parser.add_argument("--trials", type=int, default=1200, help="sets drawn of each population and design")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn")
    parser.add_argument("--development", action="store_true", help="the populations that constants were chosen by")
    given = parser.parse_args()
    means._RESAMPLES = _RESAMPLES
    table, started = Table(given.trials), time.monotonic()
    print(table.header(), flush=True)
    for row in table.rows(given):
        print(row.rstrip(), flush=True)
    spent = f"{time.process_time() / 60:.0f} minutes of a processor in {(time.monotonic() - started) / 60:.0f}"
    print(f"\n{given.trials} trials each, {spent}", *table.misses or ["nothing is missed"], sep="\n")
    return int(any(not miss.startswith("low") for miss in table.misses))


if __name__ == "__main__":
    sys.exit(main())
