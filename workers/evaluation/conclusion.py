"""What the numbers say, in words, and nothing that they do not say."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.domain.job import Gate
from app.domain.measurement import Measurement
from app.domain.metric import METRICS
from workers.evaluation.bounds import TWO_SIDED_95, Bounded, drop_bounds
from workers.evaluation.comparison import Comparison
from workers.evaluation.evidence import Evidence
from workers.evaluation.gate import NOT_HELD_OUT, Verdict
from workers.evaluation.words import amount, plain, times

_VNNI = frozenset({"avx512_vnni", "avx_vnni", "amx_int8"})
"""Any of these multiplies 8-bit integers without saturating and at full speed (x86)."""

_DOUBTS = {
    "noisy": "the original differed from a second session of itself",
    "contended": "other work ran on the machine",
    "clock_jumped": "a clock was set or the machine slept meanwhile",
    "unstable": "fresh processes disagreed by more than 6 %",
    "unsettled": "the warm-up did not settle",
}

_SAME_SIZE = 0.01
"""Sizes closer than this are the same for a reader."""


def conclude(
    recipe: Mapping[str, Any],
    evidence: Evidence,
    *,
    gate: Gate,
    verdicts: Sequence[Verdict],
    fingerprint: Mapping[str, Any],
    asked: Iterable[str] = (),
) -> str:
    """A few sentences on one artifact: speed, size, accuracy, advice, the verdict, and what to doubt.

    Accuracy is the first of the metrics `asked` for that has a value; else top-1, where it is known, else how well the
    artifact follows the original.
    """
    technique = str(recipe.get("technique", "the artifact"))
    latency, size = evidence.comparison("latency_p50"), evidence.comparison("artifact_bytes")
    facts = [fact for fact in (_latency(latency), _size(size)) if fact]
    said = ", ".join(part for part in (_listed(facts), _accuracy(evidence, asked)) if part)
    sentences = [f"{technique} is {said}; {_advice(technique, latency, size, gate)}."] if said else []
    sentences += _gate(gate, verdicts)
    sentences += _doubts(latency, evidence)
    sentences += _not_held_out(evidence, verdicts)
    if technique.endswith("int8") and _lacks_vnni(fingerprint):
        sentences.append("This processor has no VNNI.")
    return " ".join(sentences)


def describe(evidence: Evidence, *, gate: Gate, verdicts: Sequence[Verdict], fingerprint: Mapping[str, Any]) -> str:
    """A few sentences on one model measured alone: its latency, size, memory and metrics, the verdict, the doubts."""
    facts = [
        f"{_value(measured)} {said}".rstrip()
        for name, said in (("latency_p50", "a call"), ("artifact_bytes", "on disk"), ("peak_memory", "of memory"))
        if (measured := evidence.artifact.get(name)) is not None and measured.value is not None
    ]
    facts += [
        f"{name} {_value(measured)}"
        for name, measured in evidence.artifact.items()
        if name in METRICS and measured.value is not None
    ]
    machine = str(fingerprint.get("model_name") or "this machine")
    sentences = [f"On {machine}: {_listed(facts)}."] if facts else []
    sentences += _gate(gate, verdicts)
    sentences += _doubts(None, evidence)
    sentences += _not_held_out(evidence, verdicts)
    return " ".join(sentences)


def _value(measured: Measurement) -> str:
    said = amount(measured.value or 0.0, measured.unit)
    if measured.ci95 is None:
        return said
    low, high = (amount(end, measured.unit) for end in measured.ci95)
    return f"{said} ({low} to {high})"


def _latency(found: Comparison | None) -> str | None:
    if found is None:
        return None
    if found.within_noise and found.ci95 is not None:
        low, high = found.ci95
        return f"as fast as the original here, within noise ({low:.2f} to {times(high)} its latency)"
    slower = found.ratio >= 1
    ratio = found.ratio if slower else 1 / found.ratio
    scatter = ""
    if found.ci95 is not None:
        low, high = found.ci95 if slower else (1 / found.ci95[1], 1 / found.ci95[0])
        scatter = f" ({low:.2f} to {high:.2f})"
    return f"{times(ratio)} {'slower' if slower else 'faster'} here{scatter}"


def _size(found: Comparison | None) -> str | None:
    if found is None:
        return None
    if abs(found.ratio - 1) < _SAME_SIZE:
        return "of the same size"
    return f"{found.ratio:.1f} × larger" if found.ratio > 1 else f"{1 / found.ratio:.1f} × smaller"


def _accuracy(evidence: Evidence, asked: Iterable[str]) -> str | None:
    for name in asked:
        if (measured := _known(name, evidence)) is not None:
            follows = METRICS[name].relative_to_original
            return _fidelity(measured) if follows else _dropped(name, evidence) or _beside(measured, evidence)
    if (said := _dropped("top1", evidence)) is not None:
        return said
    measured = _known("agreement", evidence) or _known("sqnr_db", evidence)
    return None if measured is None else _fidelity(measured)


def _known(name: str, evidence: Evidence) -> Measurement | None:
    measured = evidence.artifact.get(name)
    return None if measured is None or measured.value is None else measured


def _fidelity(measured: Measurement) -> str:
    """How well the artifact follows the original, by a metric that compares the two."""
    if measured.name == "agreement":
        scatter = ""
        if measured.ci95 is not None:
            low, high = (amount(end, "fraction") for end in measured.ci95)
            scatter = f" ({low.removesuffix(' %')} to {high})"
        return f"in agreement with the original on {amount(measured.value or 0.0, 'fraction')} of rows{scatter}"
    if measured.name == "sqnr_db":
        return f"{plain(measured.value or 0.0)} dB above its quantization noise"
    return f"with {measured.name} {_value(measured)} between it and the original"


def _dropped(name: str, evidence: Evidence) -> str | None:
    """What the artifact loses, paired by rows; None where that is not to be had."""
    before, after = evidence.original_scores.get(name), evidence.artifact_scores.get(name)
    if before is None or after is None or len(before) != len(after):
        return None
    try:
        found = drop_bounds(name, before, after, TWO_SIDED_95)
    except ValueError:
        return None
    alike, less, more = (
        ("as accurate", "less accurate", "more accurate")
        if name == "top1"
        else (f"as good in {name}", f"worse in {name}", f"better in {name}")
    )
    drop, reach, unit = _rounded(found, METRICS[name].unit)
    if drop in ("0", "0.0"):
        return alike + (f" to within {reach}{unit}" if reach else "")
    return f"{drop}{unit}{f' ± {reach}' if reach else ''} {less if found.value > 0 else more}"


def _rounded(found: Bounded, unit: str) -> tuple[str, str | None, str]:
    """The size of a drop, how far its interval reaches, if that is known, and their unit: of shares, points."""
    reach = max(found.upper - found.value, found.value - found.lower)
    size, ends = (f"{100 * each:.1f}" if unit == "fraction" else plain(each) for each in (abs(found.value), reach))
    written = {"fraction": " points", "1": ""}.get(unit, f" {unit}")
    return size, ends if math.isfinite(reach) else None, written


def _beside(measured: Measurement, evidence: Evidence) -> str:
    """Both values, where their difference has no bounds."""
    before = evidence.original.get(measured.name)
    said = f"with {measured.name} {_value(measured)}"
    return said if before is None or before.value is None else f"{said} instead of {_value(before)}"


def _advice(technique: str, latency: Comparison | None, size: Comparison | None, gate: Gate) -> str:
    if gate == "missed":
        return "keep the original, or ask for less"
    smaller = size is not None and size.ratio < 1 - _SAME_SIZE
    for_size = f"take {technique} for size" if smaller else "there is nothing to gain from it"
    if latency is None:
        return for_size
    if latency.within_noise or latency.ci95 is None:
        return f"no gain in latency can be shown, {for_size}"
    if latency.ratio > 1:
        return "keep the original for latency" + (f", {for_size}" if smaller else "")
    return f"take {technique} for latency{' and for size' if smaller else ''}"


def _gate(gate: Gate, verdicts: Sequence[Verdict]) -> Iterable[str]:
    if gate == "none":
        return
    if gate == "met":
        yield "The goal is met."
        return
    lead = {"missed": "The goal is missed", "undecided": "Whether the goal is met is undecided"}[gate]
    for verdict in verdicts:
        if verdict.verdict == gate:
            yield f"{lead}: {verdict.reason[0].lower()}{verdict.reason[1:]}"
            lead = "Also"


def _doubts(latency: Comparison | None, evidence: Evidence) -> Iterable[str]:
    measured = evidence.artifact.get("latency_p50")
    flags = dict.fromkeys([*(latency.flags if latency else ()), *(measured.flags if measured else ())])
    doubts = [_DOUBTS[flag] for flag in flags if flag in _DOUBTS]
    if doubts:
        yield f"The times are doubtful: {_listed(doubts)}."


def _not_held_out(evidence: Evidence, verdicts: Sequence[Verdict]) -> Iterable[str]:
    if any(verdict.reason.startswith(NOT_HELD_OUT) for verdict in verdicts):
        return
    if evidence.source == "calibration":
        yield f"{NOT_HELD_OUT}: accuracy is that on the calibration rows."
    elif evidence.source == "synthetic":
        yield "There were no data: fidelity is that on random rows, which may say little about real ones."


def _lacks_vnni(fingerprint: Mapping[str, Any]) -> bool:
    x86 = str(fingerprint.get("architecture", "")).lower() in ("x86_64", "amd64")
    return x86 and not _VNNI & set(fingerprint.get("features", ()))


def _listed(parts: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(parts[:-1]), *parts[-1:])))
