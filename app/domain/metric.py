"""The metrics by name: what each says, its direction, and what it needs; and how a job asks for one."""

import difflib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from app.domain.dataset import LABELS
from app.domain.measurement import Better
from app.domain.model import TensorSpec
from app.errors import FieldError


class Metric(BaseModel):
    """A number about what a model computes.

    `needs_labels`: only with an evaluation set that has labels, which are whole numbers. `needs_classes`: only of
    an output whose last axis holds the classes. `relative_to_original`: compares the artifact with the model it
    was made from, so it says nothing of the original itself. `share`: a fraction of rows, each right or wrong, so
    that exact paired intervals apply.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    summary: str
    unit: Literal["fraction", "dB", "nats", "1"]
    better: Better
    needs_labels: bool = False
    needs_classes: bool = False
    relative_to_original: bool = True
    share: bool = False


METRICS: dict[str, Metric] = {
    metric.id: metric
    for metric in (
        Metric(
            id="top1",
            summary="Share of rows whose highest output on the last axis is the label.",
            unit="fraction",
            better="higher",
            needs_labels=True,
            needs_classes=True,
            relative_to_original=False,
            share=True,
        ),
        Metric(
            id="agreement",
            summary="Share of rows whose highest output on the last axis is the original's.",
            unit="fraction",
            better="higher",
            needs_classes=True,
            share=True,
        ),
        Metric(
            id="sqnr_db",
            summary="10·log10(Σy² / Σ(y−ŷ)²) over all rows, in float64, capped at 200.",
            unit="dB",
            better="higher",
        ),
        Metric(
            id="cosine",
            summary="Cosine between the original's and the artifact's output, mean over rows.",
            unit="1",
            better="higher",
        ),
        Metric(
            id="kl",
            summary="Kullback-Leibler divergence original‖artifact after softmax, mean over rows.",
            unit="nats",
            better="lower",
            needs_classes=True,
        ),
    )
}

ALWAYS = ("agreement", "sqnr_db", "cosine")
"""Fidelity to the original, computed for every artifact whether asked for or not."""

LABELLED = ("top1",)
"""Computed besides wherever the rows have labels."""


class MetricOptions(BaseModel):
    """The choices of a metric; no metric has any yet."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class MetricChoice(BaseModel):
    """A metric, and what of a model's outputs and of the rows it looks at."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(examples=["top1"])
    """A metric of `/v1/metrics`."""
    output: str | None = Field(default=None, min_length=1, max_length=512)
    """The output of the model that it looks at; left out, the first one that holds floats."""
    labels: str = Field(default=LABELS, min_length=1, max_length=512)
    """The array of the evaluation dataset that it compares with, where it needs labels."""
    options: MetricOptions = Field(default_factory=MetricOptions)
    """None yet."""


Asked = Annotated[
    Annotated[str, Tag("name")] | Annotated[MetricChoice, Tag("choice")],
    Discriminator(lambda given: "name" if isinstance(given, str) else "choice"),
]
"""How a job asks for a metric: by its name, or with what it looks at."""


def as_choices(asked: Sequence[Asked], besides: Sequence[str] = ()) -> tuple[MetricChoice, ...]:
    """The metrics asked for, each once, and after them those of `besides` that are metrics and not among them."""
    choices = [MetricChoice(name=one) if isinstance(one, str) else one for one in asked]
    named = {choice.name for choice in choices}
    choices += [MetricChoice(name=name) for name in besides if name in METRICS and name not in named]
    return tuple(dict.fromkeys(choices))


def looked_at(outputs: Sequence[TensorSpec], choice: MetricChoice | None = None) -> TensorSpec | None:
    """The output that a metric looks at: the one it names, else the first of floats; None where there is none."""
    if choice is not None and choice.output is not None:
        return next((output for output in outputs if output.name == choice.output), None)
    return next((output for output in outputs if is_float(output.dtype)), None)


def is_float(dtype: str) -> bool:
    """Whether an output of this type can be compared: integers have no distance, and no class axis."""
    return dtype in ("float16", "float32", "float64", "bfloat16")


def choice_problems(choice: MetricChoice, outputs: Sequence[TensorSpec], pointer: str) -> list[FieldError]:
    """What is wrong with a known metric as it is asked for of a model with these outputs, at its place.

    The codes are `output_unknown`, `output_not_float` and `labels_not_used`.
    """
    found: list[FieldError] = []
    if choice.output is not None:
        names = [output.name for output in outputs]
        output = looked_at(outputs, choice)
        if output is None:
            near = difflib.get_close_matches(choice.output, names, n=2)
            hint = f"Did you mean {' or '.join(near)}?" if near else f"It has: {', '.join(names) or 'none'}."
            detail = f"The model has no output {choice.output!r}. {hint}"
            found.append(FieldError(f"{pointer}/output", "output_unknown", detail))
        elif not is_float(output.dtype):
            floats = [output.name for output in outputs if is_float(output.dtype)]
            detail = (
                f"The output {choice.output!r} is {output.dtype}, and metrics compare floats. "
                f"{'Name one of ' + ', '.join(floats) if floats else 'The model has no output of floats'}."
            )
            found.append(FieldError(f"{pointer}/output", "output_not_float", detail))
    if choice.labels != LABELS and not METRICS[choice.name].needs_labels:
        detail = f"{choice.name} compares with the original and not with labels: leave labels out."
        found.append(FieldError(f"{pointer}/labels", "labels_not_used", detail))
    return found


def lacks_classes(choice: MetricChoice, outputs: Sequence[TensorSpec]) -> bool:
    """Whether it is sure that a metric which needs a class axis will find none.

    Which output is compared when none is named shows only when the model runs, so then all must lack one.
    """
    known = [output for output in outputs if choice.output in (None, output.name) and is_float(output.dtype)]
    return METRICS[choice.name].needs_classes and bool(known) and not any(map(_may_have_classes, known))


def _may_have_classes(output: TensorSpec) -> bool:
    if output.shape is None:
        return True
    last = output.shape[-1] if output.shape else 1
    return not isinstance(last, int) or last > 1


def metric_catalogue() -> list[dict[str, Any]]:
    """Describe each metric, as `/v1/metrics` publishes it."""
    return [
        {**metric.model_dump(), "schema": {"type": "object", "properties": {}, "additionalProperties": False}}
        for metric in METRICS.values()
    ]
