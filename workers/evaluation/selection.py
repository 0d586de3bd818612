"""Which artifact is best by a goal, and which no other beats in everything."""

import math
from collections.abc import Mapping

from app.domain.goal import CEILINGS, Goal, Minimizable
from app.domain.metric import ALWAYS
from workers.evaluation.evidence import Evidence
from workers.evaluation.metrics import arithmetic

_TRADED = ("latency_p50", "artifact_bytes")
"""Measurements that a smaller value of is better, traded against fidelity."""


def choose(candidates: Mapping[str, Evidence], goal: Goal | None) -> str | None:
    """The candidate with the least of what the goal minimizes, latency without a goal; None of none.

    Weights multiply logarithms of ratios to the original, so that units do not matter. Metrics play no part here:
    who chooses on the rows that judge cannot trust the judgement.
    """
    if not candidates:
        return None
    minimize = goal.minimize if goal is not None else "latency"
    weights: Mapping[Minimizable, float] = {minimize: 1.0} if isinstance(minimize, str) else minimize
    return min(candidates, key=lambda name: _cost(candidates[name], weights))


def pareto(candidates: Mapping[str, Evidence]) -> frozenset[str]:
    """Candidates that no other, nor the original, beats: better in latency, size or fidelity, worse in none.

    A latency within noise of the original's counts as equal to it. Fidelity is the first of agreement,
    SQNR and cosine that all candidates have; the original's is perfect. What one lacks is not compared.
    """
    everyone = list(candidates.values())
    traded = [name for name in _TRADED if all(evidence.comparison(name) for evidence in everyone)]
    fidelity = [name for name in ALWAYS if all(_has(evidence, name) for evidence in everyone)][:1]
    points = {
        name: (*(_ratio(evidence, other) for other in traded), *(_loss(evidence, other) for other in fidelity))
        for name, evidence in candidates.items()
    }
    original = (*(1.0 for _ in traded), *(0.0 for _ in fidelity))
    return frozenset(
        name
        for name, point in points.items()
        if not any(_beats(other, point) for other in (*points.values(), original))
    )


def _cost(evidence: Evidence, weights: Mapping[Minimizable, float]) -> float:
    cost = 0.0
    for thing, weight in weights.items():
        comparison = evidence.comparison(CEILINGS[thing])
        if comparison is not None and comparison.ratio > 0:
            cost += weight * math.log(comparison.ratio)
    return cost


def _has(evidence: Evidence, metric: str) -> bool:
    return metric in evidence.artifact and evidence.artifact[metric].value is not None


def _ratio(evidence: Evidence, name: str) -> float:
    comparison = evidence.comparison(name)
    assert comparison is not None
    return 1.0 if comparison.within_noise else comparison.ratio


def _loss(evidence: Evidence, metric: str) -> float:
    """How far from perfect; all metrics of fidelity are better when higher."""
    return (arithmetic(metric).ideal or 0.0) - (evidence.artifact[metric].value or 0.0)


def _beats(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    return first != second and all(mine <= theirs for mine, theirs in zip(first, second, strict=True))
