"""The same ONNX and QDQ files on OpenVINO: the numbers of onnxruntime, and nothing computed that was not asked for."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from app.errors import StepError
from tests.parts import models
from tests.unit.steps.conftest import Job
from workers.runtimes.session import Array, Port, Session, available_runtimes, load

pytest.importorskip("openvino", reason="OpenVINO is not installed (extra `openvino`)")

EXAMPLES = Path(__file__).parents[3] / "examples"


def feeds_of(session: Session, rows: int = 3, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    feeds = {}
    for port in session.inputs:
        shape = [size if isinstance(size, int) else rows for size in port.shape]
        values = rng.standard_normal(shape) if port.dtype.startswith("float") else rng.integers(1, 5, shape)
        feeds[port.name] = values.astype(port.dtype)
    return feeds


def sqnr_db(reference: Array, other: Array) -> float:
    noise = ((reference.astype(np.float64) - other) ** 2).sum()
    return float(10 * np.log10((reference.astype(np.float64) ** 2).sum() / noise))


@pytest.mark.parametrize(
    "make",
    [models.conv_net, models.mlp, models.transformer, models.branches, models.loop, models.resize_net,
     models.two_heads, models.upsample_net],
)  # fmt: skip
def test_it_agrees_with_onnxruntime_at_several_sizes(make: Callable[[], ModelProto], tmp_path: Path) -> None:
    path = models.save(make(), tmp_path / "model.onnx")
    known, session = load(path), load(path, runtime="openvino")

    assert [port.name for port in session.outputs] == [port.name for port in known.outputs]
    assert [port.dtype for port in session.outputs] == [port.dtype for port in known.outputs]
    for rows in (1, 4, 2):
        feeds = feeds_of(known, rows, seed=rows)
        for expected, found in zip(known.run(feeds), session.run(feeds), strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["fashion_mobilenet", "fashion_dense"])
def test_it_agrees_on_the_shipped_models(name: str) -> None:
    path = EXAMPLES / f"{name}.onnx"
    rows = np.load(EXAMPLES / "evaluation.npz")["image"][:32]
    [expected] = load(path).run({"image": rows})
    [found] = load(path, runtime="openvino").run({"image": rows})

    assert sqnr_db(expected, found) > 100


def test_our_int8_artifact_is_the_same_model_on_both(tmp_path: Path) -> None:
    """Rounding differs where a result lies between two steps. Weights have 7 bits, so that nothing saturates on
    processors that add products in 16."""
    job = Job(tmp_path)
    job.save_model(onnx.load(EXAMPLES / "fashion_mobilenet.onnx"))
    job.save_dataset("calibration", image=np.load(EXAMPLES / "calibration.npz")["image"][:32])
    job.spec = {"recipe": {"technique": "static_int8"}}
    [made] = job.run_until("candidates")["candidates"]
    path = job.scratch / "candidates" / made["file"]
    feeds = {"image": np.load(EXAMPLES / "evaluation.npz")["image"][:64]}
    [original] = load(job.scratch / job.model).run(feeds)
    [known] = load(path, session_options=made["session_options"]).run(feeds)
    session = load(path, runtime="openvino", session_options=made["session_options"])
    [found] = session.run(feeds)

    assert sqnr_db(known, found) > 30
    assert abs(sqnr_db(original, found) - sqnr_db(original, known)) < 3
    kernels = session.profile([feeds], 3, tmp_path).kernels
    convolutions = [kernel for kernel in kernels if "Convolution" in kernel.op_type]
    assert len(convolutions) == 17
    assert all("i8" in kernel.kernel.lower() for kernel in convolutions), "computed in int8, not in float"


def test_what_it_would_choose_by_the_machine_is_pinned_and_said(tmp_path: Path) -> None:
    session = load(models.save(models.mlp(), tmp_path / "mlp.onnx"), runtime="openvino")

    assert session.conditions["runtime"] == "openvino"
    assert session.conditions["version"] == available_runtimes()["openvino"]
    assert (session.conditions["device"], session.conditions["threads"]) == ("CPU", 1)
    assert session.conditions["properties"] == {
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
        "EXECUTION_MODE_HINT": "ACCURACY",
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
        "KV_CACHE_PRECISION": "f32",
        "ENABLE_CPU_PINNING": "False",
    }


def test_threads_are_those_that_it_really_takes(tmp_path: Path) -> None:
    path = models.save(models.mlp(), tmp_path / "mlp.onnx")

    assert load(path, runtime="openvino", threads=1).conditions["threads"] == 1
    assert 1 <= load(path, runtime="openvino", threads=512).conditions["threads"] < 512


def test_asking_for_another_option_changes_it_and_says_so(tmp_path: Path) -> None:
    path = models.save(models.mlp(), tmp_path / "mlp.onnx")
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "session.x64quantprecision": "1"}

    session = load(path, runtime="openvino", session_options=options)

    assert session.conditions["properties"]["PERFORMANCE_HINT"] == "THROUGHPUT"
    assert session.conditions["session_options"] == {"PERFORMANCE_HINT": "THROUGHPUT"}
    assert session.conditions["not_applicable"] == {"session.x64quantprecision": "1"}


def test_an_option_that_it_does_not_have(tmp_path: Path) -> None:
    with pytest.raises(StepError) as raised:
        load(models.save(models.mlp(), tmp_path / "m.onnx"), runtime="openvino", session_options={"NO_SUCH": "1"})

    assert raised.value.code == "session_option_unknown"
    assert "NO_SUCH" in raised.value.detail


def test_what_it_cannot_run_is_named_by_node(tmp_path: Path) -> None:
    path = models.save(models.function_model(), tmp_path / "model.onnx")
    assert load(path).run({"x": np.ones((1, 8), np.float32)})  # onnxruntime can

    with pytest.raises(StepError) as raised:
        load(path, runtime="openvino")

    assert raised.value.code == "provider_unavailable"
    assert "Dense" in raised.value.detail
    assert "'dense'" in raised.value.detail


def test_another_provider_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepError) as raised:
        load(models.save(models.mlp(), tmp_path / "m.onnx"), runtime="openvino", providers=("CUDAExecutionProvider",))

    assert raised.value.code == "provider_unavailable"


def test_a_damaged_file_does_not_load(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(b"\x08\x08\x3a\x05nonsense")

    with pytest.raises(StepError) as raised:
        load(path, runtime="openvino")

    assert raised.value.code == "model_does_not_load"
    assert str(tmp_path) not in raised.value.detail


@pytest.mark.parametrize(
    "feeds",
    [
        {},
        {"x": np.ones((2, 32))},
        {"x": np.ones((2, 31), np.float32)},
        {"z": np.ones((2, 32), np.float32)},
        {"x": np.ones((2, 32), np.float32), "z": np.ones(1, np.float32)},
    ],
    ids=["nothing", "float64", "another width", "another name", "one too many"],
)
def test_wrong_feeds_are_refused_even_after_right_ones(feeds: dict[str, Array], tmp_path: Path) -> None:
    session = load(models.save(models.mlp(), tmp_path / "mlp.onnx"), runtime="openvino")
    session.run({"x": np.ones((2, 32), np.float32)})

    with pytest.raises(StepError) as raised:
        session.run(feeds)

    assert raised.value.code == "model_does_not_run"


def test_a_run_that_fails_says_so_and_the_next_one_works(tmp_path: Path) -> None:
    """OpenVINO's synchronous call would hand out the results of the run before."""
    made = models.model(
        [helper.make_node("Reshape", ["x", "shape"], ["y"], name="fold")],
        [models.value("x", ["n"]), models.value("shape", [2], TensorProto.INT64)],
        [models.value("y", [None, None])],
    )
    session = load(models.save(made, tmp_path / "model.onnx"), runtime="openvino")
    x = np.arange(6, dtype=np.float32)
    session.run({"x": x, "shape": np.array([2, 3])})

    with pytest.raises(StepError) as raised:
        session.run({"x": x, "shape": np.array([4, 5])})

    assert raised.value.code == "model_does_not_run"
    assert "conflicts with the reshape pattern" in raised.value.detail
    assert "Exception from" not in raised.value.detail
    assert ".cpp" not in raised.value.detail
    assert session.run({"x": x, "shape": np.array([3, 2])})[0].tolist() == x.reshape(3, 2).tolist()


def test_running_out_of_memory_is_no_fault_of_the_model(tmp_path: Path) -> None:
    made = models.model(
        [helper.make_node("Expand", ["x", "shape"], ["y"], name="huge")],
        [models.value("x", [1]), models.value("shape", [2], TensorProto.INT64)],
        [models.value("y", [None, None])],
    )
    path = models.save(made, tmp_path / "model.onnx")
    program = (
        "import resource\n"
        "from pathlib import Path\n"
        "import numpy as np\n"
        "from workers.runtimes.session import load\n"
        f"session = load(Path({str(path)!r}), runtime='openvino')\n"
        "resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))\n"
        "session.run({'x': np.ones(1, np.float32), 'shape': np.array([2, 2])})\n"
        "try:\n"
        "    session.run({'x': np.ones(1, np.float32), 'shape': np.array([1 << 16, 1 << 16])})\n"
        "except MemoryError:\n"
        "    print('no memory')\n"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)

    assert done.stdout == "no memory\n", done.stderr


def test_inputs_may_lie_in_memory_as_they_like(tmp_path: Path) -> None:
    session = load(models.save(models.mlp(), tmp_path / "mlp.onnx"), runtime="openvino")
    values = np.random.default_rng(0).standard_normal((32, 6)).astype(np.float32).T

    np.testing.assert_allclose(session.run({"x": values})[0], session.run({"x": values.copy(order="C")})[0], rtol=1e-6)


def test_results_stay_when_it_runs_again(tmp_path: Path) -> None:
    session = load(models.save(models.mlp(), tmp_path / "mlp.onnx"), runtime="openvino")
    [first] = session.run({"x": np.ones((2, 32), np.float32)})
    kept = first.copy()
    session.run({"x": np.zeros((2, 32), np.float32)})

    np.testing.assert_array_equal(first, kept)


def test_a_single_number_is_fed_and_returned(tmp_path: Path) -> None:
    made = models.model(
        [helper.make_node("Add", ["a", "b"], ["c"], name="add")],
        [models.value("a", []), models.value("b", [])],
        [models.value("c", [])],
    )
    session = load(models.save(made, tmp_path / "model.onnx"), runtime="openvino")

    assert session.inputs == (Port("a", "float32", ()), Port("b", "float32", ()))
    [found] = session.run({"a": np.array(2, np.float32), "b": np.array(3, np.float32)})
    assert (found.shape, float(found)) == ((), 5.0)


def test_half_precision_comes_and_goes_as_the_model_says(tmp_path: Path) -> None:
    half = TensorProto.FLOAT16
    made = models.model(
        [helper.make_node("Mul", ["a", "a"], ["b"], name="square")],
        [models.value("a", ["n"], half)],
        [models.value("b", ["n"], half)],
    )
    session = load(models.save(made, tmp_path / "model.onnx"), runtime="openvino")

    [found] = session.run({"a": np.array([1.5, -3], np.float16)})
    assert (found.dtype, found.tolist()) == (np.float16, [2.25, 9.0])


def test_times_by_operator_name_the_file_s_nodes(tmp_path: Path) -> None:
    session = load(models.save(models.conv_net(), tmp_path / "model.onnx"), runtime="openvino")

    profile = session.profile([feeds_of(session)], 5, tmp_path)

    assert len(profile.run_ms) == 5
    nodes = {name for kernel in profile.kernels for name in kernel.nodes}
    assert {"/stem/Conv", "/block/Conv", "/head/Gemm"} <= nodes
    assert all(len(kernel.ms) == 1 and kernel.ms[0] >= 0 and kernel.kernel for kernel in profile.kernels)
    assert not (session.conditions["properties"].keys() & {"PERF_COUNT"}), "the session itself is not slowed down"


def test_nothing_is_sent_home_by_importing_it() -> None:
    program = (
        "import sys\n"
        "from workers.runtimes.session import available_runtimes\n"
        "assert 'openvino' in available_runtimes()\n"
        "print([name for name, module in sys.modules.items() if module and 'telemetry' in name and 'openvino' in name])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


def test_after_closing_there_is_nothing_to_run(tmp_path: Path) -> None:
    session = load(models.save(models.mlp(), tmp_path / "mlp.onnx"), runtime="openvino")
    session.close()

    with pytest.raises(AttributeError):
        session.run({"x": np.ones((1, 32), np.float32)})
