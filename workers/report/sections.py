"""What each section of the page says, from a legible report."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from app.domain.metric import METRICS
from workers.evaluation.words import amount, plain
from workers.report import wording
from workers.report.cells import Cell, compared_cell, difference_cell, flags_of, measured_cell
from workers.report.operators import SideBySide, side_by_side
from workers.report.places import Place, by_place, described, varying
from workers.report.variants import Found, Variant, is_number, variants_of

MOST_OPERATORS = 40
MOST_LAYERS = 40
_MOST_FACT_CHARACTERS = 400

_VERDICTS = {
    "met": "The goal is met",
    "missed": "The goal is missed",
    "undecided": "Whether the goal is met is undecided",
}


@dataclass(frozen=True, slots=True)
class Heading:
    """What stands on top: whose report it is, and what came out."""

    title: str
    what: str
    verdict: str | None
    gate: str
    conclusion: str | None


@dataclass(frozen=True, slots=True)
class Figure:
    """One number that is read first."""

    value: str
    name: str
    besides: str
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MeasuredRow:
    """One measurement of the original and of an artifact, and the difference."""

    name: str
    label: str
    conditions: str
    original: Cell
    artifact: Cell | None
    difference: Cell | None
    meaning: str | None


@dataclass(frozen=True, slots=True)
class Table:
    """The rows that are shown, how many there are, and what the rest adds up to."""

    rows: Sequence[Any] = ()
    total: int = 0
    rest: str = ""


@dataclass(frozen=True, slots=True)
class DataRow:
    """A dataset in its role."""

    role: str
    purpose: str
    name: str
    rows: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values under one title."""

    title: str
    named: Sequence[tuple[str, str]] = field(default_factory=list)


Doubt = tuple[str, str, list[str]]
"""A flag, what it says, and the names of the variants that have it."""


def heading(report: Mapping[str, Any], subject: Variant | None) -> Heading:
    """Whose report this is, the verdict, and the conclusion in plain words."""
    gate = str(report.get("gate") or "none")
    model = report.get("model") or {}
    return Heading(
        title=str(model.get("name") or "A model"),
        what=f"{subject.name} against the original" if subject else "The model as it is",
        verdict=_VERDICTS.get(gate),
        gate=gate,
        conclusion=report.get("conclusion") or None,
    )


def key_figures(variants: Sequence[Variant], subject: Variant | None, metric: str | None) -> list[Figure]:
    """Speed, size and accuracy; of the artifact against the original, or of the one model that was measured."""
    original = variants[0]
    if subject is None:
        names = ["latency_p50", "artifact_bytes", *([metric] if metric else []), "peak_memory"]
        found = [(name, one) for name in names if (one := original.measured(name))]
        return [
            Figure(
                wording.written(one),
                wording.label(name),
                "; ".join(filter(None, (wording.interval(one), _which(original, one)))),
                flags_of(one),
            )
            for name, one in found
        ]
    figures = []
    for name, title in (("latency_p50", "Latency"), ("artifact_bytes", "Size"), ("peak_memory", "Memory")):
        if (compared := subject.compared(name)) is not None:
            before, after = original.measured(name), subject.measured(name)
            besides = f"{wording.written(before)} → {wording.written(after)}" if before and after else ""
            told = compared_cell(compared, flags_of(compared, before, after))
            is_told = told.text != "–"
            besides = "; ".join(filter(None, (besides, "" if is_told else told.small, _which(subject, after))))
            value = told.text if is_told else wording.written(after)
            figures.append(Figure(value, title, besides, told.flags))
    if metric is not None and (measured := subject.measured(metric)) is not None:
        drop = subject.drops.get(metric)
        value = wording.dropped(drop) if drop else wording.written(measured)
        before = original.measured(metric)
        besides = (
            f"{wording.written(before)} → {wording.written(measured)}"
            if drop and before
            else wording.interval(measured) or ""
        )
        flags = flags_of(before, measured)
        figures.insert(min(2, len(figures)), Figure(value, wording.label(metric), besides, flags))
    return figures


def measurement_rows(original: Variant, artifact: Variant | None) -> list[MeasuredRow]:
    """Every measurement of both, under each of its conditions, in the order they were reported.

    What was measured in none of several conditions, for one reason, has one row.
    """
    before = by_place(original.measurements)
    after = by_place(artifact.measurements) if artifact else {}
    places = list(dict.fromkeys([*before, *after]))
    varied = {name: varying(place for place in places if place.name == name) for name in {p.name for p in places}}
    runtimes = varying(places) & {"runtime"}
    first: dict[str, Place] = {}
    absent: set[tuple[Any, ...]] = set()
    rows = []
    for place in places:
        is_first = first.setdefault(place.name, place) == place
        here, there = before.get(place), after.get(place)
        if here is None and place.name in METRICS and METRICS[place.name].relative_to_original:
            left = Cell("–", "is what is compared with")
        else:
            left = measured_cell(here)
        right = measured_cell(there) if artifact else None
        if not any(is_number((found or {}).get("value")) for found in (here, there)):
            if (same := (place.name, left, right)) in absent:
                continue
            absent.add(same)
        rows.append(
            MeasuredRow(
                name=place.name,
                label=wording.label(place.name),
                conditions=described(place, varied[place.name] | runtimes),
                original=left,
                artifact=right,
                difference=difference_cell(artifact, place, here, there, first=is_first) if artifact else None,
                meaning=wording.meaning(place.name) if is_first else None,
            )
        )
    return rows


def overview(variants: Sequence[Variant], metric: str | None) -> list[dict[str, Any]]:
    """One row a variant: what decides between them."""
    return [
        {
            "variant": variant,
            "size": _short(variant.measured("artifact_bytes")),
            "latency": _short(variant.measured("latency_p50")),
            "speed": replace(compared_cell(speed, flags_of(speed)), small=None)
            if (speed := variant.compared("latency_p50"))
            else Cell("–"),
            "accuracy": _short(variant.measured(metric)) if metric else Cell("–"),
            "pareto": bool(variant.document.get("pareto")),
            "verdict": variant.document.get("verdict") or variant.document.get("tuning_verdict") or "",
        }
        for variant in variants
    ]


def flags(variants: Sequence[Variant], profiles: Mapping[str, Sequence[str]] | None = None) -> list[Doubt]:
    """Each flag that any number has, what it says, and which variants have it; `profiles` are those of profiles."""
    found: dict[str, dict[str, None]] = {}
    for variant in variants:
        for measured in (*variant.measurements, *(variant.document.get("comparisons") or ())):
            for flag in measured.get("flags") or ():
                found.setdefault(str(flag), {})[variant.name] = None
        for flag in (profiles or {}).get(variant.id, ()):
            found.setdefault(flag, {})[variant.name] = None
    return [(flag, wording.flag_meaning(flag), list(names)) for flag, names in found.items()]


def operator_rows(report: Mapping[str, Any], subject: Variant | None) -> Table:
    """Operators side by side, those that take longest first."""
    operators = report.get("operators") or {}
    rows = side_by_side(operators.get("original") or (), operators.get(subject.id) or () if subject else ())
    rest = rows[MOST_OPERATORS:]
    return Table(rows[:MOST_OPERATORS], len(rows), _together(rest))


def layer_rows(subject: Variant | None) -> Table:
    """Layers by what each costs the outputs alone, those that cost most first."""
    layers = sensitive_layers(subject)
    return Table(layers[:MOST_LAYERS], len(layers))


def sensitive_layers(subject: Variant | None) -> list[Mapping[str, Any]]:
    """The layers of a sensitivity analysis, that which costs most first; none without one."""
    sensitivity = (subject.document.get("sensitivity") if subject else None) or {}
    layers = [
        found for found in sensitivity.get("layers") or () if is_number((found.get("alone") or {}).get("sqnr_db"))
    ]
    return sorted(layers, key=lambda found: found["alone"]["sqnr_db"])


def data_rows(report: Mapping[str, Any]) -> list[DataRow]:
    """The datasets by role, with their sizes."""
    purposes = {
        "calibration": "sets the ranges of activations",
        "tuning": "guides choices on the way",
        "evaluation": "held out of everything else: only judges",
        "training": "trains",
    }
    counts = report.get("rows") or {}
    return [
        DataRow(
            role=role,
            purpose=purposes.get(role, ""),
            name=str(found.get("name") or found.get("id") or ""),
            rows=f"{count:,}" if is_number(count := counts.get(role, found.get("rows"))) else "–",
            sha256=str(found.get("sha256") or ""),
        )
        for role, found in (report.get("data") or {}).items()
    ]


def step_rows(report: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Steps with their seconds; the many measuring processes of one candidate are one row."""
    rows: dict[tuple[str, Any], dict[str, Any]] = {}
    names = {variant.id: variant.name for variant in variants_of(report)}
    for step in report.get("steps") or ():
        kind, _, rest = str(step.get("step")).partition("-")
        subject = rest.partition("-")[0]
        measuring = kind in ("latency", "load", "profile") and rest
        name = f"{kind} of {names.get(subject, subject)}" if measuring else str(step.get("step"))
        row = rows.setdefault(
            (name, step.get("attempt")), {"step": name, "seconds": 0.0, "attempt": step.get("attempt")}
        )
        row["seconds"] += step["seconds"] if is_number(step.get("seconds")) else 0.0
        row["times"] = row.get("times", 0) + 1
    for row in rows.values():
        if row["times"] > 1:
            row["step"] += f", {row['times']} processes"
    return list(rows.values())


def facts(report: Mapping[str, Any], subject: Variant | None) -> list[Facts]:
    """Where it was measured, with what, what was asked for, and what was made of it and how."""
    target = dict(report.get("target") or {})
    versions = target.pop("versions", None) or {}
    spec, model = report.get("spec") or {}, report.get("model") or {}
    made = subject.document if subject else {}
    artifacts = [
        (str(found.get("file_name")), f"{amount(float(found['bytes']), 'bytes')}, SHA-256 {found.get('sha256')}")
        for found in report.get("artifacts") or ()
        if is_number(found.get("bytes"))
    ]
    parts = (
        Facts("Machine", _named(target)),
        Facts("Versions", [(name, str(value)) for name, value in versions.items()]),
        Facts("Asked for", _named({name: spec.get(name) for name in ("goal", "metrics", "measure", "limits")})),
        Facts("Made with", _named(made.get("recipe") or spec.get("recipe") or {})),
        Facts("Session options that the artifact needs", list((made.get("session_options") or {}).items())),
        Facts("Model", _named(model)),
        Facts("Artifacts", artifacts),
    )
    return [part for part in parts if part.named]


def _short(found: Found | None) -> Cell:
    """A value without its interval."""
    return Cell(wording.written(found), None, flags_of(found))


def _which(variant: Variant, found: Found | None) -> str:
    """Which of several conditions a measurement is of; nothing where there is one."""
    places = by_place(variant.measurements)
    same = [place for place in places if found is not None and place.name == found.get("name")]
    mine = next((place for place in same if places[place] is found), None)
    return described(mine, varying(same)) if mine is not None and len(same) > 1 else ""


def _together(rows: Sequence[SideBySide]) -> str:
    before, after = (
        sum(time or 0.0 for time in times)
        for times in ([row.original_ms for row in rows], [row.artifact_ms for row in rows])
    )
    return f"{plain(before)} ms and {plain(after)} ms" if rows else ""


def _named(document: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What a document says, a name each; what says nothing is left out."""
    told = ((name.replace("_", " "), _fact(name, value)) for name, value in document.items())
    return [(name, text) for name, text in told if text]


def _fact(name: str, value: Any) -> str:
    text = ", ".join(_leaves(value)) if isinstance(value, dict | list) else _plain_fact(name, value)
    return text if len(text) <= _MOST_FACT_CHARACTERS else text[: _MOST_FACT_CHARACTERS - 1] + "…"


def _leaves(value: Any, path: str = "") -> Iterator[str]:
    """What a document says, leaf by leaf; defaults that say nothing are left out."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}" if path else str(name))
    elif isinstance(value, list):
        if value and not any(isinstance(part, dict | list) for part in value):
            yield f"{path}: {' '.join(map(str, value))}" if path else ", ".join(map(str, value))
        else:
            for part in value:
                yield from _leaves(part, path)
    elif value is not None and value != "":
        yield f"{path}: {_plain_fact(path, value)}" if path else _plain_fact(path, value)


def _plain_fact(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if is_number(value):
        return amount(float(value), "bytes") if name.rpartition(".")[2].endswith("bytes") else f"{value:g}"
    return "" if value is None else str(value)
