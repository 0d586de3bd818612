"""The best candidate by a goal, and those that none beats."""

from app.domain.goal import Goal
from app.domain.measurement import Measurement
from workers.evaluation.comparison import Comparison
from workers.evaluation.evidence import Evidence
from workers.evaluation.selection import choose, pareto


def candidate(
    latency: float | None = None,
    size: float = 1.0,
    memory: float = 1.0,
    *,
    agreement: float | None = None,
    within_noise: bool = False,
) -> Evidence:
    """Ratios to the original."""
    comparisons = [Comparison(name="artifact_bytes", ratio=size), Comparison(name="peak_memory", ratio=memory)]
    if latency is not None:
        comparisons.append(Comparison(name="latency_p50", ratio=latency, within_noise=within_noise))
    known = {}
    if agreement is not None:
        known["agreement"] = Measurement(name="agreement", value=agreement, unit="fraction", better="higher")
    return Evidence("evaluation", {}, known, comparisons=tuple(comparisons))


def test_the_least_of_what_the_goal_minimizes_is_chosen() -> None:
    candidates = {"fast": candidate(0.5, 0.9, 1.1), "small": candidate(1.2, 0.25, 0.9), "lean": candidate(1, 0.6, 0.5)}
    assert choose(candidates, None) == "fast"
    assert choose(candidates, Goal(minimize="latency")) == "fast"
    assert choose(candidates, Goal(minimize="size")) == "small"
    assert choose(candidates, Goal(minimize="memory")) == "lean"
    assert choose({}, None) is None


def test_weights_trade_ratios() -> None:
    candidates = {"fast": candidate(0.5, 1.0), "small": candidate(1.1, 0.25)}
    assert choose(candidates, Goal(minimize={"latency": 1, "size": 1})) == "small"
    assert choose(candidates, Goal(minimize={"latency": 5, "size": 1})) == "fast"


def test_what_was_not_measured_counts_as_the_originals() -> None:
    assert choose({"untimed": candidate(None), "slow": candidate(1.5)}, None) == "untimed"


def test_a_candidate_that_is_beaten_in_everything_is_no_choice() -> None:
    candidates = {
        "good": candidate(0.8, 0.3, agreement=0.99),
        "worse": candidate(0.9, 0.4, agreement=0.98),
        "other": candidate(1.1, 0.2, agreement=0.97),
    }
    assert pareto(candidates) == {"good", "other"}


def test_the_original_beats_what_is_slower_and_larger() -> None:
    assert pareto({"bad": candidate(1.3, 1.1, agreement=0.9)}) == frozenset()
    assert pareto({"small": candidate(1.3, 0.3, agreement=0.9)}) == {"small"}


def test_latency_within_noise_is_no_gain() -> None:
    assert pareto({"same": candidate(0.99, 1.0, agreement=0.99, within_noise=True)}) == frozenset()
    assert pareto({"same": candidate(0.99, 1.0, agreement=0.99)}) == {"same"}
