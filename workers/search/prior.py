"""What is worth trying on a model before anything was: from its roofline on this machine, and the machine's kernels.

What cannot pay is skipped with the reason, which the report shows.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from app.domain.goal import Minimizable
from app.domain.recipe import AnyRecipe, Bfloat16, DynamicInt8, Float16, StaticInt8, WeightOnly
from app.domain.suitability import suitability
from app.domain.target import fp16_is_native
from workers.evaluation.operators import OperatorTime
from workers.evaluation.roofline import Potential, Roofline

WORTHWHILE = 1.05
"""Times faster, at most: what promises less is not tried."""

_SMALL_SHARE = 0.05
"""Of the time: a technique for operators that take less cannot show."""

_PRODUCTS = frozenset({"MatMul", "FusedMatMul", "Gemm", "FusedGemm"})

WEIGHTS = WeightOnly(bits=4, block_size=64)
WEIGHTS_FITTED = WeightOnly(bits=4, block_size=64, algorithm="gptq")
WEIGHTS_IN_BYTES = WeightOnly(bits=8, block_size=64)


@dataclass(frozen=True, slots=True)
class Opening:
    """A recipe that is tried first, and what speaks for it."""

    recipe: AnyRecipe
    why: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """A technique that is not tried, and why."""

    technique: str
    reason: str


@dataclass(frozen=True, slots=True)
class Known:
    """What is known before the search: of the machine, of the model's time on it, and of the data.

    `weights` are the bytes of all weights. Without a profile `operators` is empty and `roofline` None: then time says
    nothing against any technique.
    """

    features: frozenset[str]
    minimize: Mapping[Minimizable, float]
    calibration: bool
    operators: Sequence[OperatorTime] = ()
    roofline: Roofline | None = None

    def share(self, op_types: Collection[str]) -> float:
        """Of the operators' time, in operators of these types: from 0 to 1; 1 where nothing is known."""
        if not self.operators:
            return 1.0
        return sum(operator.share for operator in self.operators if operator.op_type in op_types)


def openings(known: Known) -> tuple[list[Opening], list[Skipped]]:
    """What to try first, in this order, and what is not worth it."""
    found: list[Opening] = []
    skipped: list[Skipped] = []
    judged = {each.technique: each for each in suitability(known.features)}
    for technique, recipes, against in _considered(known):
        if judged[technique].verdict == "unsupported":
            skipped.append(Skipped(technique, judged[technique].reason))
        elif against:
            skipped.append(Skipped(technique, against))
        else:
            found += [Opening(recipe, judged[technique].reason) for recipe in recipes]
    return found, skipped


def _considered(known: Known) -> Iterator[tuple[str, tuple[AnyRecipe, ...], str]]:
    """Each technique with its recipes and what speaks against it; nothing, where it is worth a try."""
    products = known.share(_PRODUCTS)
    bytes_count = bool({"size", "memory"} & known.minimize.keys())
    in_bytes = few_bits = ""
    if known.roofline is not None and not bytes_count:
        in_bytes = _against(known.roofline.int8, "8 bits")
        few_bits = _against(known.roofline.int4_weights, "Weights of 4 bits")
    no_rows = "Ranges are found from calibration rows, and there are none: bring a calibration dataset."
    yield "static_int8", (StaticInt8(),), (no_rows if not known.calibration else in_bytes)
    few_products = (
        f"It is for matrix products, which take {products:.0%} of the time here." if products < _SMALL_SHARE else ""
    )
    yield "dynamic_int8", (DynamicInt8(),), in_bytes or few_products
    fitted: tuple[AnyRecipe, ...] = (WEIGHTS_FITTED,) if known.calibration else ()
    yield "weight_only", (WEIGHTS, *fitted, WEIGHTS_IN_BYTES), few_bits or few_products
    yield "mixed", (), "Which part gets which technique is decided once each was measured by itself."
    slow_halves = (
        ""
        if bytes_count or fp16_is_native(known.features)
        else ("This processor computes in float32 all the same: it saves bytes, and nothing that is to be small here.")
    )
    yield "float16", (Float16(),), slow_halves
    yield (
        "bfloat16",
        (Bfloat16(),),
        ""
        if bytes_count
        else ("Weights become float32 before they are multiplied: it saves bytes in the file, and no time."),
    )
    yield "static_int16", (), "ONNX Runtime multiplies floats between its pairs: other techniques save as many bytes."


def _against(potential: Potential, what: str) -> str:
    """Why so few bits cannot make a model faster; nothing where they may."""
    if potential.upper_bound is None or potential.upper_bound >= WORTHWHILE:
        return ""
    return (
        f"{what} cannot make it faster here, by its roofline: {potential.share:.0%} of its time is in operators that "
        f"could gain, {potential.upper_bound:.2f} × at most."
    )
