"""Small graphs of one operator, run by the runtime and in torch."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

pytest.importorskip("torch")

Array = NDArray[Any]


def single(
    op_type: str,
    inputs: Sequence[Array | None],
    attributes: dict[str, Any] | None = None,
    *,
    outputs: int = 1,
    stored: Sequence[int] = (),
    opset: int = 21,
    domain: str = "",
) -> ModelProto:
    """A model of one node; the inputs at the places in `stored` are initializers."""
    names = [f"x{place}" if values is not None else "" for place, values in enumerate(inputs)]
    results = [f"y{place}" for place in range(outputs)]
    node = helper.make_node(op_type, names, results, name="the node", domain=domain, **(attributes or {}))
    given = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(values.dtype), list(values.shape))
        for place, (name, values) in enumerate(zip(names, inputs, strict=True))
        if values is not None and place not in stored
    ]
    tensors = [
        numpy_helper.from_array(values, names[place])
        for place, values in enumerate(inputs)
        if values is not None and place in stored
    ]
    made = [helper.make_empty_tensor_value_info(name) for name in results]
    graph = helper.make_graph([node], "single", given, made, tensors)
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.fixture
def both(tmp_path: Path) -> Callable[[ModelProto, Sequence[Array | None]], tuple[list[Array], list[Array]]]:
    """Runs a model of `single`: what the runtime gives, and what torch gives."""
    import onnxruntime
    import torch

    from workers.autodiff.graph import Graph

    def run(model: ModelProto, inputs: Sequence[Array | None]) -> tuple[list[Array], list[Array]]:
        names = {value.name for value in model.graph.input}
        feeds = {f"x{place}": values for place, values in enumerate(inputs) if f"x{place}" in names}
        path = tmp_path / "single.onnx"
        onnx.save(model, path)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        expected = session.run(None, feeds)
        graph = Graph(model)
        with torch.no_grad():
            found = graph.run(
                {name: torch.from_numpy(np.array(values)) for name, values in feeds.items()}, graph.outputs
            )
        return expected, [values.numpy() for values in found]

    return run
