"""What static techniques share: from a model and what calibration observed to the best plan, and to the artifact.

Calibration prepares the model by the same functions, so that the tensors it observes are those that the plan is for.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from app.domain.recipe import CalibrationMethod, RecoveryStep, Static, StaticInt16
from app.errors import StepError
from workers.formats.onnx.graph import bodies_of
from workers.quantization.calibration.statistics import Statistics
from workers.quantization.finishing import finish
from workers.quantization.graph import save
from workers.quantization.preparation import Prepared, prepare
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.placement import BOUNDS, JOINS, MOVES, PRODUCTS, Placement
from workers.quantization.qdq.plan import Plan, Setting, make_plan, place_for
from workers.quantization.qdq.wide_ranges import keep_wide_ranges
from workers.quantization.recovery.ladder import JUDGING_FEEDS, Climbed, Rung, climb, divided, judge_for, told
from workers.quantization.recovery.material import Material
from workers.quantization.selection import about_types, select_op_types
from workers.quantization.sensitivity.analysis import analyse
from workers.quantization.sensitivity.result import Sensitivity
from workers.quantization.technique import Context, Produced, nothing_to_quantize

OP_TYPES = tuple(sorted(PRODUCTS | JOINS | MOVES | BOUNDS))
"""Operator types that onnxruntime 1.32's CPU provider computes in integers between QDQ nodes, that move integers as
they are, or that the end of a range replaces."""

_LEAST_OPSET = 13  # QuantizeLinear and DequantizeLinear with an axis
_WIDE_OPSET = 21  # the same with 16 bits; a model that cannot come so far gets the runtime's own operators

AUTO_METHODS: tuple[CalibrationMethod, ...] = ("minmax", "percentile", "mse")
"""What `calibration.method: auto` tries; the nearest to the original is taken."""

NEAR_DB = 2.0
"""A method whose outputs are this much farther than the best one's may still come nearer in the end."""

AUTO_RECOVERY: tuple[RecoveryStep, ...] = (
    "bias_correction",
    "equalization",
    "smoothquant",
    "clip_search",
    "full_range",
)
"""What `recovery: auto` tries: the steps that need no training."""


def prepare_for(model_path: Path, options: Static, *, partly: bool = False) -> tuple[Prepared, Setting, Placement]:
    """The model as calibration and quantization both see it, and what is to be quantized in it.

    Any static technique's options will do. Raises StepError as `workers.quantization.preparation.prepare` does,
    `op_type_not_quantizable`, and `nothing_to_quantize`.
    """
    prepared = _prepared(model_path, options, partly=partly)
    setting = _setting(options, prepared.kept)
    placement = place_for(prepared.model, setting)
    if not any(weight.product for weight in placement.weights):
        raise nothing_to_quantize(
            options.technique,
            "outside of nested bodies, the model has no convolution or matrix product with stored weights among the "
            f"operator types chosen that is not kept in float{about_types(prepared.model)}",
        )
    return prepared, setting, placement


def make(model_path: Path, out_path: Path, options: Static, context: Context, *, exact: bool = True) -> Produced:
    """Make the artifact of a static recipe whose `reduce_range` is resolved; `exact` is that of
    `workers.quantization.qdq.insertion.insert`.

    Raises StepError `nothing_to_quantize`, `already_quantized`, `keep_float_matches_nothing`, `op_type_not_quantizable`
    or `calibration_missing`.
    """
    found = planned(model_path, options, context)
    model = insert(found.plan, exact=exact).model
    finish(model)
    save(model, out_path, external=found.external)
    notes = found.notes
    if any(True for node in model.graph.node for _ in bodies_of(node.attribute)):
        notes += ("Operators in bodies of If, Loop or Scan stay in float.",)
    sensitivity = None
    if options.sensitivity:
        try:
            sensitivity = sensitivity_of(found, context)
        except StepError as error:
            notes += (error.detail,)  # the artifact is good without
    return Produced(out_path, notes=notes, recovery=found.rungs, sensitivity=sensitivity)


@dataclass(frozen=True, slots=True)
class Planned:
    """What will be made of a model, and what led to it; `external` says whether its weights have files of their own."""

    plan: Plan
    rungs: tuple[Rung, ...]
    notes: tuple[str, ...]
    external: bool


def planned(model_path: Path, options: Static, context: Context) -> Planned:
    """The best plan for a model, with ranges, recovery, and in float what no scale serves; raises as `make`."""
    if context.statistics is None or not context.statistics.exists():
        raise StepError(f"{options.technique} needs what the calibrate step observes.", code="calibration_missing")
    prepared, setting, placement = prepare_for(model_path, options, partly=context.partly)
    seen = Statistics.read(context.statistics)
    found = keep_wide_ranges(prepared.model, setting, placement, seen)
    if not found.placement.weights:
        raise nothing_to_quantize(options.technique, "; ".join(found.notes))
    plan, method, rungs = best_plan(prepared, found.setting, found.placement, found.seen, options, context)
    notes = (
        *prepared.notes,
        *found.notes,
        *_about_unfit(found.setting, found.placement),
        f"Ranges by {method}, from {seen.samples} rows.",
        *(told(rung) for rung in rungs),
    )
    return Planned(plan, tuple(rungs), notes, prepared.external)


def _about_unfit(setting: Setting, placement: Placement) -> Iterator[str]:
    """What is in float though the recipe does not say so, as no kernel computes it."""
    if placement.unfit and not setting.activation_dtype.endswith("16"):  # which has no such kernels at all
        named = ", ".join(placement.unfit[:5]) + (" and others" if len(placement.unfit) > 5 else "")
        yield (
            f"Kept in float: {named}; onnxruntime's integer AveragePool has no dilations and is wrong where ceil_mode "
            "and count_include_pad come together."
        )


def sensitivity_of(found: Planned, context: Context) -> Sensitivity:
    """What each layer and tensor of a plan costs the outputs, on the first calibration rows; raises as `analyse`."""
    if context.feeds is None:
        raise StepError("Sensitivities are found on calibration rows, and there are none.", code="calibration_missing")
    rows = [dict(feed) for feed, _ in islice(context.feeds(), JUDGING_FEEDS)]
    return analyse(found.plan, rows, context.work, context.threads, seen=found.plan.seen)


def best_plan(
    prepared: Prepared,
    setting: Setting,
    placement: Placement,
    seen: Statistics,
    options: Static,
    context: Context,
) -> tuple[Plan, CalibrationMethod, list[Rung]]:
    """The plan by the method that comes nearest to the original, and by the recovery steps that bring it nearer."""
    steps = AUTO_RECOVERY if options.recovery == "auto" else options.recovery
    first: CalibrationMethod = "mse" if options.calibration.method == "auto" else options.calibration.method
    methods = AUTO_METHODS if options.calibration.method == "auto" else (first,)
    if context.feeds is None or (len(methods) == 1 and not steps):  # there is nothing to judge by, or nothing to judge
        return make_plan(prepared.model, seen, _by(setting, first), placement), first, []
    fitting, judging = divided(context.feeds)
    material = Material(fitting, context.feeds, _by(setting, first), context.work, threads=context.threads)
    plans = {method: make_plan(prepared.model, seen, _by(setting, method), placement) for method in methods}
    judge = judge_for(plans[first], material, judging)
    # Methods are compared with the means of the errors taken back, where that is among the steps.
    early = [step for step in steps if step == "bias_correction"]
    tried = {method: climb(plan, _with(material, method), early, judge) for method, plan in plans.items()}
    best = max(each.fidelity.output_db for each in tried.values())
    # What other steps gain differs from method to method: those that are near the best are followed to the end.
    ends: list[tuple[CalibrationMethod, Climbed]] = []
    for method, each in tried.items():
        if each.fidelity.output_db >= best - NEAR_DB:
            later = [step for step in steps if step != "bias_correction"]
            further = climb(each.plan, _with(material, method), later, judge, each.fidelity, correcting=bool(early))
            ends.append((method, replace(further, rungs=[*each.rungs, *further.rungs])))
    method, end = max(ends, key=lambda each: each[1].fidelity.output_db)
    return end.plan, method, end.rungs


def _with(material: Material, method: CalibrationMethod) -> Material:
    return replace(material, setting=_by(material.setting, method))


def _prepared(model_path: Path, options: Static, *, partly: bool) -> Prepared:
    def prepared(opset: int) -> Prepared:
        return prepare(
            model_path,
            least_opset=opset,
            keep_float=options.keep_float,
            requantize=options.requantize,
            fold=True,
            batch_norms=True,
            partly=partly,
        )

    if isinstance(options, StaticInt16):
        try:
            return prepared(_WIDE_OPSET)
        except StepError as error:
            if error.code != "opset_conversion_failed":
                raise
    return prepared(_LEAST_OPSET)


def _setting(options: Static, kept: frozenset[str]) -> Setting:
    setting = Setting(
        op_types=frozenset(select_op_types(options.op_types, OP_TYPES, options.technique)),
        kept=kept,
        calibration=options.calibration,
        activation_dtype=options.activation_type,
        weight_bits=options.weight_bits,
        most_weight_bits=options.weight_bits,
        per_channel=options.per_channel,
    )
    if isinstance(options, StaticInt16):
        return setting
    bits = min(options.weight_bits, 7 if options.reduce_range else 8)
    most = options.weight_bits if options.reduce_range == "by_layer" else bits
    return replace(setting, weight_dtype=options.weight_type, weight_bits=bits, most_weight_bits=most)


def _by(setting: Setting, method: CalibrationMethod) -> Setting:
    return replace(setting, calibration=setting.calibration.model_copy(update={"method": method}))
