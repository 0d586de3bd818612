"""A dataset as inspection finds it, and how images become arrays."""

from fractions import Fraction
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from app.domain.model import TensorSpec

Role = Literal["calibration", "tuning", "evaluation", "training"]

ALL = "all"
"""Where a job names one dataset whose rows the service gives to the roles; no role itself."""

LABELS = "labels"
"""The field that holds what is right; every other field is an input of a model, but for the next two."""

GROUPS = "groups"
"""The field that says which rows are of one origin, such as views of one photograph: one number or text a row."""

SLICES = "slices"
"""The field that says which subpopulation a row is of: one number or text a row."""

LEAST_ROWS: dict[Role, int] = {"calibration": 8, "tuning": 8, "evaluation": 20}
"""A role that is given fewer rows by a split is refused: one row of four, or half of few, is kept aside of calibration
to judge recovery steps by, and an interval from fewer than 20 rows spans tens of points."""

_Side = Annotated[int, Field(ge=1, le=8192)]


class Preprocess(BaseModel):
    """How a picture becomes one row of a model's input, in this order: decode, resize, colour,
    `value · scale`, minus `mean`, divided by `std`, layout."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    input: str = Field(min_length=1, max_length=512, examples=["input"])
    """Name of the model's input."""
    size: tuple[_Side, _Side] = Field(examples=[(224, 224)])
    """Height and width of the array, in pixels."""
    resize: Literal["stretch", "crop"] = "stretch"
    """`stretch`: straight to `size`, whatever the proportions. `crop`: keep the proportions, then cut
    `size` out of the middle."""
    shorter_side: _Side | None = None
    """With `crop`: resize the picture's shorter side to this first; left out, just large enough to cut
    `size` out of it. Torchvision's usual pair is 256 and a size of 224."""
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"
    """How pixels between pixels are found, as Pillow does it."""
    colour: Literal["RGB", "BGR", "L"] = "RGB"
    """Order of the channels; `L` is one channel of luminance. Transparency is dropped."""
    scale: float = Field(default=1 / 255, gt=0)
    """Pixels, 0 to 255, are multiplied by this."""
    mean: tuple[float, ...] = (0.0,)
    """Subtracted after scaling: one number, or one a channel."""
    std: tuple[Annotated[float, Field(gt=0)], ...] = (1.0,)
    """Divided by at last: one number, or one a channel."""
    layout: Literal["NCHW", "NHWC"] = "NCHW"
    """Where the channels stand; N is the sample axis."""
    dtype: Literal["float32", "uint8"] = "float32"
    """Type of the array. `uint8` takes pixels as they are: scale 1, no mean, no std."""

    @model_validator(mode="before")
    @classmethod
    def _pixels_as_they_are(cls, given: object) -> object:
        if isinstance(given, dict) and given.get("dtype") == "uint8":
            return {"scale": 1.0, **given}
        return given

    @model_validator(mode="after")
    def _one_of_each_channel(self) -> Self:
        for name, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, self.channels):
                raise ValueError(f"{name} needs one number, or {self.channels}: one a channel of {self.colour}")
        if self.shorter_side is not None:
            if self.resize != "crop":
                raise ValueError("shorter_side belongs to resize: crop")
            if self.shorter_side < max(self.size):
                raise ValueError("shorter_side is smaller than size: nothing of that size can be cut out")
        if self.dtype == "uint8" and (self.scale != 1.0 or set(self.mean) != {0.0} or set(self.std) != {1.0}):
            raise ValueError("dtype uint8 takes pixels as they are: leave scale, mean and std out")
        return self

    @property
    def channels(self) -> int:
        return 1 if self.colour == "L" else 3

    @property
    def row_shape(self) -> tuple[int, int, int]:
        """Shape of one row, without the sample axis."""
        height, width = self.size
        return (self.channels, height, width) if self.layout == "NCHW" else (height, width, self.channels)


_Share = Annotated[float, Field(ge=0, le=1)]
_FINEST = 1_000_000


class Split(BaseModel):
    """Which share of one dataset's rows each role gets; a role that is left out gets none.

    Where a row belongs follows from a hash of what the model is fed with it, or of its group where the dataset has
    `groups`. So it is the same in every job, equal rows and those of one group stay together, rows that are added later
    move none, and shares are met only about.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)

    calibration: _Share = 0.0
    """Of rows from which activation ranges are found."""
    tuning: _Share = 0.0
    """Of rows that guide a search."""
    evaluation: _Share = 0.0
    """Of rows held out of everything else."""

    @model_validator(mode="after")
    def _all_of_them(self) -> Self:
        total = self.calibration + self.tuning + self.evaluation
        if abs(total - 1) > 1 / _FINEST:
            raise ValueError(f"the shares are {total:g} together, and must be 1: a role that is left out gets no rows")
        return self

    @property
    def shares(self) -> dict[Role, float]:
        """Of the roles that get rows, in the order of `ends`."""
        shares: dict[Role, float] = {
            "calibration": self.calibration,
            "tuning": self.tuning,
            "evaluation": self.evaluation,
        }
        return {role: share for role, share in shares.items() if share}

    @property
    def ends(self) -> tuple[Fraction, Fraction]:
        """Where calibration ends and where evaluation begins, of places from 0 to 1.

        Each depends on its own share alone: who changes one of them leaves the rows at the other end where they are.
        """
        low, rest = (Fraction(share).limit_denominator(_FINEST) for share in (self.calibration, 1 - self.evaluation))
        if not self.tuning:
            return (low, low) if self.evaluation else (Fraction(1), Fraction(1))
        return low, max(low, rest)


class DatasetInspection(BaseModel):
    """What `workers.steps.inspect_dataset` found in an upload that it did not reject."""

    model_config = ConfigDict(frozen=True)

    format: Literal["npz", "parquet", "images"]
    rows: int = Field(ge=1)
    fields: tuple[TensorSpec, ...]
    """Every array, `labels` included; shapes without the sample axis."""
    label_range: tuple[int, int] | None = None
    """Least and greatest label where labels are whole numbers."""
    notes: tuple[str, ...] = ()
