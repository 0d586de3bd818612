"""Weights and activations as 8-bit integers in QDQ form, with ranges found beforehand and ways back from bad ones."""

from dataclasses import replace
from itertools import islice
from pathlib import Path

from app.domain.recipe import CalibrationMethod, RecoveryStep, StaticInt8
from app.errors import StepError
from workers.formats.onnx.graph import bodies_of
from workers.quantization.calibration.statistics import Statistics
from workers.quantization.finishing import finish
from workers.quantization.graph import save
from workers.quantization.preparation import Prepared, prepare
from workers.quantization.qdq.insertion import insert
from workers.quantization.qdq.placement import BOUNDS, JOINS, MOVES, PRODUCTS, Placement, place
from workers.quantization.qdq.plan import Plan, Setting, make_plan
from workers.quantization.recovery.ladder import JUDGING_ROWS, Rung, climb, judge_for
from workers.quantization.recovery.material import Material
from workers.quantization.selection import select_op_types
from workers.quantization.sensitivity.analysis import analyse
from workers.quantization.technique import Context, Produced, nothing_to_quantize

OP_TYPES = tuple(sorted(PRODUCTS | JOINS | MOVES | BOUNDS))
"""Operator types that onnxruntime 1.32's CPU provider computes in integers between QDQ nodes, that move integers as
they are, or that the end of a range replaces."""

_LEAST_OPSET = 13  # QuantizeLinear and DequantizeLinear with an axis

AUTO_METHODS: tuple[CalibrationMethod, ...] = ("minmax", "percentile", "mse")
"""What `calibration.method: auto` tries; the nearest to the original is taken."""

AUTO_RECOVERY: tuple[RecoveryStep, ...] = ("bias_correction", "equalization", "smoothquant", "clip_search")
"""What `recovery: auto` tries: the steps that need no training."""


def prepare_for(model_path: Path, options: StaticInt8) -> tuple[Prepared, Setting, Placement]:
    """The model as calibration and quantization both see it, and what is to be quantized in it.

    Raises StepError as `workers.quantization.preparation.prepare` does, `op_type_not_quantizable`, and
    `nothing_to_quantize`.
    """
    op_types = select_op_types(options.op_types, OP_TYPES, "static_int8")
    prepared = prepare(model_path, least_opset=_LEAST_OPSET, keep_float=options.keep_float, fold=True, batch_norms=True)
    setting = Setting(
        op_types=frozenset(op_types),
        kept=prepared.kept,
        calibration=options.calibration,
        activation_dtype=options.activation_type,
        weight_dtype=options.weight_type,
        weight_bits=min(options.weight_bits, 7 if options.reduce_range is True else 8),
        per_channel=options.per_channel,
    )
    placement = place(prepared.model, setting.op_types, setting.kept)
    if not any(weight.product for weight in placement.weights):
        raise nothing_to_quantize(
            "static_int8",
            "outside of nested bodies, the model has no convolution or matrix product with stored weights among the "
            "operator types chosen that is not kept in float",
        )
    return prepared, setting, placement


def quantize(model_path: Path, out_path: Path, options: StaticInt8, context: Context) -> Produced:
    """Insert QuantizeLinear and DequantizeLinear around what is computed in integers.

    `options.reduce_range` is resolved; `context.statistics` is what calibration observed. With `context.feeds`, what
    `auto` stands for in `calibration.method` and `recovery` is found by trying. Raises StepError `nothing_to_quantize`,
    `already_quantized`, `keep_float_matches_nothing`, `op_type_not_quantizable` or `calibration_missing`.
    """
    if context.statistics is None or not context.statistics.exists():
        raise StepError("static_int8 needs what the calibrate step observes.", code="calibration_missing")
    prepared, setting, placement = prepare_for(model_path, options)
    seen = Statistics.read(context.statistics)
    plan, method, rungs = best_plan(prepared, setting, placement, seen, options, context)
    model = insert(plan).model
    finish(model)
    save(model, out_path, external=prepared.external)
    notes = (*prepared.notes, f"Ranges by {method}, from {seen.samples} rows.", *(_told(rung) for rung in rungs))
    if any(True for node in model.graph.node for _ in bodies_of(node.attribute)):
        notes += ("Operators in bodies of If, Loop or Scan stay in float.",)
    sensitivity = None
    if options.sensitivity and context.feeds is not None:
        rows = [dict(feed) for feed, _ in islice(context.feeds(), JUDGING_ROWS)]
        try:
            sensitivity = analyse(plan, rows, context.work, context.threads, seen=seen)
        except StepError as error:
            notes += (error.detail,)  # the artifact is good without
    return Produced(out_path, notes=notes, recovery=tuple(rungs), sensitivity=sensitivity)


def best_plan(
    prepared: Prepared,
    setting: Setting,
    placement: Placement,
    seen: Statistics,
    options: StaticInt8,
    context: Context,
) -> tuple[Plan, CalibrationMethod, list[Rung]]:
    """The plan by the method that comes nearest to the original, and by the recovery steps that bring it nearer."""
    steps = AUTO_RECOVERY if options.recovery == "auto" else options.recovery
    first: CalibrationMethod = "mse" if options.calibration.method == "auto" else options.calibration.method
    if context.feeds is None:
        return make_plan(prepared.model, seen, _by(setting, first), placement), first, []
    methods = AUTO_METHODS if options.calibration.method == "auto" else (first,)
    material = Material(context.feeds, seen, _by(setting, first), context.work, threads=context.threads)
    plan = make_plan(prepared.model, seen, material.setting, placement)
    judge = judge_for(plan, material)
    tried = []
    for method in methods:
        plan = make_plan(prepared.model, seen, _by(setting, method), placement)
        # Methods are compared with the means of the errors taken back, where that is among the steps.
        plan, rungs = climb(plan, material, [step for step in steps if step == "bias_correction"], judge)
        tried.append((judge.fidelity(plan).output_db, method, plan, rungs))
    _, method, plan, rungs = max(tried, key=lambda each: each[0])
    material = replace(material, setting=_by(setting, method))
    plan, further = climb(plan, material, [step for step in steps if step != "bias_correction"], judge)
    return plan, method, [*rungs, *further]


def _by(setting: Setting, method: CalibrationMethod) -> Setting:
    return replace(setting, calibration=setting.calibration.model_copy(update={"method": method}))


def _told(rung: Rung) -> str:
    name = rung.step.replace("_", " ").capitalize()
    if rung.kept:
        return f"{name}: SQNR of the outputs {rung.before_db:.1f} → {rung.after_db:.1f} dB."
    return f"{name}: {rung.reason}"
