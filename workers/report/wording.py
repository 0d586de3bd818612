"""What the page calls things: measurements, flags, methods, in a reader's words."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from app.domain.measurement import UNITS
from app.domain.metric import METRICS
from workers.evaluation.words import amount, difference, plain, times
from workers.report.variants import ends_of, is_number

_TIED = "\u00a0"

_LABELS = {
    "latency_p50": "Median latency",
    "latency_p90": "Latency, p90",
    "latency_p99": "Latency, p99",
    "latency_mean": "Mean latency",
    "throughput": "Throughput",
    "load_time": "Load time",
    "first_run": "First run",
    "cpu_per_inference": "Processor time per inference",
    "peak_memory": "Peak memory",
    "steady_memory": "Memory once warm",
    "artifact_bytes": "Size of the model",
    "energy_per_inference": "Energy per inference",
    "top1": "Top-1 accuracy",
    "top5": "Top-5 accuracy",
    "agreement": "Agreement with the original",
    "sqnr_db": "SQNR of the outputs",
    "cosine": "Cosine to the original",
    "kl": "KL divergence from the original",
}

_MEANINGS = {
    "latency_p50": "Half of all calls took less. The interval is across fresh processes, not across calls.",
    "latency_p90": "Nine of ten calls took less.",
    "latency_p99": "Ninety-nine of a hundred calls took less.",
    "latency_mean": "The mean over all calls.",
    "throughput": "Rows a second; of one caller where none are named.",
    "load_time": "From the file, in the page cache, to a session that can be run.",
    "first_run": "The first call after loading.",
    "cpu_per_inference": "Seconds of all threads together, waiting in loops included.",
    "peak_memory": "The high-water mark of a fresh process with this model alone, beyond what a one-node model takes.",
    "steady_memory": "What such a process holds after its calls: weights, and the arena of activations.",
    "artifact_bytes": "All files of the model together.",
    "energy_per_inference": "What the processor's own counters say, idle parts included.",
}

_FLAGS = {
    "noisy": "The original differed by more than 2 % from a second session of itself: the machine was not fit to tell "
    "two models apart.",
    "contended": "Other work was seen on the machine in more than a quarter of the timing processes.",
    "clock_jumped": "A clock was set or ran fast, or the machine slept, in more than a quarter of the timing "
    "processes.",
    "unstable": "Fresh processes disagreed by more than 6 % about the median: there is no one latency here.",
    "unsettled": "Most warm-ups ran out of time before the times stopped drifting.",
    "incomplete": "The job ended before all processes that were to measure it had, or all rows were run.",
    "saturated": "Calls arrived faster than they were done: these latencies grow for as long as one measures.",
    "short_blocks": "The model is too slow for blocks of 20 calls, so fewer were taken.",
    "synthetic": "The inputs were random, which real ones may not be like.",
    "profile_apart": "In the profiled process a whole inference took over 10 % longer or shorter than in those that "
    "were timed: operators, the roofline and what follows from them are of another state of the machine.",
    "heavy_tail": "A few rows carry most of it, and rows that are not here could carry more: the interval may be too "
    "narrow. More rows, or a metric with bounds such as agreement, tell more.",
    "non_finite": "The output is infinite or not a number in some rows.",
}

_LESS_AND_MORE = {"cpu_per_inference": ("less", "more"), "throughput": ("lower", "higher")}
_OF_UNITS = {"bytes": ("smaller", "larger"), "J": ("less", "more")}
"""What a ratio below one is called, and one above it, where nothing is faster or slower."""

_PARTS = ((1e-3, "m"), (1e-6, "µ"))
"""Of seconds and joules below one."""

_NEAR, _MOST_DIGITS = 0.01, 9
"""Within this of one, what is ideally one is told by how far it is from that; with so many digits at most."""

SOURCES = {
    "evaluation": "Accuracy is that on the evaluation rows, which were held out of everything else.",
    "calibration": "Nothing was held out: accuracy and fidelity are those on the calibration rows, which helped to "
    "make the artifact. Bring an evaluation dataset before you rely on them.",
    "synthetic": "There were no data: fidelity is that on seeded random rows, which real inputs may not be like.",
}


def label(name: str) -> str:
    """What a measurement is called."""
    return _LABELS.get(name, name.replace("_", " "))


def meaning(name: str) -> str | None:
    """One sentence on what a measurement is; null where nothing is known of it."""
    if name in METRICS:
        return METRICS[name].summary
    return _MEANINGS.get(name)


def flag_meaning(flag: str) -> str:
    """What a flag says against a number."""
    return _FLAGS.get(flag, flag.replace("_", " "))


def scaled(name: str, values: Sequence[float]) -> tuple[float, str]:
    """By what to divide values of a measurement for an axis, and the unit that they have then."""
    unit = UNITS.get(name, ("1", "lower"))[0]
    most = max(map(abs, values), default=0.0)
    if unit == "bytes":
        return next(
            ((size, text) for size, text in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if most >= size), (1, "bytes")
        )
    if unit == "ms" and most < 0.5:
        return 1e-3, "µs"
    return 1.0, unit


def written(found: Mapping[str, Any] | None) -> str:
    """A measurement's value with its unit, `~` before what is estimated."""
    if found is None or not is_number(found.get("value")):
        return "–"
    return ("~" if found.get("method") == "estimated" else "") + _measured(found, float(found["value"]))


def interval(found: Mapping[str, Any] | None) -> str | None:
    """The ends of a measurement's interval, with the unit once."""
    ends = ends_of(found)
    if found is None or ends is None:
        return None
    low, high = (_measured(found, end) for end in ends)
    _, space, unit = high.rpartition(_TIED)
    return f"{low.removesuffix(space + unit) if space else low} to {high}"


def factor(compared: Mapping[str, Any]) -> str:
    """A ratio to the original as people say it: `1.51 × faster`, `2.3 × smaller`, `same within noise`."""
    name, ratio = str(compared.get("name")), float(compared["ratio"])
    if compared.get("within_noise"):
        return "the same" if ends_of(compared) is None else "the same, within noise"
    less, more = _LESS_AND_MORE.get(name) or _OF_UNITS.get(UNITS.get(name, ("1", "lower"))[0], ("faster", "slower"))
    if ratio <= 0:
        return plain(ratio) + " ×"
    return f"{_times(1 / ratio)} {less}" if ratio < 1 else f"{_times(ratio)} {more}"


def factor_interval(compared: Mapping[str, Any]) -> str | None:
    """The interval of such a ratio, the same way round."""
    ends, ratio = ends_of(compared), float(compared["ratio"])
    if ends is None or min(ends) <= 0:
        return None
    low, high = (1 / ends[1], 1 / ends[0]) if ratio < 1 and not compared.get("within_noise") else ends
    return f"{low:.2f} to {_times(high)}"


def dropped(drop: Mapping[str, Any]) -> str:
    """A paired difference of a metric: `0.4 points worse`, `the same, within noise`."""
    value, ends = float(drop["value"]), ends_of(drop)
    unit = METRICS[drop["metric"]].unit if drop["metric"] in METRICS else "1"
    if value == 0:
        return "the same"
    text = f"{difference(abs(value), unit)} {'worse' if value > 0 else 'better'}"
    return f"{text}, within noise" if ends and ends[0] <= 0 <= ends[1] else text


def drop_interval(drop: Mapping[str, Any]) -> str | None:
    """The interval of such a difference; what is below zero is better."""
    ends = ends_of(drop)
    if ends is None:
        return None
    unit = METRICS[drop["metric"]].unit if drop["metric"] in METRICS else "1"
    low, high = (difference(end, unit) for end in ends)
    return f"{low.removesuffix(' points')} to {high}"


def _measured(found: Mapping[str, Any], value: float) -> str:
    """A value in a measurement's unit, which no line break parts, with the digits that tell it from its ideal."""
    unit, name = str(found.get("unit")), found.get("name")
    if unit in ("s", "J") and 0 < abs(value) < 1:
        size, prefix = next((part for part in _PARTS if abs(value) >= part[0]), _PARTS[-1])
        return f"{plain(value / size)}{_TIED}{prefix}{unit}"
    away = value - 1
    if unit == "1" and name in METRICS and METRICS[name].ideal == 1 and 0 < abs(away) < _NEAR:
        digits = 1 - math.floor(math.log10(abs(away)))
        if digits > _MOST_DIGITS:
            return f"1{_TIED}{'+' if away > 0 else '−'}{_TIED}{abs(away):.1e}"
        return f"{value:.{digits}f}"
    return amount(value, unit).replace(" ", _TIED)


def _times(ratio: float) -> str:
    return f"{times(ratio)}".replace(" ", _TIED)
