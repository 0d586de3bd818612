"""Whole artifacts under emulation, as onnxruntime's own quantizer writes them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static

from app.errors import StepError
from tests.parts.models import conv_net, mlp, model, save, tensor, transformer, value
from workers.hardware.cpu import read_cpu
from workers.quantization.emulation.emulator import Emulator, emulate
from workers.quantization.emulation.kernels import KERNELS
from workers.quantization.emulation.lowering import key, lower
from workers.quantization.emulation.prediction import predict
from workers.quantization.emulation.probe import arithmetic_here
from workers.runtimes.session import load

Array = NDArray[Any]
Feeds = dict[str, Array]
U8, S8 = QuantType.QUInt8, QuantType.QInt8
PRECISION = {"session.x64quantprecision": "1"}


class Rows(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, feeds: list[Feeds]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> Feeds | None:
        return next(self._left, None)


def drawn(path: Path, rows: int = 6) -> list[Feeds]:
    """Seeded rows of a model: normal floats, small ids, masks of ones; batches of 2, other dynamic axes 5."""
    rng = np.random.default_rng(0)
    made: list[Feeds] = []
    for _ in range(rows):
        row: Feeds = {}
        for port in load(path).inputs:
            shape = [size if isinstance(size, int) else 5 if axis else 2 for axis, size in enumerate(port.shape)]
            ids = np.ones(shape, np.int64) if "mask" in port.name else rng.integers(0, 40, shape)
            row[port.name] = ids if port.dtype == "int64" else rng.standard_normal(shape).astype(np.float32)
        made.append(row)
    return made


def quantized(
    made: ModelProto,
    folder: Path,
    activations: QuantType = U8,
    *,
    feeds: list[Feeds] | None = None,
    reduce_range: bool = False,
    per_channel: bool = True,
) -> tuple[Path, Path, list[Feeds]]:
    """A float model, its artifact, and the rows that it was calibrated with."""
    path, out = save(made, folder / "float.onnx"), folder / "artifact.onnx"
    feeds = feeds or drawn(path)
    quantize_static(
        str(path), str(out), Rows(feeds), quant_format=QuantFormat.QDQ, activation_type=activations, weight_type=S8,
        per_channel=per_channel, reduce_range=reduce_range,
    )  # fmt: skip
    return path, out, feeds


def native(path: Path, feeds: list[Feeds], options: Mapping[str, str] | None = None) -> list[dict[str, Array]]:
    session = load(path, session_options=options)
    return [dict(zip((port.name for port in session.outputs), session.run(row), strict=True)) for row in feeds]


@pytest.mark.parametrize("activations", [U8, S8], ids=["u8", "s8"])
@pytest.mark.parametrize("per_channel", [True, False], ids=["channels", "tensor"])
@pytest.mark.parametrize("made", [conv_net, mlp, transformer])
def test_an_artifact_gives_what_it_gives_here(
    tmp_path: Path, made: Any, activations: QuantType, per_channel: bool
) -> None:
    _, path, feeds = quantized(made(), tmp_path, activations, per_channel=per_channel)
    assert any(key(node) in KERNELS for node in lower(path).graph.node)
    for found, expected in zip(emulate(path, feeds, arithmetic_here()), native(path, feeds), strict=True):
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in expected)


def test_any_tensor_of_the_lowered_graph_can_be_had(tmp_path: Path) -> None:
    _, path, feeds = quantized(conv_net(), tmp_path)
    names = [node.output[0] for node in lower(path).graph.node]
    found = next(emulate(path, feeds, "exact", names))
    assert list(found) == names
    assert {values.dtype for values in found.values()} >= {np.dtype(np.uint8)}
    first = Emulator(lower(path), "exact", names[:2])
    assert len(first.tallies) == 1, "what comes after is not computed"
    assert np.array_equal(first.run(feeds[0])[names[1]], found[names[1]])
    with pytest.raises(KeyError, match="nowhere"):
        Emulator(lower(path), "exact", ["nowhere"])


def bright() -> ModelProto:
    """A convolution whose weights and inputs are as large as their ranges go: (1, 4, 6, 6) → (1, 16, 4, 4)."""
    weights = np.random.default_rng(0).choice([-1.0, 1.0, 0.9, 0.8], (16, 4, 3, 3))
    return model(
        [helper.make_node("Conv", ["x", "w", "b"], ["y"], name="bright")],
        [value("x", [1, 4, 6, 6])],
        [value("y", None)],
        [tensor("w", weights), tensor("b", np.zeros(16))],
    )


def test_the_error_is_split_into_rounding_and_saturation(tmp_path: Path) -> None:
    feeds: list[Feeds] = [{"x": np.full((1, 4, 6, 6), size, np.float32)} for size in (2.0, 1.5)]
    path, artifact, _ = quantized(bright(), tmp_path, feeds=feeds)
    found = predict(artifact, path, feeds)
    (output,) = found.outputs
    assert output.exact_sqnr_db > output.saturating_sqnr_db + 10
    # Rounding is small beside saturation here, so that the whole error is about the latter's.
    assert output.saturation_sqnr_db == pytest.approx(output.saturating_sqnr_db, abs=1.5)
    (layer,) = found.layers
    assert layer.name == "bright"
    assert 0 < layer.saturated < 1
    assert layer.sqnr_db < 20


@pytest.mark.parametrize("remedy", ["7 bits", "session option"])
def test_a_remedy_leaves_nothing_to_saturate(tmp_path: Path, remedy: str) -> None:
    path, artifact, feeds = quantized(bright(), tmp_path, reduce_range=remedy == "7 bits")
    options = PRECISION if remedy == "session option" else None
    found = predict(artifact, path, feeds, session_options=options)
    assert [layer.saturated for layer in found.layers] == [0.0]
    assert found.outputs[0].saturation_sqnr_db == 200.0
    assert found.outputs[0].exact_sqnr_db == found.outputs[0].saturating_sqnr_db


def test_the_session_option_makes_weights_unsigned_on_x86(tmp_path: Path) -> None:
    _, artifact, feeds = quantized(bright(), tmp_path)
    lowered = lower(artifact, PRECISION).graph
    (node,) = [node for node in lowered.node if node.op_type == "QLinearConv"]
    kind = {tensor.name: tensor.data_type for tensor in lowered.initializer}[node.input[3]]
    x86 = "avx2" in read_cpu().features
    assert kind == (TensorProto.UINT8 if x86 else TensorProto.INT8)
    found = emulate(artifact, feeds, "saturating" if x86 else "exact", session_options=PRECISION)
    for one, other in zip(found, native(artifact, feeds, PRECISION), strict=True):
        assert np.array_equal(one["y"], other["y"])


def test_agreement_counts_positions(tmp_path: Path) -> None:
    path, artifact, feeds = quantized(conv_net(), tmp_path)
    output = predict(artifact, path, feeds).outputs[0]
    session = load(path)
    expected = [session.run(row)[0].argmax() for row in feeds]
    exact = [row["logits"].argmax() for row in emulate(artifact, feeds, "exact")]
    assert output.exact_agreement == pytest.approx(np.mean(np.equal(expected, exact)))


def test_a_dynamic_artifact_is_refused_with_the_nodes_name(tmp_path: Path) -> None:
    path, out = save(mlp(), tmp_path / "float.onnx"), tmp_path / "dynamic.onnx"
    quantize_dynamic(str(path), str(out))
    with pytest.raises(StepError, match="static int8 artifacts") as caught:
        lower(out)
    assert caught.value.code == "not_emulated"


def test_integers_in_a_nested_body_are_refused(tmp_path: Path) -> None:
    inner = helper.make_graph(
        [helper.make_node("MatMulInteger", ["x", "w"], ["z"], name="inner")],
        "body",
        [],
        [value("z", None, TensorProto.INT32)],
    )
    made = model(
        [helper.make_node("If", ["c"], ["y"], name="choice", then_branch=inner, else_branch=inner)],
        [value("c", [], TensorProto.BOOL), value("x", [2, 4], TensorProto.UINT8)],
        [value("y", None, TensorProto.INT32)],
        [tensor("w", np.ones((4, 3)), np.int8)],
    )
    with pytest.raises(StepError, match="nested body"):
        lower(save(made, tmp_path / "model.onnx"))


def test_what_cannot_be_loaded_says_so(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(onnx.ModelProto().SerializeToString())
    with pytest.raises(StepError) as caught:
        lower(path)
    assert caught.value.code == "model_does_not_load"
