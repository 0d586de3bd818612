"""Recipes: what can be done to a model, one frozen type a technique.

The union `Recipe` is at once the REST schema, what `GET /v1/techniques` publishes, and the
argument of the one function in `workers.quantization.techniques.<technique>`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationInfo, field_validator


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class OperatorType(_Options):
    """Every node of one operator type."""

    op_type: str = Field(min_length=1, examples=["Softmax"])


KeepFloat = Annotated[
    tuple[Annotated[str, Field(min_length=1)] | OperatorType, ...],
    Field(
        description="Nodes that stay in float: node names, shell-style patterns of them (`/head/*`), or "
        "`{op_type: …}`. A name that matches nothing is an error that suggests near ones.",
        examples=[["/head/*", {"op_type": "Softmax"}]],
    ),
]


CalibrationMethod = Literal["minmax", "moving_average", "mean_extremes", "percentile", "entropy", "mse"]
RecoveryStep = Literal[
    "bias_correction", "equalization", "smoothquant", "clip_search", "range_tuning", "learned_rounding"
]


class Calibration(_Options):
    """How the ranges of activations are found from the calibration rows."""

    method: Literal["auto"] | CalibrationMethod = "auto"
    """`auto`: the method that brings the outputs nearest to the original's. `minmax`: the extremes seen.
    `moving_average`: of the extremes, row after row. `mean_extremes`: the mean of each row's. `percentile`: cuts the
    tails. `entropy`: least KL divergence. `mse`: least squared error."""
    percentile: float = Field(default=99.99, gt=50, le=100)
    """Share of values kept, in percent. Used by `percentile` alone."""
    samples: int = Field(default=200, ge=1, le=100_000)
    """Rows used at most; the first ones of the calibration dataset. Memory does not grow with them."""


class DynamicInt8(_Options):
    """Weights as int8; activations are quantized as they come, at run time."""

    technique: Literal["dynamic_int8"] = "dynamic_int8"
    weight_type: Literal["int8", "uint8"] = "int8"
    """Type of the stored weights."""
    per_channel: bool = True
    """One scale an output channel instead of one a tensor: as fast, and 14 dB nearer on a sentence embedding."""
    reduce_range: bool | Literal["auto"] = "auto"
    """7-bit weights, which cannot saturate the 16-bit multiply-add of x86 processors without VNNI.
    `auto` decides by the target's features."""
    op_types: tuple[str, ...] = Field(default=("MatMul", "Gemm"), min_length=1)
    """Operator types to quantize. Convolutions only when asked: their dynamic kernels are slow."""
    keep_float: KeepFloat = ()


class StaticInt8(_Options):
    """Weights and activations as 8-bit integers with ranges found beforehand, in QDQ form."""

    technique: Literal["static_int8"] = "static_int8"
    calibration: Calibration = Field(default_factory=Calibration)
    """How activation ranges are found."""
    activation_type: Literal["uint8", "int8"] = "uint8"
    """Type of quantized activations."""
    weight_type: Literal["int8", "uint8"] = "int8"
    """Type of the stored weights; int8 where activations are int8."""
    per_channel: bool = True
    """One scale an output channel instead of one a tensor, for weights."""
    reduce_range: bool | Literal["auto"] = "auto"
    """7-bit weights, which cannot saturate the 16-bit multiply-add of x86 processors without VNNI.
    `auto` decides by the target's features."""
    weight_bits: Literal[4, 8] = 8
    """4: weights use 15 of the type's numbers. There is no faster kernel for them: a figure of accuracy."""
    recovery: Literal["auto"] | tuple[RecoveryStep, ...] = "auto"
    """Steps that bring a bad result back, tried in this order; what gains nothing is undone. `auto`: those that
    need no training. `range_tuning` and `learned_rounding` need PyTorch."""
    sensitivity: bool = False
    """Whether the report says of each layer and tensor what quantizing it costs the outputs. It takes as long as about
    20 runs of the model over 48 rows."""
    op_types: tuple[str, ...] = ()
    """Operator types to quantize; empty: all that the runtime has integer kernels for. Convolutions and matrix
    products with stored weights are what is quantized; the others where they stand between those."""
    keep_float: KeepFloat = ()

    @field_validator("weight_type")
    @classmethod
    def _kernels_exist(cls, value: str, info: ValidationInfo) -> str:
        if value == "uint8" and info.data.get("activation_type") == "int8":
            raise ValueError(
                "ONNX Runtime has no kernels for uint8 weights with int8 activations: "
                "take int8 weights, or uint8 activations."
            )
        return value


class WeightOnly(_Options):
    """Weights of matrix products in 8, 4 or 2 bits, in blocks with a scale each; arithmetic as the runtime has it."""

    technique: Literal["weight_only"] = "weight_only"
    bits: Literal[2, 3, 4, 8] = 4
    """Bits a weight. 3 is refused: ONNX Runtime has no kernel for it."""
    block_size: Literal[16, 32, 64, 128, 256, "channel"] = 32
    """Weights that share a scale, along the summed axis; `channel`: one scale an output channel. Blocks of 64 and 128
    run fastest; with 2 bits those of 16 and 256 have no fast kernel."""
    symmetric: bool | Literal["auto"] = "auto"
    """Symmetric blocks have no zero points. `auto`: zero points below 8 bits, where they gain accuracy and cost no
    time."""
    algorithm: Literal["rtn", "mse", "hqq", "gptq", "awq"] = "mse"
    """`rtn`: nearest numbers between the extremes. `mse`: the scale with the least squared error. `hqq`: half-quadratic
    zero points and scales. `gptq`: each column makes up for the error of those before it. `awq`: channels with large
    activations are given finer steps first, then as `gptq`. `gptq` and `awq` need calibration rows."""
    samples: int = Field(default=32, ge=1, le=10_000)
    """Calibration rows used at most, by `gptq` and `awq`."""
    accuracy_level: Literal["auto", 0, 1, 2, 3, 4] = "auto"
    """Type of the arithmetic: 1 and 0 float32, 2 float16, 3 bfloat16, 4 int8. `auto` measures nothing: it takes 4 where
    the target multiplies bytes, and the job checks what it costs (on a small language model 1 % of its perplexity)."""
    form: Literal["matmul_nbits", "qdq"] = "matmul_nbits"
    """`matmul_nbits`: onnxruntime's own operator. `qdq`: standard DequantizeLinear in blocks (opset 21; 25 for 2 bits),
    which onnxruntime turns into its own as it loads the model."""
    embeddings: Literal["keep", "quantize"] = "keep"
    """Tables read by Gather: kept as they are, or quantized in blocks too (in onnxruntime's operator, either form)."""
    heads: Literal["same", "8", "keep"] = "same"
    """The last product before an output: as the rest, in 8 bits, or kept as it is."""
    keep_float: KeepFloat = ()


class Float16(_Options):
    """Weights and arithmetic in half precision; for size, where the processor has no native fp16."""

    technique: Literal["float16"] = "float16"
    keep_io_types: bool = True
    """Inputs and outputs stay float32, so that callers need no change."""
    keep_float: KeepFloat = ()


Recipe = Annotated[DynamicInt8 | StaticInt8 | WeightOnly | Float16, Field(discriminator="technique")]

RECIPE: TypeAdapter[DynamicInt8 | StaticInt8 | WeightOnly | Float16] = TypeAdapter(Recipe)
"""Reads any recipe from plain data."""

TECHNIQUES: dict[str, type[DynamicInt8] | type[StaticInt8] | type[WeightOnly] | type[Float16]] = {
    "dynamic_int8": DynamicInt8,
    "static_int8": StaticInt8,
    "weight_only": WeightOnly,
    "float16": Float16,
}
"""Every technique by its name."""

NEEDS_CALIBRATION = frozenset({"static_int8"})
"""Techniques that cannot work without calibration rows."""


def technique_catalogue() -> list[dict[str, Any]]:
    """Describe each technique with its JSON Schema, as `/v1/techniques` publishes it."""
    return [
        {
            "id": name,
            "summary": (options.__doc__ or "").strip(),
            "needs_calibration": name in NEEDS_CALIBRATION,
            "schema": options.model_json_schema(),
        }
        for name, options in TECHNIQUES.items()
    ]
