"""TFLite files on LiteRT: the same interface, the same numbers as a plain reference."""

from pathlib import Path

import numpy as np
import pytest

from app.errors import StepError
from tests.parts import models
from workers.runtimes.session import Array, Port, load

pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed (extra `tflite`)")

from tests.parts import tflite_models


@pytest.fixture
def dense(tmp_path: Path) -> Path:
    return tflite_models.save(tflite_models.dense(), tmp_path / "dense.tflite")


def reference(rows: Array) -> Array:
    weights, bias = tflite_models.dense_weights()
    logits = rows.astype(np.float64) @ weights.T + bias
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    result: Array = shares / shares.sum(axis=1, keepdims=True)
    return result


@pytest.mark.parametrize("rows", [1, 5, 2])
@pytest.mark.parametrize("delegate", ["1", "0"])
def test_it_computes_what_the_file_says_at_any_batch(dense: Path, rows: int, delegate: str) -> None:
    session = load(dense, runtime="litert", session_options={"xnnpack": delegate})
    values = np.random.default_rng(rows).normal(size=(rows, 4)).astype(np.float32)

    for feed in (values, values[::-1].copy(), values[:1]):  # larger and smaller batches in turn
        [found] = session.run({"x": feed})
        np.testing.assert_allclose(found, reference(feed), rtol=1e-5, atol=1e-6)


def test_it_describes_what_goes_in_and_out(dense: Path) -> None:
    session = load(dense, runtime="litert")

    assert session.inputs == (Port("x", "float32", (None, 4)),)
    assert session.outputs == (Port("scores", "float32", (None, 3)),)
    assert session.load_ms > 0


def test_conditions_say_who_computes(dense: Path) -> None:
    session = load(dense, runtime="litert", threads=2)
    plain = load(dense, runtime="litert", session_options={"xnnpack": "0"})

    assert session.conditions["runtime"] == "litert"
    assert session.conditions["threads"] == 2
    assert session.conditions["delegate"] == "XNNPACK"
    assert session.conditions["operators"] == 2
    assert session.conditions["delegated"] + sum(session.conditions["not_delegated"].values()) == 2
    assert (plain.conditions["delegate"], plain.conditions["delegated"]) == (None, 0)
    assert plain.conditions["not_delegated"] == {"FULLY_CONNECTED": 1, "SOFTMAX": 1}


def test_options_of_another_runtime_are_named_and_not_used(dense: Path) -> None:
    session = load(dense, runtime="litert", session_options={"session.x64quantprecision": "1"})

    assert session.conditions["not_applicable"] == {"session.x64quantprecision": "1"}
    assert session.conditions["session_options"] == {}


@pytest.mark.parametrize("options", [{"xnnpack": "yes"}, {"NUM_STREAMS": "2"}])
def test_options_that_it_does_not_have(dense: Path, options: dict[str, str]) -> None:
    with pytest.raises(StepError) as raised:
        load(dense, runtime="litert", session_options=options)

    assert raised.value.code == "session_option_unknown"


def test_quantized_inputs_are_fed_as_they_are(tmp_path: Path) -> None:
    session = load(tflite_models.save(tflite_models.quantized_relu(), tmp_path / "q.tflite"), runtime="litert")

    assert session.inputs[0].dtype == "int8"
    [found] = session.run({"x": np.array([[-128, -3, 0, 127]], np.int8)})
    assert found.tolist() == [[-3, -3, 0, 127]]  # zero is stored as -3


def test_an_operator_that_nobody_has_is_named(tmp_path: Path) -> None:
    with pytest.raises(StepError) as raised:
        load(tflite_models.save(tflite_models.custom(), tmp_path / "c.tflite"), runtime="litert")

    assert raised.value.code == "provider_unavailable"
    assert "MyOwnOperator" in raised.value.detail


def test_a_fixed_size_is_not_changed_quietly(tmp_path: Path) -> None:
    path = tflite_models.save(tflite_models.dense(dynamic=False), tmp_path / "fixed.tflite")
    session = load(path, runtime="litert")

    assert session.inputs[0].shape == (1, 4)
    with pytest.raises(StepError) as raised:
        session.run({"x": np.zeros((2, 4), np.float32)})
    assert raised.value.code == "model_does_not_run"
    # The failure leaves nothing behind.
    assert session.run({"x": np.zeros((1, 4), np.float32)})[0].shape == (1, 3)


@pytest.mark.parametrize("feeds", [{}, {"x": np.zeros((1, 4))}, {"y": np.zeros((1, 4), np.float32)}])
def test_wrong_feeds_are_refused(dense: Path, feeds: dict[str, Array]) -> None:
    with pytest.raises(StepError) as raised:
        load(dense, runtime="litert").run(feeds)

    assert raised.value.code == "model_does_not_run"


def test_a_damaged_file_does_not_load(tmp_path: Path) -> None:
    content = tflite_models.dense()

    with pytest.raises(StepError) as raised:
        load(tflite_models.save(content[: len(content) // 2], tmp_path / "cut.tflite"), runtime="litert")

    assert raised.value.code == "model_does_not_load"
    assert str(tmp_path) not in raised.value.detail


def test_each_format_has_its_runtime(dense: Path, tmp_path: Path) -> None:
    onnx = models.save(models.mlp(), tmp_path / "mlp.onnx")
    for path, runtime in ((dense, "onnxruntime"), (dense, "openvino"), (onnx, "litert")):
        with pytest.raises(StepError) as raised:
            load(path, runtime=runtime)
        assert raised.value.code == "runtime_not_for_format"


def test_times_by_operator_are_not_told(dense: Path, tmp_path: Path) -> None:
    with pytest.raises(StepError) as raised:
        load(dense, runtime="litert").profile([{"x": np.zeros((1, 4), np.float32)}], 2, tmp_path)

    assert raised.value.code == "profile_unavailable"
