"""The shapes that decoders are served in, on models that onnxruntime runs."""

import numpy as np
import pytest
from onnx import TensorProto, helper

from app.domain.model import is_cache
from tests.unit.steps.conftest import Job
from workers.runtimes.session import Port, load
from workers.steps.decoding import decoder_cases
from workers.steps.inputs import RowSource
from workers.steps.rows import rows_from


def decoder(job: Job) -> None:
    """Puts each token's id behind the cache and gives all of it; adds up the mask, which must be as long."""
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("Concat", ["past_key_values.0.key", "floats"], ["present.0.key"], axis=1),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["present.0.key", "mask"], ["logits"]),
    ]
    inputs = [
        helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
        helper.make_tensor_value_info("attention_mask", TensorProto.INT64, ["batch", "total"]),
        helper.make_tensor_value_info("past_key_values.0.key", TensorProto.FLOAT, ["batch", "past"]),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("logits", "present.0.key")]
    graph = helper.make_graph(nodes, "decoder", inputs, outputs)
    job.save_model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9))


def test_a_prompt_has_no_past_and_a_step_has_one_token(job: Job) -> None:
    decoder(job)
    session = load(job.scratch / job.model)
    cases = decoder_cases(session.inputs, 7)
    assert cases["prefill"] == {"input_ids": (1, 7), "attention_mask": (1, 7), "past_key_values.0.key": (1, 0)}
    assert cases["step"] == {"input_ids": (1, 1), "attention_mask": (1, 8), "past_key_values.0.key": (1, 7)}
    for shapes in cases.values():
        [feeds] = rows_from(RowSource(shapes=shapes), job.scratch, session).feeds(1, 0, 1)
        assert {name: values.shape for name, values in feeds.items()} == shapes
        logits, _ = session.run(feeds)
        assert logits.shape == shapes["attention_mask"]


def test_a_cache_that_the_data_lack_is_empty(job: Job) -> None:
    """The outputs are those of feeds with an empty cache given."""
    decoder(job)
    ids = np.arange(12, dtype=np.int64).reshape(2, 6)
    job.save_dataset("evaluation", input_ids=ids, attention_mask=np.ones_like(ids))
    job.spec = {"kind": "evaluate", "recipe": None}
    job.run_until("baseline")
    with np.load(job.scratch / "baseline" / "outputs.npz") as outputs:
        assert np.array_equal(outputs["logits"], ids + 1.0)


def test_a_decoder_s_two_cases_are_measured_unasked(job: Job) -> None:
    decoder(job)
    rows = np.arange(12, dtype=np.int64).reshape(2, 6)
    job.save_dataset("evaluation", input_ids=rows, attention_mask=np.ones_like(rows))
    job.spec = {"kind": "evaluate", "recipe": None}
    found = job.run_until("baseline")["cases"]
    assert found["prefill"]["input_ids"] == [1, 6]
    assert found["step"]["past_key_values.0.key"] == [1, 6]
    timed = job.run(
        "measure_latency", "latency-1", baseline={"path": job.model}, case="step", shapes=found["step"], seconds=0.02
    )
    assert (timed["case"], timed["batch"], timed["candidate"]) == ("step", 1, "original")


@pytest.mark.parametrize(
    ("port", "expected"),
    [
        (Port("past_key_values.0.key", "float32", ("batch", 3, "past", 64)), True),
        (Port("past_mean", "float32", ("batch", 3)), False),
        (Port("input_ids", "int64", ("batch", "tokens")), False),
    ],
)
def test_a_cache_is_named_so_and_varies_in_length(port: Port, expected: bool) -> None:
    assert is_cache(port.name, port.shape) is expected


def test_a_model_without_a_cache_has_no_cases() -> None:
    assert decoder_cases([Port("x", "float32", ("batch", "tokens"))]) == {}
