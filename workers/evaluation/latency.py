"""From what fresh children timed to measurements: the median over children, the interval across them."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from app.domain.measurement import UNITS, Measurement, absent
from workers.evaluation.bounds import TWO_SIDED_95, replicate_interval
from workers.evaluation.comparison import flags_of
from workers.evaluation.energy import UNREADABLE
from workers.evaluation.footprint import footprint
from workers.evaluation.replicate import LatencyReplicate, Subject

LEAST_SAMPLES = {"latency_p90": 20, "latency_p99": 100}
"""Fewer leave nothing beyond the quantile but, at best, one sample."""

QUANTILE_METHOD: Literal["median_unbiased"] = "median_unbiased"
"""Of the samples of one child (Hyndman and Fan 1996, type 8). NumPy's default takes the 99th of a hundred samples for
their p99, which is too low as often as seven times of eight: intervals over six such children held the true one 80 to
90 times in a hundred, and now 94 to 99 times, with series of correlation 0.8 among them."""

UNSTABLE_SPREAD = 1.06
"""Children whose medians differ by more than this factor (3 % to either side) have no one latency."""

QUANTILES = {"latency_p50": 0.5, "latency_p90": 0.9, "latency_p99": 0.99}
_SINGLE = ("load_time", "first_run")
"""What happens once in a process."""

PerChild = Callable[[LatencyReplicate], float]


def latencies(
    replicates: Sequence[LatencyReplicate], subject: Subject, *, target: str | None = None
) -> list[Measurement]:
    """Everything that the children say of one model under one condition: threads, rows a call, case.

    Of the original only those samples count that took turns with the candidate's, if there is one. `target` is the id
    of the hardware fingerprint.
    """
    conditions = _conditions(replicates, subject, target)
    flags = flags_of(replicates)
    medians = per_child("latency_p50", replicates, subject)
    if max(medians) > UNSTABLE_SPREAD * min(medians):
        flags = (*flags, "unstable")
    found = [_latency(name, replicates, subject, conditions, flags) for name in QUANTILES]
    found += [
        _measured(name, per_child(name, replicates, subject), _count(replicates, subject), conditions, flags)
        for name in ("latency_mean", "throughput")
    ]
    # No series of calls: only other work on the machine, and its clocks, speak against them.
    disturbed = tuple(flag for flag in flags if flag in ("contended", "clock_jumped"))
    for name in _SINGLE:
        once = per_child(name, replicates, subject)
        found.append(_measured(name, once, len(once), conditions, disturbed))
    spent = per_child("cpu_per_inference", replicates, subject)
    found.append(_measured("cpu_per_inference", spent, _count(replicates, subject), conditions, disturbed))
    return [*found, *footprint(replicates, subject, conditions), _energy(replicates, subject, conditions)]


def per_child(name: str, replicates: Iterable[LatencyReplicate], subject: Subject) -> list[float]:
    """One value of each child, in the children's order, in the measurement's unit."""
    reading = _readings(subject)[name]
    return [reading(replicate) for replicate in replicates]


def samples_of(replicate: LatencyReplicate, subject: Subject) -> list[float]:
    """All samples of a model in one child, in ms."""
    if subject == "artifact":
        blocks = replicate.against.second if replicate.against is not None else []
    else:
        blocks = (replicate.against or replicate.same).first
    return [sample for block in blocks for sample in block]


def _readings(subject: Subject) -> Mapping[str, PerChild]:
    def quantile(share: float) -> PerChild:
        return lambda replicate: float(np.quantile(samples_of(replicate, subject), share, method=QUANTILE_METHOD))

    def mean(replicate: LatencyReplicate) -> float:
        return statistics.fmean(samples_of(replicate, subject))

    return {
        **{name: quantile(share) for name, share in QUANTILES.items()},
        "latency_mean": mean,
        "throughput": lambda replicate: 1000 * replicate.batch / mean(replicate),
        "load_time": lambda replicate: replicate.load_ms[subject],
        "first_run": lambda replicate: replicate.first_ms[subject],
        "cpu_per_inference": lambda replicate: replicate.cpu_seconds[subject] / replicate.batch,
    }


def _latency(
    name: str,
    replicates: Sequence[LatencyReplicate],
    subject: Subject,
    conditions: dict[str, Any],
    flags: tuple[str, ...],
) -> Measurement:
    counts = [len(samples_of(replicate, subject)) for replicate in replicates]
    least = LEAST_SAMPLES.get(name, 1)
    if min(counts) >= least:
        return _measured(name, per_child(name, replicates, subject), sum(counts), conditions, flags)
    if sum(counts) < least:
        unit, better = UNITS[name]
        reason = f"{sum(counts)} samples are too few: {least} leave one beyond it"
        return absent(name, reason, unit=unit, better=better).model_copy(update={"conditions": conditions})
    # Too few in each child, enough in all: a value, but nothing to make an interval of.
    pooled = [sample for replicate in replicates for sample in samples_of(replicate, subject)]
    value = float(np.quantile(pooled, QUANTILES[name], method=QUANTILE_METHOD))
    return _stated(name, value, None, sum(counts), {**conditions, "pooled": True}, flags)


def _measured(
    name: str, values: Sequence[float], count: int, conditions: dict[str, Any], flags: tuple[str, ...]
) -> Measurement:
    found = replicate_interval(values, TWO_SIDED_95)
    ci95 = None if found is None else (found.lower, found.upper)
    return _stated(name, statistics.median(values), ci95, count, conditions, flags)


def _energy(replicates: Sequence[LatencyReplicate], subject: Subject, conditions: dict[str, Any]) -> Measurement:
    name = "energy_per_inference"
    values = [
        replicate.energy_joules[subject] / replicate.batch
        for replicate in replicates
        if replicate.energy_joules is not None
    ]
    if len(values) < len(replicates):
        return absent(name, UNREADABLE).model_copy(update={"conditions": conditions})
    idle = statistics.median(replicate.idle_watts or 0.0 for replicate in replicates)
    stated = {**conditions, "counter": "RAPL, all packages, idle subtracted", "idle_watts": round(idle, 3)}
    return _measured(name, values, _count(replicates, subject), stated, ())


def _stated(
    name: str,
    value: float,
    ci95: tuple[float, float] | None,
    count: int,
    conditions: dict[str, Any],
    flags: tuple[str, ...],
) -> Measurement:
    unit, better = UNITS[name]
    return Measurement(
        name=name, value=value, unit=unit, better=better, ci95=ci95, count=count, conditions=conditions, flags=flags
    )


def _conditions(replicates: Sequence[LatencyReplicate], subject: Subject, target: str | None) -> dict[str, Any]:
    first = replicates[0]
    return {
        **first.conditions[subject],
        **first.place(subject),
        "rows": first.rows,
        "children": len(replicates),
        **({"target": target} if target else {}),
    }


def _count(replicates: Iterable[LatencyReplicate], subject: Subject) -> int:
    return sum(len(samples_of(replicate, subject)) for replicate in replicates)
