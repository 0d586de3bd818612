"""Recipes: what can be done to a model, one frozen type a technique.

The union `Recipe` is at once the REST schema, what `GET /v1/techniques` publishes, and the
argument of the one function in `workers.quantization.techniques.<technique>`.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationInfo, field_validator, model_validator


class _Options(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class OperatorType(_Options):
    """Every node of one operator type."""

    op_type: str = Field(min_length=1, max_length=200, examples=["Softmax"])


MOST_ENTRIES = 1000
"""Nodes, patterns or operator types that a recipe may list: each is looked for among all nodes of a model."""

OpTypes = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=MOST_ENTRIES)]

KeepFloat = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=1024)] | OperatorType, ...],
    Field(
        max_length=MOST_ENTRIES,
        description="Nodes that stay in float: node names, shell-style patterns of them (`/head/*`), or "
        "`{op_type: …}`. A name that matches nothing is an error that suggests near ones.",
        examples=[["/head/*", {"op_type": "Softmax"}]],
    ),
]


Requantize = Annotated[
    bool,
    Field(
        description="Take a model that is quantized already: in QDQ form it is turned back into float first. Other "
        "forms are refused all the same."
    ),
]

CalibrationMethod = Literal["minmax", "moving_average", "mean_extremes", "percentile", "entropy", "mse"]
_OF_EXTREMES = frozenset({"minmax", "moving_average", "mean_extremes"})
RecoveryStep = Literal[
    "bias_correction", "equalization", "smoothquant", "clip_search", "full_range", "range_tuning", "learned_rounding"
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

    @property
    def needs_histograms(self) -> bool:
        """Whether the method asks for more than extremes, which are cheaper to observe."""
        return self.method not in _OF_EXTREMES


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
    op_types: OpTypes = Field(default=("MatMul", "Gemm"), min_length=1)
    """Operator types to quantize. Convolutions only when asked: their dynamic kernels are slow."""
    smoothing: bool = True
    """Where there are calibration rows, and an output's SQNR on them is below 30 dB: smooth activations, and compute
    their few largest channels apart in float, if that brings the outputs nearer (a sentence embedding's by 8 dB)."""
    samples: int = Field(default=200, ge=1, le=10_000)
    """Calibration rows used at most, by `smoothing`."""
    keep_float: KeepFloat = ()
    requantize: Requantize = False


class _Static(_Options):
    """What techniques share whose ranges are found beforehand from calibration rows."""

    calibration: Calibration = Field(default_factory=Calibration)
    """How activation ranges are found."""
    per_channel: bool = True
    """One scale an output channel instead of one a tensor, for weights."""
    weight_bits: Literal[4, 8] = 8
    """4: weights use 15 of the type's numbers. There is no faster kernel for them: a figure of accuracy."""
    recovery: Literal["auto"] | tuple[RecoveryStep, ...] = "auto"
    """Steps that bring a bad result back, tried in this order; what gains nothing is undone. `auto`: those that
    need no training. `range_tuning` and `learned_rounding` need PyTorch, `full_range` a `reduce_range` by layer."""
    sensitivity: bool = False
    """Whether the report says of each layer and tensor what quantizing it costs the outputs. It takes as long as about
    20 runs of the model over 48 rows."""
    op_types: OpTypes = ()
    """Operator types to quantize; empty: all that the runtime has integer kernels for. Convolutions and matrix
    products with stored weights are what is quantized; the others where they stand between those."""
    keep_float: KeepFloat = ()
    requantize: Requantize = False


class StaticInt8(_Static):
    """Weights and activations as 8-bit integers with ranges found beforehand, in QDQ form."""

    technique: Literal["static_int8"] = "static_int8"
    activation_type: Literal["uint8", "int8"] = "uint8"
    """Type of quantized activations."""
    weight_type: Literal["int8", "uint8"] = "int8"
    """Type of the stored weights; int8 where activations are int8."""
    reduce_range: bool | Literal["auto", "by_layer"] = "auto"
    """7-bit weights, which cannot saturate the 16-bit multiply-add of x86 processors without VNNI. `by_layer`: 7 bits,
    but 8 where the recovery step `full_range` finds that hardly anything saturates for it. `auto`: by the target's
    features."""

    @field_validator("weight_type")
    @classmethod
    def _kernels_exist(cls, value: str, info: ValidationInfo) -> str:
        if value == "uint8" and info.data.get("activation_type") == "int8":
            raise ValueError(
                "ONNX Runtime has no kernels for uint8 weights with int8 activations: "
                "take int8 weights, or uint8 activations."
            )
        return value


class StaticInt16(_Static):
    """Activations as 16-bit integers, weights as 8-bit ones, in QDQ form: for size and accuracy, not for speed on a
    processor, where ONNX Runtime multiplies floats between the pairs."""

    technique: Literal["static_int16"] = "static_int16"
    activation_type: Literal["int16", "uint16"] = "int16"
    """Type of quantized activations. int16 is symmetric about zero; uint16 covers what a tensor takes, so that a ReLU
    needs no operator of its own."""
    weights: Literal["exact", "qdq"] = "exact"
    """How products read their weights. `exact`: integers, a Cast and a Mul by the scale, which ONNX Runtime makes
    floats of as it loads the model. `qdq`: DequantizeLinear, which compilers for accelerators look for; ONNX Runtime
    would make 8-bit products of it, so the artifact then requires `session.disable_quant_qdq`."""


Static = StaticInt8 | StaticInt16
"""Techniques whose ranges are found beforehand."""


class WeightOnly(_Options):
    """Weights of matrix products in 8, 4 or 2 bits, in blocks with a scale each; arithmetic as the runtime has it."""

    technique: Literal["weight_only"] = "weight_only"
    bits: Literal[2, 3, 4, 8] = 4
    """Bits a weight. 3 is refused: ONNX Runtime has no kernel for it."""
    block_size: Literal[16, 32, 64, 128, 256, "channel"] = 32
    """Weights that share a scale, along the summed axis; `channel`: one scale an output channel. Blocks of 64 and 128
    run fastest; with 2 bits those of 16 and 256 have no fast kernel."""
    symmetric: bool | Literal["auto"] = "auto"
    """Symmetric blocks have no zero points. `auto`: zero points where they gain accuracy, which costs no time: below 8
    bits, but for `rtn` at 2."""
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
    requantize: Requantize = False


class Float16(_Options):
    """Weights and arithmetic in half precision; for size, where the processor has no native fp16."""

    technique: Literal["float16"] = "float16"
    keep_io_types: bool = True
    """Inputs and outputs stay float32, so that callers need no change."""
    keep_float: KeepFloat = ()
    requantize: Requantize = False


class Bfloat16(_Options):
    """Weights stored in bfloat16 and cast to float32 as the model is loaded: half the file, the same arithmetic."""

    technique: Literal["bfloat16"] = "bfloat16"
    least_elements: int = Field(default=256, ge=1)
    """Weights with fewer elements stay as they are: what they would save is less than their Cast takes."""
    keep_float: KeepFloat = ()
    requantize: Requantize = False


Plain = DynamicInt8 | StaticInt8 | StaticInt16 | WeightOnly | Float16 | Bfloat16
"""Every technique that does one thing."""

Nodes = Annotated[
    tuple[Annotated[str, Field(min_length=1)] | OperatorType, ...],
    Field(
        min_length=1,
        description="Node names, shell-style patterns of them (`/encoder/*`), or `{op_type: …}`. A name that matches "
        "nothing is an error that suggests near ones.",
        examples=[["/encoder/*", {"op_type": "Conv"}]],
    ),
]


class Part(_Options):
    """Some nodes of a model, and what is done to them."""

    nodes: Nodes
    recipe: Annotated[Plain, Field(discriminator="technique")] | None
    """The technique and its options; null: these nodes stay in float."""


class BySensitivity(_Options):
    """Nodes that are found by what quantizing them costs the outputs, until there are enough of them."""

    layers: int | None = Field(default=None, ge=1, le=1000)
    """The most nodes to find: those that save most noise."""
    target_db: float | None = Field(default=None, ge=0, le=200)
    """The SQNR of the outputs, as predicted, at which to stop: those that save most noise for their work come first."""
    recipe: Annotated[DynamicInt8 | WeightOnly | Float16 | Bfloat16, Field(discriminator="technique")] | None = None
    """What is done to them instead; null: they stay in float. Where either makes the outputs worse than the rest's
    technique alone, as measured, that has these nodes too."""

    @model_validator(mode="after")
    def _ends(self) -> "BySensitivity":
        if self.layers is None and self.target_db is None:
            raise ValueError("Say when to stop: give layers, or target_db, or both.")
        return self


class Mixed(_Options):
    """Other techniques side by side in one model, each for the nodes that it is given."""

    technique: Literal["mixed"] = "mixed"
    parts: tuple[Part, ...] = ()
    """A node belongs to the first part that names it. Whatever their order here, techniques work in the order
    dynamic_int8, static_int8 or static_int16, weight_only, float16, bfloat16; parts with the same recipe are one."""
    rest: Annotated[Plain, Field(discriminator="technique")] | None = None
    """What is done to the nodes that no part names; null: they stay in float."""
    by_sensitivity: BySensitivity | None = None
    """Nodes of the rest, whose technique is then a static one, that something more precise is found for."""
    keep_float: KeepFloat = ()

    @model_validator(mode="after")
    def _can_be_made(self) -> "Mixed":
        if self.by_sensitivity is not None and not isinstance(self.rest, Static):
            raise ValueError("by_sensitivity looks at static_int8 or static_int16: make one of them the rest.")
        recipes = recipes_of(self)
        if not recipes:
            raise ValueError("Nothing would be quantized: give a part, or the rest, a recipe.")
        if len({recipe for recipe in recipes if isinstance(recipe, Static)}) > 1:
            raise ValueError(
                "Ranges are found for one static recipe: give all static parts the same options, or some of them "
                "weight_only or dynamic_int8."
            )
        return self


Recipe = Annotated[
    DynamicInt8 | StaticInt8 | StaticInt16 | WeightOnly | Float16 | Bfloat16 | Mixed, Field(discriminator="technique")
]
AnyRecipe = Plain | Mixed

RECIPE: TypeAdapter[AnyRecipe] = TypeAdapter(Recipe)
"""Reads any recipe from plain data."""

TECHNIQUES: dict[str, type[Plain] | type[Mixed]] = {
    "dynamic_int8": DynamicInt8,
    "static_int8": StaticInt8,
    "static_int16": StaticInt16,
    "weight_only": WeightOnly,
    "float16": Float16,
    "bfloat16": Bfloat16,
    "mixed": Mixed,
}
"""Every technique by its name."""

NEEDS_CALIBRATION = frozenset({"static_int8", "static_int16"})
"""Techniques that cannot work without calibration rows."""


NEEDS_ROWS = frozenset({"gptq", "awq"})
"""Algorithms of `weight_only` that cannot work without calibration rows either, though they find no ranges."""


def placed_recipes(recipe: AnyRecipe) -> tuple[tuple[tuple[str | int, ...], Plain], ...]:
    """The recipes that one is made of, each behind its place in it: itself, or those of a mixed recipe's parts."""
    if not isinstance(recipe, Mixed):
        return (((), recipe),)
    found = recipe.by_sensitivity.recipe if recipe.by_sensitivity else None
    each: list[tuple[tuple[str | int, ...], Plain | None]] = [
        *((("parts", index, "recipe"), part.recipe) for index, part in enumerate(recipe.parts)),
        (("by_sensitivity", "recipe"), found),
        (("rest",), recipe.rest),
    ]
    return tuple((place, given) for place, given in each if given is not None)


def recipes_of(recipe: AnyRecipe) -> tuple[Plain, ...]:
    """The recipes that one is made of: itself, or those of a mixed recipe's parts, each once and in their order."""
    return tuple(dict.fromkeys(each for _, each in placed_recipes(recipe)))


def needs_calibration(recipe: AnyRecipe) -> bool:
    """Whether ranges are to be found from calibration rows before a recipe can be followed."""
    return any(each.technique in NEEDS_CALIBRATION for each in recipes_of(recipe))


def fitted_algorithms(recipe: AnyRecipe) -> tuple[str, ...]:
    """The algorithms among a recipe's that fit weights to calibration rows, and cannot work without."""
    asked = [each.algorithm for each in recipes_of(recipe) if isinstance(each, WeightOnly)]
    return tuple(dict.fromkeys(algorithm for algorithm in asked if algorithm in NEEDS_ROWS))


def needs_histograms(recipe: AnyRecipe) -> bool:
    """Whether following a recipe takes more of the activations than their extremes."""
    if isinstance(recipe, Mixed) and recipe.by_sensitivity is not None:
        return True
    static = [each for each in recipes_of(recipe) if isinstance(each, Static)]
    return any(each.sensitivity or each.calibration.needs_histograms for each in static)


def calibration_samples(recipe: AnyRecipe) -> int | None:
    """The most calibration rows that a recipe asks for; null where it says nothing of them."""
    asked = [each.calibration.samples for each in recipes_of(recipe) if isinstance(each, Static)]
    asked += [each.samples for each in recipes_of(recipe) if isinstance(each, DynamicInt8) and each.smoothing]
    asked += [each.samples for each in recipes_of(recipe) if isinstance(each, WeightOnly)]
    return max(asked, default=None)


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
