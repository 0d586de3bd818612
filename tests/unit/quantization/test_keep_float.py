"""Nodes that a recipe keeps in float."""

from pathlib import Path

import pytest

from app.domain.recipe import DynamicInt8, Float16, OperatorType, StaticInt8
from app.errors import StepError
from tests.parts import models
from tests.unit.quantization.conftest import Maker
from workers.quantization.preparation import prepare
from workers.quantization.selection import resolve_keep_float


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
