"""From what fresh children saw under load to measurements: the median over children, the interval across them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from app.domain.measurement import UNITS, Measurement, absent
from workers.evaluation.bounds import TWO_SIDED_95, replicate_interval
from workers.evaluation.comparison import DISTURBED_SHARE
from workers.evaluation.latency import LEAST_SAMPLES, QUANTILE_METHOD, QUANTILES
from workers.evaluation.replicate import LoadPoint, LoadReplicate

SATURATED = "saturated"
"""Flag of a rate that the model could not keep up with: its latencies grow with the time that one measures."""


def loads(replicates: Sequence[LoadReplicate], subject: str, *, target: str | None = None) -> list[Measurement]:
    """Throughput in rows a second and quantiles of latency in ms under each load; intervals are across children."""
    mine = [replicate for replicate in replicates if replicate.subject == subject]
    if not mine:
        return []
    many = DISTURBED_SHARE * len(mine)
    contended = sum(bool(replicate.context.other_work()) for replicate in mine) > many
    clock_jumped = sum(bool(replicate.context.clock_jumps()) for replicate in mine) > many
    found: list[Measurement] = []
    for place, first in enumerate(mine[0].points):
        points = [replicate.points[place] for replicate in mine]
        flags = [SATURATED] if sum(map(_is_saturated, points)) * 2 > len(points) else []
        flags += ["contended"] if contended else []
        flags += ["clock_jumped"] if clock_jumped else []
        conditions: dict[str, Any] = {
            **mine[0].conditions,
            "threads": mine[0].threads,
            "batch": mine[0].batch,
            **({"shapes": mine[0].shapes} if mine[0].shapes else {}),
            "callers": first.callers,
            **({} if first.rate is None else {"rate": first.rate}),
            "children": len(points),
            **({"target": target} if target else {}),
        }
        rows = [replicate.batch * len(point.samples_ms) for replicate, point in zip(mine, points, strict=True)]
        rates = [count / point.seconds for count, point in zip(rows, points, strict=True)]
        found.append(_measured("throughput", rates, sum(rows), conditions, flags))
        for name, share in QUANTILES.items():
            found.append(_quantile(name, share, points, conditions, flags))
    return found


def _is_saturated(point: LoadPoint) -> bool:
    """Whether calls were left, or the second half of them took more than twice as long as the first."""
    if point.behind:
        return True
    half = len(point.samples_ms) // 2
    if point.rate is None or half < LEAST_SAMPLES["latency_p90"]:
        return False
    return float(np.median(point.samples_ms[half:])) > 2 * float(np.median(point.samples_ms[:half]))


def _quantile(
    name: str, share: float, points: Sequence[LoadPoint], conditions: dict[str, Any], flags: Sequence[str]
) -> Measurement:
    fewest = min(len(point.samples_ms) for point in points)
    if fewest < (least := LEAST_SAMPLES.get(name, 1)):
        missing = absent(name, f"{fewest} calls are too few: {least} leave one beyond it")
        return missing.model_copy(update={"conditions": conditions})
    values = [float(np.quantile(point.samples_ms, share, method=QUANTILE_METHOD)) for point in points]
    return _measured(name, values, sum(len(point.samples_ms) for point in points), conditions, flags)


def _measured(
    name: str, values: Sequence[float], count: int, conditions: dict[str, Any], flags: Sequence[str]
) -> Measurement:
    unit, better = UNITS[name]
    across = replicate_interval(values, TWO_SIDED_95)
    return Measurement(
        name=name,
        value=float(np.median(values)),
        unit=unit,
        better=better,
        ci95=None if across is None else (across.lower, across.upper),
        count=count,
        conditions=conditions,
        flags=tuple(flags),
    )
