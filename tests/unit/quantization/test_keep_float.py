"""Nodes that a recipe keeps in float."""

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import ModelProto, helper
from pydantic import ValidationError

from app.domain.recipe import RECIPE, DynamicInt8, Float16, OperatorType, StaticInt8
from app.errors import StepError
from tests.parts import models
from tests.unit.quantization.conftest import Maker
from workers.quantization.preparation import prepare
from workers.quantization.selection import resolve_keep_float
from workers.runtimes.session import load


@pytest.mark.parametrize(
    ("entry", "kept"),
    [
        ("/head/Gemm", {"/head/Gemm"}),
        ("/head/*", {"/head/Pool", "/head/Flatten", "/head/Gemm"}),
        ("/*/Conv", {"/stem/Conv", "/block/Conv"}),
        ("/bl[op]ck/Conv", {"/block/Conv"}),
        (OperatorType(op_type="Conv"), {"/stem/Conv", "/block/Conv"}),
    ],
)
def test_entries_match(entry: str | OperatorType, kept: set[str]) -> None:
    assert resolve_keep_float(models.conv_net(), (entry,)) == kept


def test_a_name_that_looks_like_a_pattern_is_a_name_first() -> None:
    model = models.conv_net()
    model.graph.node[0].name = "conv[0]"
    model.graph.node[3].name = "conv0"

    assert resolve_keep_float(model, ("conv[0]",)) == {"conv[0]"}


def test_nested_bodies_are_matched() -> None:
    assert resolve_keep_float(models.branches(), ("then/*",)) == {"then/MatMul", "then/Mul", "then/Min"}


def test_what_matches_nothing_is_an_error_that_names_near_ones() -> None:
    with pytest.raises(StepError) as raised:
        resolve_keep_float(models.conv_net(), ("/head/Gem", "/tail/*", OperatorType(op_type="Convolution")))

    assert raised.value.code == "keep_float_matches_nothing"
    for part in ("'/head/Gem' (near: /head/Gemm", "'/tail/*'", "op_type 'Convolution' (near: Conv)"):
        assert part in raised.value.detail


def test_kept_nodes_stay_float_in_static(make: Maker) -> None:
    made = make(models.conv_net(), StaticInt8(keep_float=("/head/*",)))

    names = {entry.name for entry in made.proto.graph.initializer}
    assert "fc_w" in names
    assert "fc_w_quantized" not in names
    assert "dw_w_quantized" in names


def test_kept_gemm_stays_float_in_dynamic(make: Maker) -> None:
    made = make(models.mlp(), DynamicInt8(keep_float=("head/Gemm",)))

    assert made.op_types.count("MatMulInteger") == 1
    names = {entry.name for entry in made.proto.graph.initializer}
    assert "w1_quantized" in names
    assert "w2_quantized" not in names


def test_kept_nodes_stay_float_in_float16(make: Maker) -> None:
    made = make(models.mlp(), Float16(keep_float=("head/*",)))

    types = {entry.name: entry.data_type for entry in made.proto.graph.initializer}
    assert types["w1"] == models.TensorProto.FLOAT16
    assert types["w2"] == models.TensorProto.FLOAT


def test_a_kept_body_of_an_if_stays_float_in_float16(make: Maker) -> None:
    made = make(models.branches(), Float16(keep_float=("then/MatMul", "else/*")))

    assert made.sqnr_db > 55


def test_a_kept_batch_norm_is_not_folded(tmp_path: Path) -> None:
    path = models.save(models.conv_net(), tmp_path / "model.onnx")

    prepared = prepare(path, least_opset=13, keep_float=("/stem/BatchNorm",), fold=True, batch_norms=True)

    assert "BatchNormalization" in {node.op_type for node in prepared.model.graph.node}


def test_nodes_without_names_can_be_kept_by_type(make: Maker) -> None:
    made = make(models.mlp(named=False), DynamicInt8(keep_float=(OperatorType(op_type="Gemm"),)))

    assert made.op_types.count("MatMulInteger") == 1


LETTERS = st.text("ab/[]*?!-", min_size=1, max_size=6)


@settings(max_examples=300, deadline=None)
@given(st.lists(LETTERS, min_size=1, max_size=12, unique=True), LETTERS)
def test_patterns_match_what_the_shell_matches(names: list[str], entry: str) -> None:
    model = models.model([helper.make_node("Relu", ["x"], [f"t{name}"], name=name) for name in names], [], [])
    wanted = {entry} if entry in names else {name for name in names if fnmatchcase(name, entry)}

    if wanted:
        assert resolve_keep_float(model, (entry,)) == wanted
    else:
        with pytest.raises(StepError):
            resolve_keep_float(model, (entry,))


def test_an_error_tells_the_first_few_of_many() -> None:
    with pytest.raises(StepError) as raised:
        resolve_keep_float(models.conv_net(), tuple(f"wrong/{index}" for index in range(900)))

    assert "'wrong/4'" in raised.value.detail
    assert "'wrong/5'" not in raised.value.detail
    assert "and 895 more entries" in raised.value.detail


def test_near_names_are_found_among_twenty_thousand() -> None:
    names = [f"/layers/{index}/attention/MatMul" for index in range(20_000)]
    model = models.model([helper.make_node("Relu", ["x"], [name], name=name) for name in names], [], [])

    with pytest.raises(StepError) as raised:
        resolve_keep_float(model, ("/layers/17777/attention/MatMull",))

    assert "(near: /layers/17777/attention/MatMul," in raised.value.detail


@pytest.mark.parametrize(
    "options",
    [
        {"keep_float": ["a"] * 1001},
        {"keep_float": ["a" * 1025]},
        {"keep_float": [{"op_type": "a" * 201}]},
        {"op_types": ["Conv"] * 1001},
        {"op_types": ["a" * 201]},
        {"op_types": [""]},
    ],
)
@pytest.mark.parametrize("technique", ["dynamic_int8", "static_int8"])
def test_lists_of_nodes_are_bounded(technique: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RECIPE.validate_python({"technique": technique, **options})


def uneven_convolutions(group: int) -> ModelProto:
    """Three convolutions, the middle one (`kept`) with weights of very unequal channels."""
    rng = np.random.default_rng(2)
    middle = rng.standard_normal((8, 8 // group, 3, 3)) * np.exp(rng.normal(0, 2, (8, 1, 1, 1)))
    return models.model(
        [
            helper.make_node("Conv", ["x", "w1"], ["a"], name="first", pads=[1] * 4),
            helper.make_node("Conv", ["a", "w2"], ["b"], name="kept", pads=[1] * 4, group=group),
            helper.make_node("Conv", ["b", "w3"], ["y"], name="last"),
        ],
        [models.value("x", ["batch", 3, 4, 4])],
        [models.value("y", None)],
        [models.weights("w1", 8, 3, 3, 3), models.tensor("w2", middle), models.weights("w3", 8, 8, 1, 1)],
    )


def uneven_gemms() -> ModelProto:
    """Two products of what a third makes, one (`kept`) with weights of very unequal channels."""
    rng = np.random.default_rng(2)
    uneven = rng.standard_normal((8, 8)) * np.exp(rng.normal(0, 2, 8))
    return models.model(
        [
            helper.make_node("Gemm", ["x", "w1"], ["a"], name="first"),
            helper.make_node("Gemm", ["a", "w2"], ["y"], name="kept"),
            helper.make_node("Gemm", ["a", "w3"], ["z"], name="other"),
        ],
        [models.value("x", ["batch", 8])],
        [models.value("y", None), models.value("z", None)],
        [models.weights("w1", 8, 8), models.tensor("w2", uneven), models.weights("w3", 8, 8)],
    )


@pytest.mark.parametrize(
    "model", [uneven_convolutions(1), uneven_convolutions(8), uneven_gemms()], ids=["conv", "depthwise", "gemm"]
)
def test_the_runtime_does_not_quantize_the_weights_of_what_is_kept(make: Maker, model: ModelProto) -> None:
    """Its optimizer would, with one scale for all channels; so as run, the artifact is what its nodes say in float."""
    made = make(model, StaticInt8(keep_float=("kept",), reduce_range=True, recovery=()))
    literally = load(made.produced.file, optimization="none")
    exact = np.concatenate([literally.run(row)[0] for row in made.feeds]).astype(np.float64)
    found = np.concatenate([row[0] for row in made.artifact])
    axes = tuple(axis for axis in range(exact.ndim) if axis != 1)  # channel by channel
    assert (((found - exact) ** 2).sum(axes) < 1e-4 * (exact**2).sum(axes)).all()
