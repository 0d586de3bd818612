"""The original and what was made of it, as a page looks at them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.domain.metric import ALWAYS, METRICS
from workers.report.legible import shortened

_NAME_CHARACTERS = 40

Found = Mapping[str, Any]
"""A measurement as a report has it."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One model of a report. `number` is 0 for the original, and gives its colour; `name` is what people call it."""

    number: int
    id: str
    name: str
    measurements: Sequence[Found]
    document: Mapping[str, Any]
    drops: Mapping[str, Found]
    chosen: bool = False

    def measured(self, name: str) -> Found | None:
        """The first measurement of a name that has a value: that under the conditions which goals use."""
        return next((one for one in self.measurements if one.get("name") == name and is_number(one.get("value"))), None)

    def compared(self, name: str) -> Found | None:
        """How it compares with the original in a measurement, paired."""
        found = self.document.get("comparisons") or ()
        return next((one for one in found if one.get("name") == name and is_number(one.get("ratio"))), None)


def variants_of(document: Mapping[str, Any]) -> list[Variant]:
    """The original first, then the candidates as the report has them."""
    baseline = document.get("baseline") or {}
    candidates = document.get("candidates") or []
    drops = document.get("drops") or {}
    techniques = [
        shortened(str((found.get("recipe") or {}).get("technique") or "variant"), _NAME_CHARACTERS)
        for found in candidates
    ]
    variants = [Variant(0, "original", "original", list(baseline.get("measurements") or ()), baseline, {})]
    for place, found in enumerate(candidates):
        technique = techniques[place]
        several = techniques.count(technique) > 1
        name = f"{technique} {techniques[: place + 1].count(technique)}" if several else technique
        identity = str(found.get("id") or place)
        variants.append(
            Variant(
                number=place + 1,
                id=identity,
                name=name,
                measurements=list(found.get("measurements") or ()),
                document=found,
                drops={str(drop.get("metric")): drop for drop in drops.get(identity) or ()},
                chosen=identity == document.get("chosen"),
            )
        )
    return variants


def shown(variants: Sequence[Variant]) -> Variant | None:
    """The candidate that the page is about: the one chosen, else the first; null where nothing was made."""
    made = variants[1:]
    return next((variant for variant in made if variant.chosen), made[0] if made else None)


def accuracy_metric(variants: Sequence[Variant]) -> str | None:
    """What accuracy is on this page: the first metric of the task that all have, else of fidelity to the original."""
    made = variants[1:] or variants
    names = [str(one.get("name")) for one in made[0].measurements]
    tasks = [name for name in names if name in METRICS and not METRICS[name].relative_to_original]
    if found := next((name for name in tasks if all(variant.measured(name) for variant in variants)), None):
        return found
    fidelity = [*ALWAYS, *(name for name in names if name in METRICS)]
    return next((name for name in fidelity if all(variant.measured(name) for variant in made)), None)


def is_number(value: Any) -> bool:
    """Whether a report has a number there, and not a hole."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def ends_of(found: Found | None) -> tuple[float, float] | None:
    """The ends of an interval, where there is one."""
    ends = (found or {}).get("ci95")
    if isinstance(ends, list | tuple) and len(ends) == 2 and all(map(is_number, ends)):
        return float(ends[0]), float(ends[1])
    return None
