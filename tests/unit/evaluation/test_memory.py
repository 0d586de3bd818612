"""The high-water mark of a process and the smallest model."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from app.errors import StepError
from workers.evaluation.memory import one_node_model, one_operator_tflite, peak_bytes
from workers.runtimes.session import load


def test_the_smallest_model_is_valid_and_runs(tmp_path: Path) -> None:
    path = tmp_path / "zero.onnx"
    path.write_bytes(one_node_model())
    onnx.checker.check_model(str(path), full_check=True)
    session = load(path)
    [output] = session.run({"x": np.array([3.5], np.float32)})
    assert output.tolist() == [3.5]
    assert [(port.name, port.dtype, port.shape) for port in session.inputs] == [("x", "float32", (1,))]


def test_the_smallest_tflite_model_is_what_the_schema_makes_of_it_and_runs(tmp_path: Path) -> None:
    pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed (extra `tflite`)")
    from tests.parts.tflite_models import one_operator

    assert one_operator_tflite() == one_operator()
    path = tmp_path / "zero"
    path.write_bytes(one_operator_tflite())
    session = load(path, runtime="litert")
    [output] = session.run({"x": np.array([-3.5], np.float32)})
    assert output.tolist() == [3.5]
    assert [(port.name, port.dtype, port.shape) for port in session.inputs] == [("x", "float32", (1,))]


def test_the_mark_is_read_in_bytes(tmp_path: Path) -> None:
    status = tmp_path / "status"
    status.write_text("Name:\tpython\nVmPeak:\t  999 kB\nVmHWM:\t   77860 kB\nVmRSS:\t   70000 kB\n")
    assert peak_bytes(status) == 77860 * 1024


def test_the_mark_stays_when_memory_is_given_back() -> None:
    """In a process of its own: it allocates 64 MB, frees them, and still says so."""
    program = (
        "from workers.evaluation.memory import peak_bytes\n"
        "before = peak_bytes()\n"
        "held = bytearray(64 << 20)\n"
        "del held\n"
        "print(peak_bytes() - before)\n"
    )
    grown = int(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True).stdout)
    assert 60 << 20 < grown < 80 << 20


@pytest.mark.parametrize("content", [None, "Name:\tpython\n"])
def test_a_platform_that_does_not_tell_is_an_error_with_a_code(tmp_path: Path, content: str | None) -> None:
    status = tmp_path / "status"
    if content is not None:
        status.write_text(content)
    with pytest.raises(StepError) as error:
        peak_bytes(status)
    assert error.value.code == "memory_not_measurable"


@pytest.mark.parametrize("step", ["measure_latency", "measure_load"])
def test_a_measuring_child_imports_no_more_than_it_measures_with(step: str) -> None:
    """Whatever else is loaded would be in the mark, and in the seconds of each of many children."""
    program = (
        f"import sys, workers.steps.{step}\n"
        "heavy = {'onnx', 'scipy', 'torch', 'pyarrow', 'PIL', 'sqlalchemy', 'workers.quantization'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("runtime", ["onnxruntime", "litert"])
def test_the_smallest_model_itself_takes_next_to_nothing(runtime: str, tmp_path: Path) -> None:
    """What waking a runtime takes (3 MB of LiteRT) is not the model's."""
    if runtime == "litert":
        pytest.importorskip("ai_edge_litert", reason="LiteRT is not installed (extra `tflite`)")
    (tmp_path / "model").write_bytes(one_node_model() if runtime == "onnxruntime" else one_operator_tflite())
    step = tmp_path / "latency"
    step.mkdir()
    request = {"measure": {}, "baseline": {"path": "model"}, "runtime": runtime, "seconds": 0.05}
    (step / "request.json").write_text(json.dumps(request))
    command = json.dumps({"step": "measure_latency", "request": "latency/request.json"})
    program = (
        "import io, pathlib, sys\n"
        "from workers.steps.program import serve\n"
        "serve(pathlib.Path(sys.argv[1]), io.StringIO(sys.argv[2]), lambda event: None)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path), command], capture_output=True, check=True)
    found = json.loads((step / "result.json").read_text())["memory"]
    assert 0 <= found["loaded_bytes"] <= found["peak_bytes"] < 1 << 20
