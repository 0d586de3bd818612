"""What the service takes and answers, as typed dictionaries.

Written by `client/generate_types.py` from openapi.json; not to be edited by hand. A service newer than
this client may answer with more keys.
"""

from typing import Any, Literal, NotRequired, TypedDict


class Absence(TypedDict):
    """Where something cannot be had, and why."""

    reason: str
    target: str


class Artifact(TypedDict):
    """A file that a job made."""

    bytes: int
    candidate: str
    created_at: str
    file_name: str
    id: str
    job: str
    links: dict[str, str]
    sha256: str


class Budget(TypedDict):
    """What the search may spend."""

    candidates: NotRequired[int]
    seconds: NotRequired[float]


class Calibration(TypedDict):
    """How the ranges of activations are found from the calibration rows."""

    method: NotRequired[
        Literal["auto"] | Literal["minmax", "moving_average", "mean_extremes", "percentile", "entropy", "mse"]
    ]
    """
    `auto`: the method that brings the outputs nearest to the original's. `minmax`: the extremes seen.
    `moving_average`: of the extremes, row after row. `mean_extremes`: the mean of each row's. `percentile`: cuts the
    tails. `entropy`: least KL divergence. `mse`: least squared error.
    """
    percentile: NotRequired[float]
    """Share of values kept, in percent. Used by `percentile` alone."""
    samples: NotRequired[int]
    """Rows used at most; the first ones of the calibration dataset. Memory does not grow with them."""


class Constraint(TypedDict):
    """A bound on a metric or measurement: at most one drop, one floor or one ceiling."""

    max: NotRequired[float | None]
    """The greatest value that will do."""
    max_drop: NotRequired[float | None]
    """By how much the artifact may be worse than the original; shares as fractions (0.01: one point)."""
    metric: str
    """A metric of `/v1/metrics`, or a measurement such as `latency_p50` or `artifact_bytes`."""
    min: NotRequired[float | None]
    """The least value that will do."""
    relative: NotRequired[bool]
    """`max_drop` is a fraction of the original's value."""


class ConstraintStanding(TypedDict):
    """What a constraint says of a variant; `unknown` is what was not measured."""

    constraint: str
    standing: Literal["met", "missed", "undecided", "unknown"]


class DatasetRoles(TypedDict):
    """Which dataset plays which part: one for each role, of which no row may be in another too, or one for `all`."""

    all: NotRequired[str | None]
    """One dataset instead of one for each role: the service gives each of its rows one role, as `split` says."""
    calibration: NotRequired[str | None]
    """Rows from which activation ranges are found."""
    evaluation: NotRequired[str | None]
    """Rows held out of everything else, on which the verdict is given."""
    training: NotRequired[str | None]
    """Rows for techniques that train."""
    tuning: NotRequired[str | None]
    """Rows that guide a search."""


class Failure(TypedDict):
    """Why something failed: the fields of a problem document that describe it."""

    code: str
    detail: str
    errors: NotRequired[list[dict[str, Any]]]
    retryable: NotRequired[bool]
    stage: NotRequired[str | None]


class FrontierChoice(TypedDict):
    """
    The variant with the least of what is minimized that meets every constraint; null with a reason.

    `indistinguishable` meet them too, and their intervals reach as low.
    """

    indistinguishable: list[str]
    reason: str | None
    variant: str | None


class Goal(TypedDict):
    """What the best artifact is."""

    budget: NotRequired[Budget]
    confidence: NotRequired[float]
    """How sure the gate must be, one-sided."""
    constraints: NotRequired[list[Constraint]]
    """What must hold on the evaluation rows."""
    minimize: NotRequired[
        Literal["latency", "size", "memory"] | dict[Literal["latency", "size", "memory"], float]
    ]
    """What to make small: one name, or a weight for each of several."""


class Health(TypedDict):
    """The process answers."""

    status: NotRequired[str]


class LatencyEvidence(TypedDict):
    """
    What finished jobs measured of a technique on one machine, undisturbed, by the usual runtime, at the conditions
    that their goals use.
    """

    faster: int
    """Models of which every interval lies below 1."""
    jobs: int
    latency_ratio: float
    """Latency as a multiple of the original's: the median over models of the median over each one's jobs."""
    models: int
    slower: int
    """Models of which every interval lies above 1."""


class Limits(TypedDict):
    """When to give up."""

    queue_seconds: NotRequired[float]
    """A job still queued after this fails with `queue_timeout`."""
    run_seconds: NotRequired[float]
    """
    A job that runs longer than this fails with `time_limit_exceeded`; waiting for others to measure on the machine,
    or for the machine to be free to measure on, does not count.
    """


class Load(TypedDict):
    """Kinds of load that a model is measured under beside single calls; each takes `seconds`, in several processes."""

    callers: NotRequired[list[int]]
    """Callers side by side, each of which calls again when its last call is done."""
    rates: NotRequired[list[float]]
    """Calls a second that arrive at random, served by as many callers as the last of `callers`."""
    seconds: NotRequired[float]


class Measure(TypedDict):
    """The conditions that latency is measured under."""

    batch: NotRequired[list[int]]
    """Rows a call; each is measured with each number of `threads`, and goals use the first."""
    cases: NotRequired[dict[str, dict[str, list[int]]]]
    """
    Further shapes of inputs by a name of yours, such as `prefill` and `step` of a decoder: latency is measured at
    each of them too, on made-up values, with the first of `threads`.
    """
    load: NotRequired[Load | None]
    """Left out, only single calls are measured."""
    runtime: NotRequired[Literal["onnxruntime", "openvino", "litert", "torch"] | Literal["auto"] | None]
    """
    What runs the model; left out, onnxruntime, LiteRT for TFLite models and torch for its own. `auto` times it on
    every runtime that the worker has, and says which wins; metrics, and goals, are those of the usual one.
    """
    seconds: NotRequired[float | None]
    """Time for one condition's latency, over all of its processes; left out, what the worker is set to."""
    shapes: NotRequired[dict[str, list[int]]]
    """Shape of an input whose axes are dynamic, the batch axis included, when no dataset tells."""
    threads: NotRequired[list[int]]
    """Intra-op threads; each is measured with each number of `batch`, and goals use the first."""
    width: NotRequired[float]
    """Latency is measured until the 95 % interval of its median is no wider than this share of it, or time is up."""


class MeasuredData(TypedDict):
    """The rows that metrics were computed on; only those of an evaluation dataset were held out."""

    dataset: str | None
    source: Literal["evaluation", "calibration", "synthetic"]


class Measurement(TypedDict):
    """
    One measured, estimated or absent number.

    `value` is in `unit` and null only where `method` is "absent", which then has a `reason`.
    `ci95` is a two-sided 95 % interval in the same unit. `conditions` name what the number holds
    for (threads, batch, runtime, rows, what was held out …). `flags` say what speaks against it,
    such as "noisy" where the machine was disturbed, or "synthetic" for random input.
    """

    better: Literal["higher", "lower"]
    ci95: NotRequired[tuple[float, float] | None]
    conditions: NotRequired[dict[str, Any]]
    count: NotRequired[int | None]
    """How many samples or rows stand behind the value."""
    flags: NotRequired[list[str]]
    method: NotRequired[Literal["measured", "estimated", "absent"]]
    name: str
    reason: NotRequired[str | None]
    unit: str
    value: float | None


class MetricChoice(TypedDict):
    """A metric, and what of a model's outputs and of the rows it looks at."""

    labels: NotRequired[str]
    """The array of the evaluation dataset that it compares with, where it needs labels."""
    name: str
    """A metric of `/v1/metrics`."""
    options: NotRequired[dict[str, Any]]
    """What `/v1/metrics` has as the metric's schema."""
    output: NotRequired[str | None]
    """The output of the model that it looks at; left out, the first one that holds floats."""


class Multiple(TypedDict):
    """A ratio with its two-sided 95 % interval, where there is one."""

    ci95: tuple[float, float] | None
    ratio: float


class OperatorType(TypedDict):
    """Every node of one operator type."""

    op_type: str


class Preprocess(TypedDict):
    """
    How a picture becomes one row of a model's input, in this order: decode, resize, colour,
    `value · scale`, minus `mean`, divided by `std`, layout.
    """

    colour: NotRequired[Literal["RGB", "BGR", "L"]]
    """Order of the channels; `L` is one channel of luminance. Transparency is dropped."""
    dtype: NotRequired[Literal["float32", "uint8"]]
    """Type of the array. `uint8` takes pixels as they are: scale 1, no mean, no std."""
    input: str
    """Name of the model's input."""
    interpolation: NotRequired[Literal["nearest", "bilinear", "bicubic", "lanczos"]]
    """How pixels between pixels are found, as Pillow does it."""
    layout: NotRequired[Literal["NCHW", "NHWC"]]
    """Where the channels stand; N is the sample axis."""
    mean: NotRequired[list[float]]
    """Subtracted after scaling: one number, or one a channel."""
    resize: NotRequired[Literal["stretch", "crop"]]
    """
    `stretch`: straight to `size`, whatever the proportions. `crop`: keep the proportions, then cut
    `size` out of the middle.
    """
    scale: NotRequired[float]
    """Pixels, 0 to 255, are multiplied by this."""
    shorter_side: NotRequired[int | None]
    """
    With `crop`: resize the picture's shorter side to this first; left out, just large enough to cut
    `size` out of it. Torchvision's usual pair is 256 and a size of 224.
    """
    size: tuple[int, int]
    """Height and width of the array, in pixels."""
    std: NotRequired[list[float]]
    """Divided by at last: one number, or one a channel."""


class ProblemField(TypedDict):
    """One thing that is wrong with one field."""

    code: str
    detail: str
    pointer: str
    """RFC 6901 pointer into the request body."""


class Readiness(TypedDict):
    """Each part: `ok`, or what is wrong. `warnings` do not make the service unready."""

    parts: dict[str, str]
    status: str
    warnings: list[str]


class RecoveryStepEntry(TypedDict):
    """A step that brings a bad result back, and the targets whose workers cannot take it."""

    absent_on: list[Absence]
    id: str
    needs: list[str]
    summary: str


class Split(TypedDict):
    """
    Which share of one dataset's rows each role gets; a role that is left out gets none.

    Where a row belongs follows from a hash of what the model is fed with it, or of its group where the dataset has
    `groups`. So it is the same in every job, equal rows and those of one group stay together, rows that are added later
    move none, and shares are met only about.
    """

    calibration: NotRequired[float]
    """Of rows from which activation ranges are found."""
    evaluation: NotRequired[float]
    """Of rows held out of everything else."""
    tuning: NotRequired[float]
    """Of rows that guide a search."""


class StaticInt16(TypedDict):
    """
    Activations as 16-bit integers, weights as 8-bit ones, in QDQ form: for size and accuracy, not for speed on a
    processor, where ONNX Runtime multiplies floats between the pairs.
    """

    activation_type: NotRequired[Literal["int16", "uint16"]]
    """
    Type of quantized activations. int16 is symmetric about zero; uint16 covers what a tensor takes, so that a ReLU
    needs no operator of its own.
    """
    calibration: NotRequired[Calibration]
    """How activation ranges are found."""
    keep_float: NotRequired[list[str | OperatorType]]
    """Nodes that stay in float: node names, shell-style patterns of them (`/head/*`), or `{op_type: …}`. A name that matches nothing is an error that suggests near ones."""
    op_types: NotRequired[list[str]]
    """
    Operator types to quantize; empty: all that the runtime has integer kernels for. Convolutions and matrix
    products with stored weights are what is quantized; the others where they stand between those.
    """
    per_channel: NotRequired[bool]
    """One scale an output channel instead of one a tensor, for weights."""
    recovery: NotRequired[
        Literal["auto"]
        | list[
            Literal[
                "bias_correction",
                "equalization",
                "smoothquant",
                "clip_search",
                "full_range",
                "range_tuning",
                "learned_rounding",
            ]
        ]
    ]
    """
    Steps that bring a bad result back, tried in this order; what gains nothing is undone. `auto`: those that
    need no training. `range_tuning` and `learned_rounding` need PyTorch, `full_range` a `reduce_range` by layer.
    """
    requantize: NotRequired[bool]
    """Take a model that is quantized already: in QDQ form it is turned back into float first. Other forms are refused all the same."""
    sensitivity: NotRequired[bool]
    """
    Whether the report says of each layer and tensor what quantizing it costs the outputs. It takes as long as about
    20 runs of the model over 48 rows.
    """
    technique: Literal["static_int16"]
    weight_bits: NotRequired[Literal[4, 8]]
    """4: weights use 15 of the type's numbers. There is no faster kernel for them: a figure of accuracy."""
    weights: NotRequired[Literal["exact", "qdq"]]
    """
    How products read their weights. `exact`: integers, a Cast and a Mul by the scale, which ONNX Runtime makes
    floats of as it loads the model. `qdq`: DequantizeLinear, which compilers for accelerators look for; ONNX Runtime
    would make 8-bit products of it, so the artifact then requires `session.disable_quant_qdq`.
    """


class StaticInt8(TypedDict):
    """Weights and activations as 8-bit integers with ranges found beforehand, in QDQ form."""

    activation_type: NotRequired[Literal["uint8", "int8"]]
    """Type of quantized activations."""
    calibration: NotRequired[Calibration]
    """How activation ranges are found."""
    keep_float: NotRequired[list[str | OperatorType]]
    """Nodes that stay in float: node names, shell-style patterns of them (`/head/*`), or `{op_type: …}`. A name that matches nothing is an error that suggests near ones."""
    op_types: NotRequired[list[str]]
    """
    Operator types to quantize; empty: all that the runtime has integer kernels for. Convolutions and matrix
    products with stored weights are what is quantized; the others where they stand between those.
    """
    per_channel: NotRequired[bool]
    """One scale an output channel instead of one a tensor, for weights."""
    recovery: NotRequired[
        Literal["auto"]
        | list[
            Literal[
                "bias_correction",
                "equalization",
                "smoothquant",
                "clip_search",
                "full_range",
                "range_tuning",
                "learned_rounding",
            ]
        ]
    ]
    """
    Steps that bring a bad result back, tried in this order; what gains nothing is undone. `auto`: those that
    need no training. `range_tuning` and `learned_rounding` need PyTorch, `full_range` a `reduce_range` by layer.
    """
    reduce_range: NotRequired[bool | Literal["auto", "by_layer"]]
    """
    7-bit weights, which cannot saturate the 16-bit multiply-add of x86 processors without VNNI. `by_layer`: 7 bits,
    but 8 where the recovery step `full_range` finds that hardly anything saturates for it. `auto`: by the target's
    features.
    """
    requantize: NotRequired[bool]
    """Take a model that is quantized already: in QDQ form it is turned back into float first. Other forms are refused all the same."""
    sensitivity: NotRequired[bool]
    """
    Whether the report says of each layer and tensor what quantizing it costs the outputs. It takes as long as about
    20 runs of the model over 48 rows.
    """
    technique: Literal["static_int8"]
    weight_bits: NotRequired[Literal[4, 8]]
    """4: weights use 15 of the type's numbers. There is no faster kernel for them: a figure of accuracy."""
    weight_type: NotRequired[Literal["int8", "uint8"]]
    """Type of the stored weights; int8 where activations are int8."""


class Suitability(TypedDict):
    """What a technique is worth on a target, and why."""

    measured: NotRequired[LatencyEvidence | None]
    reason: str
    technique: str
    verdict: Literal["native", "emulated", "saturates", "slower than fp32 (measured)", "unsupported"]


class Target(TypedDict):
    """
    A machine class, whether a worker of it is alive, and what suits it.

    Of a built-in one that no worker has registered for, `fingerprint` and `sandbox` are empty.
    """

    alive: bool
    builtin: bool
    features: list[str]
    fingerprint: dict[str, Any]
    id: str
    sandbox: dict[str, Any]
    suits: list[Suitability]
    """What each technique is worth here, and why."""
    summary: str | None
    workers: int


class Tensor(TypedDict):
    """A named array. Unknown axes are null, symbolic ones a name; a dataset's shape has no sample axis."""

    dtype: str
    name: str
    shape: list[int | str | None] | None


class Validation(TypedDict):
    """What a specification would do, what is wrong with it, and what is doubtful."""

    doubts: list[str]
    errors: list[dict[str, str]]
    spec: dict[str, Any] | None
    steps: list[str]
    valid: bool


class ValueDifference(TypedDict):
    """
    How a value differs from the reference's.

    `difference` is value − reference, `ratio` value / reference, with two-sided 95 % intervals; where ratios were
    paired the difference follows from them, for the reference's value. `basis` is where they come from: `paired`,
    `through_original` (each was paired with the same original), `independent` (two intervals combined: Zou and Donner
    2008, MOVER), `exact` or `none`.
    """

    basis: Literal["paired", "through_original", "independent", "exact", "none"]
    ci95: tuple[float, float] | None
    difference: float | None
    differs_in: dict[str, list[Any]]
    ratio: float | None
    ratio_ci95: tuple[float, float] | None
    reason: str | None
    side: Literal["better", "worse", "within_noise", "unknown", "not_comparable"]


class WeightOnly(TypedDict):
    """Weights of matrix products in 8, 4 or 2 bits, in blocks with a scale each; arithmetic as the runtime has it."""

    accuracy_level: NotRequired[Literal["auto", 0, 1, 2, 3, 4]]
    """
    Type of the arithmetic: 1 and 0 float32, 2 float16, 3 bfloat16, 4 int8. `auto` measures nothing: it takes 4 where
    the target multiplies bytes, and the job checks what it costs (on a small language model 1 % of its perplexity).
    """
    algorithm: NotRequired[Literal["rtn", "mse", "hqq", "gptq", "awq"]]
    """
    `rtn`: nearest numbers between the extremes. `mse`: the scale with the least squared error. `hqq`: half-quadratic
    zero points and scales. `gptq`: each column makes up for the error of those before it. `awq`: channels with large
    activations are given finer steps first, then as `gptq`. `gptq` and `awq` need calibration rows.
    """
    bits: NotRequired[Literal[2, 3, 4, 8]]
    """Bits a weight. 3 is refused: ONNX Runtime has no kernel for it."""
    block_size: NotRequired[Literal[16, 32, 64, 128, 256, "channel"]]
    """
    Weights that share a scale, along the summed axis; `channel`: one scale an output channel. Blocks of 64 and 128
    run fastest; with 2 bits those of 16 and 256 have no fast kernel.
    """
    embeddings: NotRequired[Literal["keep", "quantize"]]
    """Tables read by Gather: kept as they are, or quantized in blocks too (in onnxruntime's operator, either form)."""
    form: NotRequired[Literal["matmul_nbits", "qdq"]]
    """
    `matmul_nbits`: onnxruntime's own operator. `qdq`: standard DequantizeLinear in blocks (opset 21; 25 for 2 bits),
    which onnxruntime turns into its own as it loads the model.
    """
    heads: NotRequired[Literal["same", "8", "keep"]]
    """The last product before an output: as the rest, in 8 bits, or kept as it is."""
    keep_float: NotRequired[list[str | OperatorType]]
    """Nodes that stay in float: node names, shell-style patterns of them (`/head/*`), or `{op_type: …}`. A name that matches nothing is an error that suggests near ones."""
    requantize: NotRequired[bool]
    """Take a model that is quantized already: in QDQ form it is turned back into float first. Other forms are refused all the same."""
    samples: NotRequired[int]
    """Calibration rows used at most, by `gptq` and `awq`."""
    symmetric: NotRequired[bool | Literal["auto"]]
    """
    Symmetric blocks have no zero points. `auto`: zero points where they gain accuracy, which costs no time: below 8
    bits, but for `rtn` at 2.
    """
    technique: Literal["weight_only"]


class Baseline(TypedDict):
    """The original as it was measured."""

    measurements: list[Measurement]


class Bfloat16(TypedDict):
    """Weights stored in bfloat16 and cast to float32 as the model is loaded: half the file, the same arithmetic."""

    keep_float: NotRequired[list[str | OperatorType]]
    """Nodes that stay in float: node names, shell-style patterns of them (`/head/*`), or `{op_type: …}`. A name that matches nothing is an error that suggests near ones."""
    least_elements: NotRequired[int]
    """Weights with fewer elements stay as they are: what they would save is less than their Cast takes."""
    requantize: NotRequired[bool]
    """Take a model that is quantized already: in QDQ form it is turned back into float first. Other forms are refused all the same."""
    technique: Literal["bfloat16"]


class Candidate(TypedDict):
    """A variant that a job made and measured."""

    artifact: NotRequired[str | None]
    comparisons: NotRequired[list[dict[str, Any]]]
    drops: NotRequired[list[dict[str, Any]]]
    id: str
    measurements: list[Measurement]
    notes: NotRequired[list[str]]
    pareto: NotRequired[bool]
    recipe: dict[str, Any]
    session_options: NotRequired[dict[str, str]]
    tuning_verdict: NotRequired[str | None]
    verdict: NotRequired[str | None]


class CatalogueEntry(TypedDict):
    """A technique or metric with the JSON Schema of its options; techniques that have recovery steps list them."""

    id: str
    recovery_steps: NotRequired[list[RecoveryStepEntry]]
    schema: dict[str, Any]
    summary: str


class ComparedEntry(TypedDict):
    """One of those that are compared."""

    candidate: str | None
    data: MeasuredData
    fingerprint: str | None
    id: str
    job: str
    kind: Literal["model", "artifact"]
    model: str
    recipe: dict[str, Any] | None
    target: str


class ComparedValue(TypedDict):
    """A measurement of one entry, null where it was not measured; the reference differs from nothing."""

    difference: ValueDifference | None
    id: str
    measurement: Measurement | None


class Dataset(TypedDict):
    """An uploaded dataset; what inspection finds is null until its state is `ready`."""

    bytes: int
    created_at: str
    error: Failure | None
    fields: list[Tensor] | None
    file_name: str
    format: str | None
    id: str
    name: str
    notes: list[str]
    preprocess: dict[str, Any] | None
    rows: int | None
    sha256: str
    state: Literal["inspecting", "ready", "rejected"]


class DynamicInt8(TypedDict):
    """Weights as int8; activations are quantized as they come, at run time."""

    keep_float: NotRequired[list[str | OperatorType]]
    """Nodes that stay in float: node names, shell-style patterns of them (`/head/*`), or `{op_type: …}`. A name that matches nothing is an error that suggests near ones."""
    op_types: NotRequired[list[str]]
    """Operator types to quantize. Convolutions only when asked: their dynamic kernels are slow."""
    per_channel: NotRequired[bool]
    """One scale an output channel instead of one a tensor: as fast, and 14 dB nearer on a sentence embedding."""
    reduce_range: NotRequired[bool | Literal["auto"]]
    """
    7-bit weights, which cannot saturate the 16-bit multiply-add of x86 processors without VNNI.
    `auto` decides by the target's features.
    """
    requantize: NotRequired[bool]
    """Take a model that is quantized already: in QDQ form it is turned back into float first. Other forms are refused all the same."""
    samples: NotRequired[int]
    """Calibration rows used at most, by `smoothing`."""
    smoothing: NotRequired[bool]
    """
    Where there are calibration rows, and an output's SQNR on them is below 30 dB: smooth activations, and compute
    their few largest channels apart in float, if that brings the outputs nearer (a sentence embedding's by 8 dB).
    """
    technique: Literal["dynamic_int8"]
    weight_type: NotRequired[Literal["int8", "uint8"]]
    """Type of the stored weights."""


class Float16(TypedDict):
    """Weights and arithmetic in half precision; for size, where the processor has no native fp16."""

    keep_float: NotRequired[list[str | OperatorType]]
    """Nodes that stay in float: node names, shell-style patterns of them (`/head/*`), or `{op_type: …}`. A name that matches nothing is an error that suggests near ones."""
    keep_io_types: NotRequired[bool]
    """Inputs and outputs stay float32, so that callers need no change."""
    requantize: NotRequired[bool]
    """Take a model that is quantized already: in QDQ form it is turned back into float first. Other forms are refused all the same."""
    technique: Literal["float16"]


class FrontierVariant(TypedDict):
    """
    A variant of a model: the original, an artifact, or a candidate whose artifact is gone.

    `costs` are multiples of the original's latency, size and memory by name of the measurement.
    """

    artifact: str | None
    candidate: str | None
    comparisons: list[dict[str, Any]]
    constraints: list[ConstraintStanding]
    costs: dict[str, Multiple]
    drops: list[dict[str, Any]]
    id: str
    jobs: list[str]
    kind: Literal["model", "artifact", "candidate"]
    measurements: list[Measurement]
    pareto: bool
    recipe: dict[str, Any] | None


class Job(TypedDict):
    """A job: its specification with every default filled in, where it stands, and what it found."""

    artifacts: list[str]
    attempt: int
    baseline: Baseline | None
    candidates: list[Candidate]
    chosen: str | None
    conclusion: str | None
    created_at: str
    ended_at: str | None
    error: Failure | None
    gate: Literal["met", "missed", "undecided", "none"] | None
    id: str
    kind: Literal["optimize", "evaluate"]
    labels: dict[str, str]
    links: dict[str, str]
    message: str | None
    model: str
    name: str | None
    notes: list[str]
    progress: float
    queue_position: int | None
    rows: dict[str, int]
    """How many rows each role has; of one dataset that was split, too."""
    spec: dict[str, Any]
    stage: Literal["inspect", "baseline", "calibrate", "candidates", "gate", "package"] | None
    started_at: str | None
    state: Literal["queued", "running", "cancelling", "succeeded", "failed", "cancelled"]
    target: str
    verdicts: list[dict[str, Any]]
    waiting_for: str | None


class Model(TypedDict):
    """An uploaded model; what inspection finds is null until its state is `ready`."""

    bytes: int
    created_at: str
    dynamic: bool | None
    error: Failure | None
    external_data: bool | None
    file_name: str
    format: str | None
    id: str
    inputs: list[Tensor] | None
    name: str
    notes: list[str]
    operators: dict[str, int] | None
    opset: int | None
    outputs: list[Tensor] | None
    parameters: int | None
    quantized: bool | None
    sha256: str
    state: Literal["inspecting", "ready", "rejected"]


class Part(TypedDict):
    """Some nodes of a model, and what is done to them."""

    nodes: list[str | OperatorType]
    """Node names, shell-style patterns of them (`/encoder/*`), or `{op_type: …}`. A name that matches nothing is an error that suggests near ones."""
    recipe: DynamicInt8 | StaticInt8 | StaticInt16 | WeightOnly | Float16 | Bfloat16 | None
    """The technique and its options; null: these nodes stay in float."""


class Problem(TypedDict):
    """A problem document (RFC 9457)."""

    code: str
    """Stable, for programs."""
    detail: str
    """A sentence for a person: what is wrong and what to do."""
    errors: NotRequired[list[ProblemField]]
    retryable: NotRequired[bool]
    stage: NotRequired[str | None]
    status: int
    title: str
    type: NotRequired[str]


class BySensitivity(TypedDict):
    """Nodes that are found by what quantizing them costs the outputs, until there are enough of them."""

    layers: NotRequired[int | None]
    """The most nodes to find: those that save most noise."""
    recipe: NotRequired[DynamicInt8 | WeightOnly | Float16 | Bfloat16 | None]
    """
    What is done to them instead; null: they stay in float. Where either makes the outputs worse than the rest's
    technique alone, as measured, that has these nodes too.
    """
    target_db: NotRequired[float | None]
    """The SQNR of the outputs, as predicted, at which to stop: those that save most noise for their work come first."""


class ComparedRow(TypedDict):
    """One measurement of every entry, in their order."""

    better: Literal["higher", "lower"]
    name: str
    unit: str
    values: list[ComparedValue]


class Comparison(TypedDict):
    """Artifacts and models side by side; the first is the reference."""

    entries: list[ComparedEntry]
    measurements: list[ComparedRow]
    reference: str


class FrontierGroup(TypedDict):
    """
    Variants that can be compared. `axes` are the measurements in which `pareto` ones are beaten by none.

    `conditions` are those under which all of them were timed: runtime, version, threads, rows a call, and the shapes of
    inputs that the model leaves open.
    """

    axes: list[str]
    batch: int | None
    best: FrontierChoice
    conditions: dict[str, Any]
    data: MeasuredData
    fingerprint: str | None
    target: str
    threads: int | None
    variants: list[FrontierVariant]


class Mixed(TypedDict):
    """Other techniques side by side in one model, each for the nodes that it is given."""

    by_sensitivity: NotRequired[BySensitivity | None]
    """Nodes of the rest, whose technique is then a static one, that something more precise is found for."""
    keep_float: NotRequired[list[str | OperatorType]]
    """Nodes that stay in float: node names, shell-style patterns of them (`/head/*`), or `{op_type: …}`. A name that matches nothing is an error that suggests near ones."""
    parts: NotRequired[list[Part]]
    """
    A node belongs to the first part that names it. Whatever their order here, techniques work in the order
    dynamic_int8, static_int8 or static_int16, weight_only, float16, bfloat16; parts with the same recipe are one.
    """
    rest: NotRequired[DynamicInt8 | StaticInt8 | StaticInt16 | WeightOnly | Float16 | Bfloat16 | None]
    """What is done to the nodes that no part names; null: they stay in float."""
    technique: Literal["mixed"]


class Frontier(TypedDict):
    """Every measured variant of a model; `older` says that jobs beyond the newest 200 were left out."""

    constraints: list[str]
    groups: list[FrontierGroup]
    minimize: Literal["latency", "size", "memory"]
    model: str
    older: bool


class JobSpec(TypedDict):
    """Everything that a caller says about a job; `POST /v1/jobs` takes it."""

    datasets: NotRequired[DatasetRoles]
    goal: NotRequired[Goal | None]
    """Without a goal there is no gate."""
    if_no_worker: NotRequired[Literal["wait", "refuse"]]
    """What to do when no worker of the target is alive."""
    kind: NotRequired[Literal["optimize", "evaluate"]]
    """`optimize`: make an artifact and measure it against the original. `evaluate`: measure, and change nothing."""
    labels: NotRequired[dict[str, str]]
    """The caller's own marks; lists can be filtered by them."""
    limits: NotRequired[Limits]
    measure: NotRequired[Measure]
    metrics: NotRequired[list[str | MetricChoice]]
    """
    Metrics beyond those always computed, which are fidelity to the original and, where there are labels, `top1`;
    each a name, or an object that says which output it looks at. Of one name, goals use the first.
    """
    model: str
    """The model to work on; `evaluate` takes an artifact as well."""
    name: NotRequired[str | None]
    priority: NotRequired[int]
    """9 is served first."""
    recipe: NotRequired[
        DynamicInt8 | StaticInt8 | StaticInt16 | WeightOnly | Float16 | Bfloat16 | Mixed | None
    ]
    """The technique and its options; `evaluate` has none."""
    split: NotRequired[Split | None]
    """
    Shares of the rows of `datasets.all` by role. Left out, `optimize` gives 0.2 to calibration, 0.2 to tuning and
    0.6 to evaluation, and `evaluate` all rows to evaluation; of an artifact that was made from the same dataset by a
    split, only the rows that were held out then.
    """
    target: NotRequired[str]
    """Where the artifact will run; `local` is the one machine of an embedded service."""
