"""All that is known of one artifact and its original when the gate opens."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from app.domain.measurement import Measurement
from workers.evaluation.comparison import Comparison, compare_exact, compare_latency, compare_paired
from workers.evaluation.footprint import memories
from workers.evaluation.latency import latencies, per_child
from workers.evaluation.replicate import LatencyReplicate, Subject
from workers.evaluation.scores import Scores

Source = Literal["evaluation", "calibration", "synthetic"]
"""Which rows the metrics were computed on; only evaluation rows were held out of everything else."""

Children = tuple[Sequence[float], Sequence[float]]
"""What each child measured of the original and of the artifact, in the same order of children.

Of memory, a child has one model alone: pairs are any two of them.
"""

_TIMED = (
    "latency_p50", "latency_p90", "latency_p99", "latency_mean", "throughput", "load_time", "first_run",
    "cpu_per_inference",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Evidence:
    """One artifact beside its original.

    Measurements are by name, under the conditions that goals use (the first of the threads and batches
    asked for). Scores are those of the metrics, row by row.
    """

    source: Source
    original: Mapping[str, Measurement]
    artifact: Mapping[str, Measurement]
    children: Mapping[str, Children] = field(default_factory=dict)
    original_scores: Mapping[str, Scores] = field(default_factory=dict)
    artifact_scores: Mapping[str, Scores] = field(default_factory=dict)
    comparisons: tuple[Comparison, ...] = ()

    def comparison(self, name: str) -> Comparison | None:
        """The comparison of that measurement, under the conditions that goals use."""
        return next((found for found in self.comparisons if found.name == name), None)


def timed(replicates: Sequence[LatencyReplicate], subject: Subject, *, target: str | None = None) -> list[Measurement]:
    """Latency and what belongs to it, for each condition, the first child's first."""
    return [
        measurement for group in by_conditions(replicates) for measurement in latencies(group, subject, target=target)
    ]


def gather(
    candidate: str,
    *,
    source: Source,
    original: Iterable[Measurement],
    artifact: Iterable[Measurement],
    scores: Mapping[Subject, Mapping[str, Scores]],
    latency: Sequence[LatencyReplicate],
    target: str | None = None,
) -> tuple[Evidence, list[Measurement]]:
    """Put together what steps and children say of a candidate; also all measurements of it, in order.

    `original` are all measurements of the original, `artifact` those of the candidate that are known
    without the children.
    """
    mine = [replicate for replicate in latency if replicate.candidate == candidate]
    measurements = [
        *artifact,
        *timed(mine, "artifact", target=target),
    ]
    before, after = _by_name(original), _by_name(measurements)
    children: dict[str, Children] = {}
    comparisons: list[Comparison] = []
    groups = by_conditions(mine)
    if groups:
        comparisons = [compare_latency(group) for group in groups]
        for name in _TIMED:
            children[name] = (per_child(name, groups[0], "original"), per_child(name, groups[0], "artifact"))
        place = groups[0][0].place()
        comparisons.append(compare_paired("load_time", *children["load_time"], conditions=place))
        children["peak_memory"] = (_peaks(groups[0], "original"), _peaks(groups[0], "artifact"))
    first, second = _value(before, "artifact_bytes"), _value(after, "artifact_bytes")
    if first and second:
        comparisons.append(compare_exact("artifact_bytes", first, second))
    pairs = list(zip(*children.get("peak_memory", ((), ())), strict=False))
    if pairs and all(min(pair) > 0 for pair in pairs):
        place = groups[0][0].place()
        comparisons.append(compare_paired("peak_memory", *zip(*pairs, strict=True), conditions=place))
    evidence = Evidence(
        source=source,
        original=before,
        artifact=after,
        children=children,
        original_scores=scores["original"],
        artifact_scores=scores["artifact"],
        comparisons=tuple(comparisons),
    )
    return evidence, measurements


def alone(
    *,
    source: Source,
    measurements: Iterable[Measurement],
    scores: Mapping[str, Scores],
    latency: Sequence[LatencyReplicate],
) -> Evidence:
    """What is known of a model that was measured without another beside it: it stands where an artifact would."""
    groups = by_conditions(latency)
    children: dict[str, Children] = {"peak_memory": ((), _peaks(groups[0], "original"))} if groups else {}
    for name in _TIMED if groups else ():
        children[name] = ((), per_child(name, groups[0], "original"))
    return Evidence(
        source=source, original={}, artifact=_by_name(measurements), children=children, artifact_scores=scores
    )


def by_conditions(replicates: Iterable[LatencyReplicate]) -> list[list[LatencyReplicate]]:
    """The children of each condition, the first child's first."""
    groups: dict[tuple[Any, ...], list[LatencyReplicate]] = {}
    for replicate in replicates:
        runtime = replicate.conditions["original"].get("runtime")
        groups.setdefault((replicate.threads, replicate.batch, replicate.case, runtime), []).append(replicate)
    return list(groups.values())


def _peaks(replicates: Sequence[LatencyReplicate], subject: Subject) -> list[float]:
    return [float(memory.peak_bytes) for memory in memories(replicates, subject)]


def _by_name(measurements: Iterable[Measurement]) -> dict[str, Measurement]:
    found: dict[str, Measurement] = {}
    for measurement in measurements:
        found.setdefault(measurement.name, measurement)
    return found


def _value(known: Mapping[str, Measurement], name: str) -> float | None:
    return known[name].value if name in known else None
