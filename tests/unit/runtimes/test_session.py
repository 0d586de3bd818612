"""A model behind the small interface: as asked for, or an error that says why not."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from app.errors import StepError
from tests.parts import models
from workers.runtimes.session import Port, available_runtimes, available_threads, load, numpy_dtype, run_batches


@pytest.fixture
def mlp(tmp_path: Path) -> Path:
    return models.save(models.mlp(), tmp_path / "mlp.onnx")


def test_it_describes_what_goes_in_and_out(tmp_path: Path) -> None:
    session = load(models.save(models.transformer(), tmp_path / "model.onnx"))

    assert session.inputs == (
        Port("input_ids", "int64", ("batch", "sequence")),
        Port("attention_mask", "int64", ("batch", "sequence")),
    )
    assert session.outputs[0] == Port("last_hidden_state", "float32", ("batch", "sequence", 16))
    assert session.load_ms > 0


def test_conditions_say_what_its_numbers_hold_for(mlp: Path) -> None:
    session = load(mlp, threads=2, session_options={"session.intra_op.allow_spinning": "0"})

    assert session.conditions["runtime"] == "onnxruntime"
    assert session.conditions["threads"] == 2
    assert session.conditions["providers"] == ["CPUExecutionProvider"]
    assert session.conditions["session_options"] == {"session.intra_op.allow_spinning": "0"}


def test_it_runs_with_one_thread_unless_told(mlp: Path) -> None:
    session = load(mlp)

    assert session.native.get_session_options().intra_op_num_threads == 1


def test_options_reach_the_runtime(mlp: Path) -> None:
    session = load(mlp, session_options={"session.x64quantprecision": "1"})

    options = session.native.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == "1"


def test_outputs_come_in_the_order_asked_for(tmp_path: Path) -> None:
    session = load(models.save(models.transformer(), tmp_path / "model.onnx"))
    feeds = {"input_ids": np.ones((2, 3), np.int64), "attention_mask": np.ones((2, 3), np.int64)}

    pooled, hidden = session.run(feeds, ["pooled", "last_hidden_state"])

    assert (pooled.shape, hidden.shape) == ((2, 16), (2, 3, 16))
    np.testing.assert_array_equal(session.run(feeds)[0], hidden)


def test_batches_run_one_at_a_time(mlp: Path) -> None:
    asked = []

    def batches() -> Iterator[dict[str, models.Array]]:
        for size in (3, 2):
            asked.append(size)
            yield {"x": np.ones((size, 32), np.float32)}

    found = run_batches(load(mlp), batches())

    assert next(found)["y"].shape == (3, 5)
    assert asked == [3]
    assert next(found)["y"].shape == (2, 5)


def test_a_provider_that_is_not_there_is_no_reason_to_take_another(mlp: Path) -> None:
    with pytest.raises(StepError) as raised:
        load(mlp, providers=("CUDAExecutionProvider",))

    assert raised.value.code == "provider_unavailable"


def test_what_would_fall_back_to_the_processor_is_named(tmp_path: Path) -> None:
    """The Azure provider comes with every onnxruntime, and runs none of these operators."""
    path = models.save(models.mlp(), tmp_path / "mlp.onnx")

    with pytest.raises(StepError) as raised:
        load(path, providers=("AzureExecutionProvider",))

    assert raised.value.code == "provider_unavailable"
    assert "'dense/MatMul' (MatMul)" in raised.value.detail
    assert "CPUExecutionProvider" in raised.value.detail


def test_falling_back_is_allowed_where_both_are_asked_for(mlp: Path) -> None:
    session = load(mlp, providers=("AzureExecutionProvider", "CPUExecutionProvider"))

    assert session.run({"x": np.ones((1, 32), np.float32)})[0].shape == (1, 5)
    assert session.conditions["providers"] == ["AzureExecutionProvider", "CPUExecutionProvider"]
    assert session.conditions["nodes"]["AzureExecutionProvider"] == 0, "and it is said who runs what"
    assert session.conditions["nodes"]["CPUExecutionProvider"] >= 2


def test_an_option_of_another_runtime_is_no_option_here(mlp: Path) -> None:
    with pytest.raises(StepError) as raised:
        load(mlp, session_options={"NUM_STREAMS": "1"})

    assert raised.value.code == "session_option_unknown"


def test_an_unknown_runtime_is_refused(mlp: Path) -> None:
    with pytest.raises(StepError) as raised:
        load(mlp, runtime="caffe")

    assert raised.value.code == "runtime_unavailable"
    assert "onnxruntime" in raised.value.detail


@pytest.mark.parametrize(
    ("runtime", "package"), [("openvino", "openvino"), ("litert", "ai_edge_litert"), ("torch", "torch")]
)
def test_a_runtime_that_is_not_installed_says_what_to_install(runtime: str, package: str, mlp: Path) -> None:
    """In a process of its own, in which the package cannot be found."""
    program = (
        "import sys\n"
        f"sys.modules[{package!r}] = None\n"
        "from pathlib import Path\n"
        "from app.errors import StepError\n"
        "from workers.runtimes.session import available_runtimes, load\n"
        "try:\n"
        f"    load(Path({str(mlp)!r}), runtime={runtime!r})\n"
        "except StepError as error:\n"
        "    print(error.code, error.detail)\n"
        f"assert {runtime!r} not in available_runtimes()\n"
        "assert 'onnxruntime' in available_runtimes()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("runtime_unavailable ")
    assert package.replace("_", "-") in done.stdout


def test_the_runtimes_here_have_their_versions() -> None:
    found = available_runtimes()

    assert found["onnxruntime"] == ort.__version__
    assert all(re.match(r"\d+\.\d+", version) for version in found.values())


def test_after_closing_there_is_nothing_to_run(mlp: Path) -> None:
    session = load(mlp)
    session.close()

    with pytest.raises(AttributeError):
        session.run({"x": np.ones((1, 32), np.float32)})


def test_what_cannot_be_loaded_is_told_without_places(tmp_path: Path) -> None:
    broken = models.model(
        [helper.make_node("NoSuchOperator", ["x"], ["y"], name="odd node")],
        [models.value("x", [1])],
        [models.value("y", [1])],
    )

    with pytest.raises(StepError) as raised:
        load(models.save(broken, tmp_path / "model.onnx"))

    assert raised.value.code == "model_does_not_load"
    assert "NoSuchOperator" in raised.value.detail
    assert str(tmp_path) not in raised.value.detail
    assert "ONNXRuntimeError" not in raised.value.detail


def test_what_cannot_be_run_is_told_with_its_node(tmp_path: Path) -> None:
    session = load(models.save(models.transformer(words=10), tmp_path / "model.onnx"))

    with pytest.raises(StepError) as raised:
        session.run({"input_ids": np.full((1, 3), 10), "attention_mask": np.ones((1, 3), np.int64)})

    assert raised.value.code == "model_does_not_run"
    assert "/embed/Gather" in raised.value.detail
    assert ".cc:" not in raised.value.detail


def test_running_out_of_memory_is_no_fault_of_the_model(tmp_path: Path) -> None:
    model = models.model(
        [helper.make_node("Expand", ["x", "shape"], ["y"], name="huge")],
        [models.value("x", [1]), models.value("shape", [2], TensorProto.INT64)],
        [models.value("y", [None, None])],
    )
    session = load(models.save(model, tmp_path / "model.onnx"))

    with pytest.raises(MemoryError):
        session.run({"x": np.ones(1, np.float32), "shape": np.array([1 << 24, 1 << 24])})


@pytest.mark.parametrize(("dtype", "expected"), [("float16", "float16"), ("int32", "int32"), ("string", "object")])
def test_types_to_feed(dtype: str, expected: str) -> None:
    assert numpy_dtype(Port("x", dtype, (1,))) == np.dtype(expected)


@pytest.mark.parametrize("dtype", ["", "float5"])
def test_types_that_cannot_be_fed(dtype: str) -> None:
    with pytest.raises(StepError) as raised:
        numpy_dtype(Port("x", dtype, (1,)))

    assert raised.value.code == "unsupported_input_type"


def test_threads_are_those_of_this_process() -> None:
    assert available_threads() >= 1
