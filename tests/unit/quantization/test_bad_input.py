"""Every technique on every model and every row that trips quantizers up: a sound artifact, or an error that helps.

The matrix says exactly what comes. Where it names no error, the artifact loads in plain onnxruntime, passes ONNX's
checker if its original does, has the same inputs and outputs, and stays as near to the original as its bits allow.
"""

from functools import partial
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from app.domain.recipe import (
    TECHNIQUES,
    AnyRecipe,
    Bfloat16,
    BySensitivity,
    Float16,
    Mixed,
    StaticInt8,
    WeightOnly,
    needs_calibration,
)
from app.errors import RejectedInput, StepError
from tests.parts import models
from tests.unit.quantization.bad_models import CASES, MLP_ROWS, Rows, masked, mlp_of, normal, rows
from tests.unit.quantization.conftest import Maker, observe
from workers.formats.onnx.inspection import inspect_onnx
from workers.quantization.calibration.collect import collect
from workers.quantization.technique import Context, Produced, quantize, resolve
from workers.runtimes.session import Session, load

AVX2 = frozenset({"avx2"})

Fault = tuple[str, str]
"""An error's code, and what its text must name."""

NOTHING: Fault = ("nothing_to_quantize", "finds nothing to quantize")
IN_FLOAT64: Fault = ("nothing_to_quantize", "its weights are float64: export it in float32")
IN_FLOAT16: Fault = ("nothing_to_quantize", "its weights are float16: export it in float32")
NOT_FINITE: Fault = ("weights_not_finite", "'w1'")

NOT_IN_FLOAT16: Fault = ("nothing_to_quantize", "by_sensitivity of the mixed recipe: float16 finds nothing")
"""Where the one product that sensitivity finds is none that half precision could do."""

NO_MATRIX = {"dynamic_int8": NOTHING, "weight_only": NOTHING}
NO_FLOAT32 = {"float16": NOTHING, "bfloat16": NOTHING}

FAULTS: dict[str, dict[str, Fault]] = {
    "loop": {"static": NOTHING},
    "no weights": dict.fromkeys(("static", "dynamic_int8", "weight_only", "float16", "bfloat16"), NOTHING),
    "an empty operand": NO_MATRIX,
    "no rows in the batch": {"static": ("calibration_empty", "empty arrays")},
    "a product without columns": {"static": NOTHING, "bfloat16": NOTHING, **NO_MATRIX},
    "a product without a summed axis": {"static": NOTHING, "bfloat16": NOTHING, **NO_MATRIX},
    "float64": {"static": IN_FLOAT64, "dynamic_int8": IN_FLOAT64, "weight_only": IN_FLOAT64, **NO_FLOAT32},
    "float16": {"static": IN_FLOAT16, "dynamic_int8": IN_FLOAT16, **NO_FLOAT32},
    "bytes": NO_MATRIX,
    "one operand twice": NO_MATRIX,
    "volumes": NO_MATRIX,
    "a signal of any length": NO_MATRIX,
    "weights of one axis": NO_MATRIX,
    "weights of three axes": {"weight_only": NOTHING},
    "a scaled Gemm": {"static": NOTHING},
    "a Gemm with turned input": {"static": NOTHING, **NO_MATRIX},
    "weights computed from others": {"weight_only": NOTHING, "by sensitivity": NOT_IN_FLOAT16},
    "weights in bfloat16": {"weight_only": NOTHING, "by sensitivity": NOT_IN_FLOAT16, **NO_FLOAT32},
    "a weight of float and quantized nodes": {"by sensitivity": NOT_IN_FLOAT16},
    "weights that bodies capture": {"by sensitivity": NOT_IN_FLOAT16},
    "no inputs": {"static": NOTHING, **NO_MATRIX},  # both sides of its product are stored
    "an infinite bias": dict.fromkeys(
        ("static", "dynamic_int8", "float16"), ("weights_not_finite", "'b' of node 'fc'")
    ),
    "a batch norm of nothing": {"static": ("calibration_not_finite", "'act'")},
    "a NaN among the weights": dict.fromkeys(("static", "dynamic_int8", "weight_only", "float16"), NOT_FINITE),
    "an infinity among the weights": dict.fromkeys(("static", "dynamic_int8", "weight_only", "float16"), NOT_FINITE),
    "rows of zeros, no biases": NO_MATRIX,
    "a NaN in a row": {"static": ("calibration_not_finite", "'x'")},
    "an infinity in a row": {"static": ("calibration_not_finite", "'x'")},
    "denormal rows": NO_MATRIX,
    "infinite in front of a product": {"static": ("calibration_not_finite", "'l'")},
}
"""By case and recipe, or kind of recipe."""

LEAST_DB = {"static": 25, "dynamic_int8": 25, "weight_only": 13, "float16": 55, "bfloat16": 35}
"""What eight bits, eight bits with scales found at run time, four bits, and half precision keep at least."""

FAR: dict[tuple[str, str], tuple[float, str]] = {
    # Numbers near 1e-40 have no scale in float32: they are zero.
    ("denormal rows", "static"): (0.0, ""),
    # exp of thousands is a step: products near zero change sides of it.
    ("infinite inside", "weight_only"): (10.0, ""),
    ("infinite inside", "dynamic_int8"): (15.0, ""),
    ("a mask of the lowest number", "float16"): (55.0, "mask"),
    ("a mask of the lowest number", "bfloat16"): (35.0, "mask"),
    # Half precision reaches to 65,504 and says what it clips.
    ("huge weights", "float16"): (-1.0, "w1"),
    ("one weight beyond the others", "float16"): (-1.0, "w1"),
}
"""Where an artifact cannot be near: the least dB, and what a note must then name."""


RECIPES: dict[str, AnyRecipe] = {name: options() for name, options in TECHNIQUES.items() if name != "mixed"} | {
    "bfloat16": Bfloat16(least_elements=1),
    "mixed": Mixed(rest=WeightOnly()),
    "by sensitivity": Mixed(rest=StaticInt8(), by_sensitivity=BySensitivity(layers=1, recipe=Float16())),
    "trained": StaticInt8(recovery=("range_tuning", "learned_rounding"), sensitivity=True),
}
"""Every technique, with options where defaults leave alone what is as small as these models, or say nothing; then what
looks further into a model than others."""


def kind_of(name: str) -> str:
    """Recipes that are expected to do alike."""
    if needs_calibration(RECIPES[name]):
        return "static"
    return "weight_only" if name == "mixed" else name


@pytest.fixture(autouse=True)
def hardly_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether training runs is what is tested here, not how much it gains."""
    for step in ("range_tuning", "learned_rounding"):
        module = import_module(f"workers.quantization.recovery.{step}")
        monkeypatch.setattr(module, "Settings", partial(module.Settings, iterations=2))


def produce(case: str, name: str, place: Path) -> tuple[Produced, Rows]:
    model, given = CASES[case]()
    path = models.save(model, place / "original" / "model.onnx")
    recipe = resolve(RECIPES[name], AVX2)
    work, statistics = place / "work", place / "statistics.npz"
    work.mkdir()
    if needs_calibration(recipe):
        observe(path, recipe, given, work).write(statistics)
    context = Context(work=work, features=AVX2, statistics=statistics, feeds=lambda: ((row, len(row)) for row in given))
    return quantize(path, place / "model.onnx", recipe, context), given


def passes_checker(path: Path) -> bool:
    try:
        onnx.checker.check_model(str(path), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return False
    return True


def distance_db(original: Session, artifact: Session, given: Rows) -> float:
    """SQNR over all outputs that are finite in the original; there the artifact's must be finite too."""
    dtypes = {port.name: port.dtype for port in artifact.inputs}
    signal = noise = 0.0
    for row in given:
        pairs = zip(
            original.run(row),
            artifact.run(
                {n: values if dtypes[n] == "string" else values.astype(dtypes[n]) for n, values in row.items()}
            ),
            strict=True,
        )
        for wanted, found in pairs:
            assert wanted.shape == found.shape
            if wanted.dtype == object:
                assert wanted.tolist() == found.tolist()
                continue
            finite = np.isfinite(wanted)
            exact, got = wanted[finite].astype(np.float64), found[finite].astype(np.float64)
            assert np.isfinite(got).all()
            signal += float(np.sum(exact**2))
            noise += float(np.sum((exact - got) ** 2))
    if noise == 0:
        return 200.0
    return float(10 * np.log10(signal / noise)) if signal else -200.0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("case", CASES)
def test_the_matrix(tmp_path: Path, case: str, name: str) -> None:
    kind = kind_of(name)
    fault = FAULTS.get(case, {}).get(name, FAULTS.get(case, {}).get(kind))
    if fault is not None:
        with pytest.raises(StepError) as raised:
            produce(case, name, tmp_path)
        assert raised.value.code == fault[0]
        assert fault[1] in raised.value.detail
        return

    produced, given = produce(case, name, tmp_path)

    original_path = tmp_path / "original" / "model.onnx"
    assert passes_checker(produced.file) or not passes_checker(original_path)
    original = load(original_path)
    artifact = load(produced.file, session_options=produced.session_options)
    for before, after in ((original.inputs, artifact.inputs), (original.outputs, artifact.outputs)):
        assert [(port.name, port.dtype) for port in before] == [(port.name, port.dtype) for port in after]
    least, noted = FAR.get((case, kind), (LEAST_DB.get(kind, 13), ""))
    assert distance_db(original, artifact, given) >= least
    assert any(noted in note for note in produced.notes) or not noted


def test_the_matrix_has_no_idle_lines() -> None:
    kinds = set(map(kind_of, RECIPES)) | set(RECIPES)

    assert set(FAULTS) | {case for case, _ in FAR} <= set(CASES)
    assert {kind for faults in FAULTS.values() for kind in faults} | {kind for _, kind in FAR} <= kinds
    assert kinds >= set(LEAST_DB)


# What never comes as far as a technique


def test_operators_that_the_runtime_does_not_know_are_refused_at_the_upload(tmp_path: Path) -> None:
    model = models.model(
        [helper.make_node("Wavelet", ["x"], ["y"], name="/front/Wavelet", domain="com.example")],
        [models.value("x", ["batch", 4])],
        [models.value("y", ["batch", 4])],
        domains=[("com.example", 1)],
    )

    with pytest.raises(RejectedInput) as raised:
        inspect_onnx(models.save(model, tmp_path / "model.onnx"))

    assert raised.value.code == "unsupported_operator"
    assert "'/front/Wavelet'" in raised.value.detail
    assert "com.example:Wavelet" in raised.value.detail


@pytest.mark.parametrize(
    ("given", "code", "named"),
    [
        ([], "calibration_empty", "no rows"),
        (rows(MLP_ROWS, "input"), "model_does_not_run", "'x'"),
        (rows((1, 31)), "model_does_not_run", "x for the following indices"),
        ([{"x": row["x"].astype(np.float64)} for row in rows(MLP_ROWS)], "model_does_not_run", "double"),
    ],
    ids=["no rows", "another name", "another shape", "another type"],
)
def test_rows_that_do_not_fit_end_calibration(tmp_path: Path, given: Rows, code: str, named: str) -> None:
    with pytest.raises(StepError) as raised:
        collect(models.mlp(), ["x", "h3"], lambda: ((row, 1) for row in given), tmp_path)

    assert raised.value.code == code
    assert named in raised.value.detail


@pytest.mark.parametrize("dead", [1e-9, 1e-20, 0.0])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_bias_behind_weights_that_have_died_is_not_cut_off(make: Maker, dead: float, per_channel: bool) -> None:
    """onnxruntime makes a Gemm of MatMul and Add, and rounds the bias to 32 bits in units of the sum's scale."""
    first = normal(32, 24) * (1 if per_channel else np.float32(dead))
    first[:, :6] *= np.float32(dead)
    model = mlp_of(first)
    model.graph.initializer[1].CopyFrom(models.tensor("b1", np.linspace(3, 5, 24)))

    made = make(model, StaticInt8(reduce_range=True, per_channel=per_channel, recovery=()), feeds=rows(MLP_ROWS))

    assert made.sqnr_db > 30


@pytest.mark.parametrize("lowest", [-1e4, -1e9, float(np.finfo(np.float32).min), -np.inf])
@pytest.mark.parametrize("per_channel", [True, False])
def test_a_mask_that_is_added_leaves_the_weights_alone(make: Maker, lowest: float, per_channel: bool) -> None:
    recipe = StaticInt8(reduce_range=True, per_channel=per_channel, recovery=())

    assert make(masked(lowest), recipe, feeds=rows((2, 8))).sqnr_db > 30
