"""A model as inspection finds it: what goes in, what comes out, and what it is made of."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Dimension = int | str | None
"""A size, the name of a symbolic size, or null where nothing is known."""

Format = Literal["onnx", "tflite", "pt2", "torchscript"]

UNKNOWN = "unknown"
"""The `dtype` of what a model file does not tell of: TorchScript's inputs and outputs."""

TORCH_TO_ONNX = 'torch.onnx.export(model, (example,), "model.onnx", dynamo=True)'
"""The line that makes ONNX of the module that a file of torch was made from."""


class TensorSpec(BaseModel):
    """A named array: `dtype` as NumPy names it ("float32", "int64", "bool", "string" …), or "unknown".

    `shape` is null where not even the number of axes is known. A model's shape has the batch axis, a
    dataset's has no sample axis.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    dtype: str
    shape: tuple[Dimension, ...] | None

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}{shape_text(self.shape)}"


class ModelInspection(BaseModel):
    """What `workers.steps.inspect_model` found in an upload that it did not reject."""

    model_config = ConfigDict(frozen=True)

    format: Format = "onnx"
    files: tuple[str, ...]
    """The main file first, then those beside it that belong to the model."""
    inputs: tuple[TensorSpec, ...]
    """What a caller must feed; initializers, which older files list as inputs too, are left out."""
    outputs: tuple[TensorSpec, ...]
    opset: int | None
    """Version of the default operator set; null where no operator of it is used, and for other formats than ONNX."""
    opsets: dict[str, int]
    """Every operator set by its domain; the default one is "ai.onnx"."""
    parameters: int = Field(ge=0)
    """Elements of all stored tensors: initializers, Constant nodes, nested bodies, function bodies."""
    operators: dict[str, int]
    """How many nodes of each type, those of nested bodies and function bodies included."""
    quantized: bool
    dynamic: bool
    """Whether an input has an axis without a fixed size."""
    external_data: bool
    notes: tuple[str, ...] = ()


def is_cache(name: str, shape: tuple[Dimension, ...] | None) -> bool:
    """Whether an input holds keys or values of earlier tokens: named so, and of a length that varies.

    The names are those of Hugging Face's exporters (`past_key_values.0.key`, `past_key_0`). Data need not hold it: a
    row then begins without a past.
    """
    return name.startswith("past") and any(not isinstance(axis, int) for axis in (shape or ())[1:])


def shape_text(shape: tuple[Dimension, ...] | None) -> str:
    """A shape as people write it: `[batch, 3, 224, 224]`, `?` for an unknown size."""
    if shape is None:
        return "[…]"
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"
