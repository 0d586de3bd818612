"""The metrics by name: what each says, its direction, and what it needs; and how a job asks for one."""

import difflib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from app.domain.dataset import LABELS
from app.domain.measurement import Better
from app.domain.metric_options import (
    CalibrationErrorOptions,
    DecodedOptions,
    DetectionOptions,
    F1Options,
    MetricOptions,
    PairOptions,
    RetrievalOptions,
    ScoreOptions,
    SegmentationOptions,
    SequenceOptions,
    WordOptions,
)
from app.domain.model import UNKNOWN, TensorSpec
from app.errors import FieldError

LabelKind = Literal["classes", "numbers", "sequences", "objects", "masks", "keys"]
"""What labels are. `classes`: the places of right classes on the output's last axis, whole numbers. `numbers`: what
is to be predicted. `sequences`: [rows, positions] of classes, padded. `objects`: [rows, objects, 5], each a class and
a box. `masks`: a class for each point of a picture. `keys`: whole numbers that rows of one kind share."""


class Metric(BaseModel):
    """A number about what a model computes.

    `labels` says what labels it compares with, None where it needs none. `needs_classes`: only of an output whose
    last axis holds the classes. `relative_to_original`: compares the artifact with the model it was made from, so it
    says nothing of the original itself; `ideal` is then what the original has compared with itself, None where there
    is no best value. `share`: a fraction of rows, each right or wrong, so that exact paired intervals apply. `extreme`:
    the greatest of all rows, of which those at hand show only how great it is at least. `options` are its choices.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    summary: str
    unit: Literal["fraction", "dB", "nats", "1"]
    better: Better
    labels: LabelKind | None = None
    needs_classes: bool = False
    relative_to_original: bool = False
    ideal: float | None = Field(default=None, exclude=True)
    share: bool = False
    extreme: bool = Field(default=False, exclude=True)
    options: type[MetricOptions] | None = Field(default=None, exclude=True)

    @property
    def needs_labels(self) -> bool:
        """Whether it is computed only with an evaluation set that has labels."""
        return self.labels is not None


def _of_classes(name: str, summary: str, **more: Any) -> Metric:
    return Metric(
        id=name,
        summary=summary,
        unit="fraction",
        **{"better": "higher", "labels": "classes", "needs_classes": True} | more,
    )


def _of_sequences(name: str, summary: str, **more: Any) -> Metric:
    return Metric(
        id=name,
        summary=summary,
        **{"unit": "fraction", "better": "higher", "labels": "sequences", "needs_classes": True} | more,
    )


def _of_numbers(name: str, summary: str, **more: Any) -> Metric:
    return Metric(id=name, summary=summary, unit="1", labels="numbers", **more)


METRICS: dict[str, Metric] = {
    metric.id: metric
    for metric in (
        _of_classes(
            "top1",
            "Share of rows whose highest output on the last axis is the label; or any of several, filled up with -1.",
            share=True,
        ),
        _of_classes(
            "top5",
            "Share of rows with the label, or any of several, among the five highest outputs on the last axis.",
            share=True,
        ),
        _of_classes(
            "f1",
            "Harmonic mean of precision and recall, over the classes that the labels have.",
            options=F1Options,
        ),
        _of_classes("balanced_accuracy", "Recall, mean over the classes that the labels have."),
        _of_classes("worst_class", "Recall of the class with the least, of those that the labels have."),
        _of_classes(
            "auc",
            "Area under the ROC curve: of two classes that of class 1, of more the mean of each against the rest.",
            needs_classes=False,
            options=ScoreOptions,
        ),
        _of_classes(
            "ece",
            "Expected calibration error: by how much confidence and accuracy differ, mean over bins of confidence.",
            better="lower",
            needs_classes=False,
            options=CalibrationErrorOptions,
        ),
        _of_numbers("mae", "Mean absolute error of numbers.", better="lower"),
        _of_numbers("rmse", "Root of the mean squared error of numbers.", better="lower"),
        _of_numbers(
            "r2",
            "Share of the labels' variance that the output explains; of several numbers a row the mean.",
            better="higher",
        ),
        _of_numbers("pearson", "Pearson's correlation with the labels.", better="higher", options=PairOptions),
        _of_numbers("spearman", "Spearman's rank correlation with the labels.", better="higher", options=PairOptions),
        _of_sequences(
            "token_accuracy",
            "Share of positions whose highest output is the label, the ignored ones left out.",
            options=SequenceOptions,
        ),
        _of_sequences(
            "cer",
            "Edits from the decoded sequence to the labels, by length of the labels.",
            better="lower",
            options=DecodedOptions,
        ),
        _of_sequences(
            "wer",
            "Edits of words from the decoded sequence to the labels, by words of the labels.",
            better="lower",
            options=WordOptions,
        ),
        _of_sequences(
            "exact_match",
            "Share of rows whose decoded sequence is the labels' to the last.",
            share=True,
            options=DecodedOptions,
        ),
        _of_sequences(
            "perplexity",
            "Exponential of the mean nats that the next tokens cost, the ignored ones left out.",
            unit="1",
            better="lower",
            options=SequenceOptions,
        ),
        _of_sequences(
            "next_token",
            "Share of positions whose highest output is the original's, those of ignored labels left out.",
            relative_to_original=True,
            ideal=1.0,
            options=SequenceOptions,
        ),
        Metric(
            id="coco_map",
            summary="Mean average precision of detected boxes as COCO has it, over the classes that the labels have.",
            unit="fraction",
            better="higher",
            labels="objects",
            options=DetectionOptions,
        ),
        Metric(
            id="miou",
            summary="Intersection over union of predicted and labelled points, mean over the classes that occur.",
            unit="fraction",
            better="higher",
            labels="masks",
            options=SegmentationOptions,
        ),
        Metric(
            id="retrieval_recall",
            summary="Share of rows that find another row of their label among the k nearest by their embeddings.",
            unit="fraction",
            better="higher",
            labels="keys",
            options=RetrievalOptions,
        ),
        Metric(
            id="agreement",
            summary="Share of rows whose highest output on the last axis is the original's.",
            unit="fraction",
            better="higher",
            needs_classes=True,
            relative_to_original=True,
            ideal=1.0,
            share=True,
        ),
        Metric(
            id="sqnr_db",
            summary="10·log10(Σy² / Σ(y−ŷ)²) over all rows, in float64, capped at 200.",
            unit="dB",
            better="higher",
            relative_to_original=True,
        ),
        Metric(
            id="cosine",
            summary="Cosine between the original's and the artifact's output, mean over rows.",
            unit="1",
            better="higher",
            relative_to_original=True,
            ideal=1.0,
        ),
        Metric(
            id="kl",
            summary="Kullback-Leibler divergence original‖artifact after softmax, mean over rows.",
            unit="nats",
            better="lower",
            needs_classes=True,
            relative_to_original=True,
            ideal=0.0,
        ),
        Metric(
            id="max_error",
            summary="Greatest difference between the original's and the artifact's output, over all rows.",
            unit="1",
            better="lower",
            relative_to_original=True,
            ideal=0.0,
            extreme=True,
        ),
    )
}

ALWAYS = ("agreement", "sqnr_db", "cosine")
"""Fidelity to the original, computed for every artifact whether asked for or not."""

LABELLED = ("top1",)
"""Computed besides wherever the rows have labels."""


def options_of(name: str, given: Mapping[str, Any] | None = None) -> MetricOptions:
    """The options of a known metric, its defaults for those not given. Raises pydantic's ValidationError."""
    return (METRICS[name].options or MetricOptions).model_validate(dict(given or {}))


class MetricChoice(BaseModel):
    """A metric, and what of a model's outputs and of the rows it looks at."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: str = Field(examples=["top1"])
    """A metric of `/v1/metrics`."""
    output: str | None = Field(default=None, min_length=1, max_length=512)
    """The output of the model that it looks at; left out, the first one that holds floats."""
    labels: str = Field(default=LABELS, min_length=1, max_length=512)
    """The array of the evaluation dataset that it compares with, where it needs labels."""
    options: dict[str, Any] = Field(default_factory=dict)
    """What `/v1/metrics` has as the metric's schema."""


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
    return tuple(choice for number, choice in enumerate(choices) if choice not in choices[:number])


def looked_at(outputs: Sequence[TensorSpec], choice: MetricChoice | None = None) -> TensorSpec | None:
    """The output that a metric looks at: the one it names, else the first of floats; None where there is none."""
    if choice is not None and choice.output is not None:
        return next((output for output in outputs if output.name == choice.output), None)
    return next((output for output in outputs if is_float(output.dtype)), None)


def is_float(dtype: str) -> bool:
    """Whether an output of this type can be compared: integers have no distance, and no class axis.

    Of what a file does not tell, it is assumed.
    """
    return dtype in ("float16", "float32", "float64", "bfloat16", UNKNOWN)


def choice_problems(choice: MetricChoice, outputs: Sequence[TensorSpec], pointer: str) -> list[FieldError]:
    """What is wrong with a known metric as it is asked for of a model with these outputs, at its place.

    The codes are `output_unknown`, `output_not_float` and `labels_not_used`.
    """
    found: list[FieldError] = []
    if choice.output is not None:
        output = looked_at(outputs, choice)
        if output is None:
            found.append(FieldError(f"{pointer}/output", "output_unknown", _no_output(choice.output, outputs)))
        elif not is_float(output.dtype):
            floats = [output.name for output in outputs if is_float(output.dtype)]
            detail = (
                f"The output {choice.output!r} is {output.dtype}, and metrics compare floats. "
                f"{'Name one of ' + ', '.join(floats) if floats else 'The model has no output of floats'}."
            )
            found.append(FieldError(f"{pointer}/output", "output_not_float", detail))
    for option, name in named_outputs(choice).items():
        if all(output.name != name for output in outputs):
            found.append(FieldError(f"{pointer}/options/{option}", "output_unknown", _no_output(name, outputs)))
    if choice.labels != LABELS and not METRICS[choice.name].needs_labels:
        detail = f"{choice.name} compares with the original and not with labels: leave labels out."
        found.append(FieldError(f"{pointer}/labels", "labels_not_used", detail))
    return found


def named_outputs(choice: MetricChoice) -> dict[str, str]:
    """The outputs that the options of a known metric name, by option."""
    kind = METRICS[choice.name].options
    named = {option: choice.options.get(option) for option in (kind.OUTPUTS if kind is not None else ())}
    return {option: name for option, name in named.items() if isinstance(name, str)}


def _no_output(name: str, outputs: Sequence[TensorSpec]) -> str:
    names = [output.name for output in outputs]
    near = difflib.get_close_matches(name, names, n=2)
    hint = f"Did you mean {' or '.join(near)}?" if near else f"It has: {', '.join(names) or 'none'}."
    return f"The model has no output {name!r}. {hint}"


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
        {
            **metric.model_dump(),
            "needs_labels": metric.needs_labels,
            "schema": (metric.options or MetricOptions).model_json_schema(),
        }
        for metric in METRICS.values()
    ]
