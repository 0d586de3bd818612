"""A report as one page that needs nothing else: no script, no font, no image, no network.

What it says comes from strangers in part, so `legible` goes over all of it first, jinja2 escapes what is written,
and the page forbids itself everything but its own style.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import ChainableUndefined, Environment, PackageLoader
from markupsafe import Markup

from workers.evaluation.words import amount, plain
from workers.report import profiles, sections, wording
from workers.report.legible import legible, shortened
from workers.report.places import counted
from workers.report.variants import accuracy_metric, is_number, shown, variants_of

POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The page's own Content-Security-Policy, for where it is opened from a disk."""

FONTS = Path(__file__).parent / "plots" / "fonts.json"
"""The list of fonts that matplotlib makes where it finds none, with the one that is used: looking at all fonts of a
machine takes half a second of each report. Another version of the list is passed over, and made anew."""


def render(document: Mapping[str, Any], *, cache: Path) -> str:
    """The page of a report, as `workers.steps.report` makes it.

    Whatever sections are missing are named where a reader would look for them. `cache` is a folder of matplotlib's
    own.
    """
    os.environ.setdefault("MPLCONFIGDIR", str(cache))
    shutil.copyfile(FONTS, cache / f"fontlist-v{json.loads(FONTS.read_bytes())['_version']}.json")
    from workers.report import plots  # once it knows where to write

    report = legible(document)
    variants = variants_of(report)
    subject = shown(variants)
    metric = accuracy_metric(variants)
    doubts = profiles.doubts_of_all(report, variants)
    environment = Environment(
        loader=PackageLoader("workers.report", "."),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "wording": wording,
        "shortened": shortened,
        "counted": counted,
        "verdicts": ("met", "missed", "undecided"),
    }
    environment.filters |= {
        "plain": _number,
        "ms": lambda value: profiles.operator_time(report, value),
        "share": lambda value: amount(value, "fraction") if is_number(value) else "",
        "bytes": lambda value: amount(float(value), "bytes") if is_number(value) else "",
        "count": _count,
    }
    page = environment.get_template("page.html.j2")
    return page.render(
        policy=POLICY,
        style=Markup(environment.loader.get_source(environment, "page.css")[0]),  # type: ignore[union-attr]
        report=report,
        variants=variants,
        subject=subject,
        head=sections.heading(report, subject),
        figures_=sections.key_figures(variants, subject, metric),
        rows=sections.measurement_rows(variants[0], subject),
        rows_of=lambda other: sections.measurement_rows(variants[0], other),
        overview=sections.overview(variants, metric),
        flags=sections.flags(variants, doubts),
        profiled={"doubts": doubts, "said": profiles.sentences(report, [variants[0], *([subject] if subject else [])])},
        plots=plots.all_plots(report, variants, subject, metric),
        operators=sections.operator_rows(report, subject),
        layers=sections.layer_rows(subject),
        facts=sections.facts(report, subject),
        data=sections.data_rows(report),
        steps=sections.step_rows(report),
    )


def _number(value: Any) -> str:
    return plain(float(value)) if is_number(value) else "–"


def _count(value: Any) -> str:
    return f"{value:,}" if is_number(value) else "–"
