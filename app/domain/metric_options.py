"""The choices of metrics: one frozen model for each metric that has any; `/v1/metrics` publishes their JSON Schema."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

Ignored = Annotated[int, Field(ge=-(2**31), lt=2**31)]
OutputName = Annotated[str, Field(min_length=1, max_length=512)]


class MetricOptions(BaseModel):
    """What all options are: frozen, each with its meaning; unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    OUTPUTS: ClassVar[tuple[str, ...]] = ()
    """The options that name an output of the model."""


class F1Options(MetricOptions):
    average: Literal["macro", "micro", "weighted"] = "macro"
    """`macro`: the mean over the classes that the labels have. `weighted`: by how many rows each has. `micro`: of all
    rows at once."""


class ScoreOptions(MetricOptions):
    scores: Literal["auto", "logits", "probabilities"] = "auto"
    """What the output holds. `auto`: probabilities where every value is between 0 and 1 and, of several classes, every
    row sums to 1 within 0.01; else logits."""


class CalibrationErrorOptions(ScoreOptions):
    bins: int = Field(default=15, ge=1, le=100)
    """Bins of equal width, by the confidence in the class that was chosen."""


class PairOptions(MetricOptions):
    OUTPUTS: ClassVar[tuple[str, ...]] = ("against",)

    pairs: Literal["none", "rows"] = "none"
    """`none`: the output is one number a row, which the label is compared with. `rows`: the output is an embedding, and
    what is compared is the cosine of those of rows 2i and 2i + 1, with the label of row 2i."""
    against: OutputName | None = None
    """A second output: what is compared with the label is the cosine of the two of each row."""

    @model_validator(mode="after")
    def _one_kind_of_pair(self) -> Self:
        if self.against is not None and self.pairs == "rows":
            raise ValueError("pairs are of rows or of two outputs: leave out pairs, or against")
        return self


class SequenceOptions(MetricOptions):
    ignore: Ignored = -100
    """The label that pads: positions that hold it are not counted."""


class DecodedOptions(SequenceOptions):
    blank: Ignored | None = None
    """The class of the blank of CTC: the best class of each position is taken, repeats are merged and blanks dropped.
    Without it the best classes are taken as they are, at the positions that the labels do not ignore."""


class WordOptions(DecodedOptions):
    separator: Ignored
    """The class that stands between words."""


class DetectionOptions(MetricOptions):
    OUTPUTS: ClassVar[tuple[str, ...]] = ("scores", "classes")

    scores: OutputName
    """The output with the scores: [rows, detections], or [rows, detections, classes] where each class has its own."""
    classes: OutputName | None = None
    """The output with the class of each detection, [rows, detections]; left out where scores have a class axis, or
    where there is one class alone."""
    format: Literal["xyxy", "xywh", "cxcywh"] = "xyxy"
    """What the four numbers of a box are, in the metric's `output`, [rows, detections, 4]: two corners, a corner and a
    size, or a centre and a size."""
    labels_format: Literal["xyxy", "xywh", "cxcywh"] | None = None
    """The same of the labels' boxes; left out, as the output's."""
    coordinates: Literal["pixels", "normalized"] = "pixels"
    """The output's boxes are in pixels, or in shares of the picture's width and height."""
    labels_coordinates: Literal["pixels", "normalized"] | None = None
    """The same of the labels' boxes; left out, as the output's."""
    size: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]] | None = None
    """Height and width of the picture in pixels, where one kind of box is in pixels and the other normalized."""
    ignore: Ignored = -1
    """The class of a label that pads: such boxes are none."""
    iou: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Count at this overlap alone; left out, the mean over 0.5, 0.55 … 0.95."""

    @model_validator(mode="after")
    def _size_where_needed(self) -> Self:
        if self.labels_coordinates not in (None, self.coordinates) and self.size is None:
            raise ValueError("boxes in pixels and normalized ones can be compared only with the picture's size")
        return self


class SegmentationOptions(MetricOptions):
    ignore: Ignored | None = 255
    """The label of points that are not counted; null counts all."""
    classes_axis: Literal["auto", "first", "last"] = "auto"
    """Where the classes stand in a row of the output, for labels [rows, height, width]. An output of the labels' own
    shape holds the classes themselves."""


class RetrievalOptions(MetricOptions):
    k: int = Field(default=1, ge=1, le=1000)
    """A row is right where one of the k others nearest to it has its label."""
    distance: Literal["cosine", "dot", "euclidean"] = "cosine"
    """What near means; `dot`: the greatest inner product."""
