"""Honest work in the libraries that steps use, with two threads each."""

import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

sys.path.append(os.path.dirname(__file__))

from serving import Progress, serve_acts


def numpy() -> float:
    import numpy as np

    left = np.random.default_rng(0).standard_normal((600, 600), dtype=np.float32)
    np.savez("array.npz", left=left)
    mapped = np.lib.format.open_memmap("mapped.npy", mode="w+", dtype=np.float32, shape=left.shape)
    mapped[:] = left @ left
    mapped.flush()
    return float(np.load("array.npz")["left"].shape[0])


def onnxruntime() -> dict[str, Any]:
    import numpy as np
    import onnx
    import onnxruntime as ort

    weights = np.random.default_rng(0).standard_normal((512, 512)).astype(np.float32)
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "one",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [64, 512])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [64, 512])],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=10)
    onnx.save_model(model, "model.onnx", save_as_external_data=True, location="model.data", size_threshold=0)
    rows = np.ones((64, 512), np.float32)
    threads = {}
    for intra in (2, 0):  # two threads, and as many as onnxruntime likes
        options = ort.SessionOptions()
        options.intra_op_num_threads = intra
        session = ort.InferenceSession("model.onnx", options, providers=["CPUExecutionProvider"])
        for _ in range(20):
            (found,) = session.run(None, {"x": rows})
        np.testing.assert_allclose(found, rows @ weights, rtol=1e-3, atol=1e-3)
        threads[str(intra)] = _threads()
    return threads


def quantizer() -> int:
    """Of the model that `onnxruntime` saved."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantize_dynamic("model.onnx", "quantized.onnx", weight_type=QuantType.QInt8)
    return Path("quantized.onnx").stat().st_size


def torch() -> dict[str, Any]:
    import torch as library

    library.set_num_threads(2)
    left = library.randn(800, 800, requires_grad=True)
    (left @ left).sum().backward()
    library.save({"left": left}, "left.pt")
    assert library.load("left.pt", weights_only=True)["left"].shape == (800, 800)
    return {"threads": _threads(), "set": library.get_num_threads()}


def openvino(model: str, scratch: str) -> dict[str, Any]:
    """A model compiled and run by OpenVINO, through the interface that steps use."""
    return _ran("openvino", model, scratch)


def litert(model: str, scratch: str) -> dict[str, Any]:
    """A TFLite model, likewise."""
    return _ran("litert", model, scratch)


def torch_program(model: str, scratch: str) -> dict[str, Any]:
    """A file of torch with one input of four columns: loaded, run, and timed by operator."""
    import numpy as np

    from workers.runtimes.session import load

    session = load(Path(scratch, model), threads=2, runtime="torch")
    feed = {session.inputs[0].name: np.ones((3, 4), np.float32)}
    shapes = [list(output.shape) for output in session.run(feed)]
    kernels = session.profile([feed], 3, Path(scratch)).kernels
    left = sorted(path.name for path in Path(scratch, "tmp").iterdir())
    return {
        "conditions": session.conditions,
        "shapes": shapes,
        "operators": [kernel.op_type for kernel in kernels],
        "left": left,
    }


def _ran(runtime: str, model: str, scratch: str) -> dict[str, Any]:
    import numpy as np

    from workers.runtimes.session import load

    session = load(Path(scratch, model), threads=2, runtime=runtime)
    rows = {port.name: np.ones([size or 3 for size in port.shape], port.dtype) for port in session.inputs}
    shapes = [list(output.shape) for output in session.run(rows)]
    left = sorted(path.name for path in Path(scratch, "tmp").iterdir())
    return {"conditions": session.conditions, "shapes": shapes, "left": left}


def pyarrow() -> int:
    import pyarrow as library
    import pyarrow.parquet as parquet

    library.set_cpu_count(2)
    table = library.table({"a": list(range(10_000)), "b": [float(i) for i in range(10_000)]})
    parquet.write_table(table, "table.parquet")
    return int(parquet.read_table("table.parquet", use_threads=True).num_rows)


def pillow() -> list[int]:
    from PIL import Image

    picture = io.BytesIO()
    Image.new("RGB", (64, 48), (1, 2, 3)).save(picture, "PNG")
    picture.seek(0)
    return list(Image.open(picture).resize((32, 24)).size)


def readings() -> list[str]:
    """What can be read around a block of timings."""
    from workers.evaluation.readings import Reader, Sources

    found = Reader(Sources()).read()
    return [name for name in ("busy", "stolen", "waited", "running") if getattr(found, name) is not None]


def machine() -> dict[str, Any]:
    """The machine described and tried."""
    from workers.steps.probe import ProbeRequest, run

    found = run(ProbeRequest(measure=True), Path(), Path(), lambda share, message: None)
    return found.model_dump(mode="json")


def _threads() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.split("Threads:")[1].split()[0])


ACTS = {
    act.__name__: act
    for act in (
        numpy, onnxruntime, quantizer, torch, openvino, litert, torch_program, pyarrow, pillow, readings, machine,
    )
}  # fmt: skip


def serve(scratch: Path, commands: TextIO, progress: Progress) -> None:
    serve_acts(ACTS, scratch, commands, progress)
