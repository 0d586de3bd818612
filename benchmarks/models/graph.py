"""ONNX graphs written by hand, with the names a PyTorch export would give them."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

IR_VERSIONS = {17: 8, 21: 10}
"""The IR version that came with each opset (onnx, docs/Versioning.md)."""


class Graph:
    """A graph in the making: nodes in the order of execution, weights by name."""

    def __init__(self, name: str, opset: int = 17) -> None:
        self.name = name
        self.opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._outputs: list[onnx.ValueInfoProto] = []

    def input(self, name: str, dtype: int, shape: Sequence[int | str]) -> str:
        """Declare an input of the model."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def output(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> None:
        """Declare an output of the model; a node must have written it."""
        self._outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def weight(self, name: str, values: NDArray[Any]) -> str:
        """Add an initializer; a name that is there already stands for the same values."""
        if name not in self._weights:
            self._weights[name] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return name

    def integers(self, *values: int) -> str:
        """A shared int64 [len(values)] constant."""
        return self.weight("integers_" + "_".join(map(str, values)), np.array(values, dtype=np.int64))

    def scalar(self, name: str, value: float) -> str:
        """A named float32 [] constant."""
        return self.weight(name, np.array(value, dtype=np.float32))

    def node(self, path: str, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        """Add the node `{path}/{operator}` with one output; returns the output's name."""
        return self.split(path, operator, *inputs, outputs=[output] if output else 1, **attributes)[0]

    def split(
        self, path: str, operator: str, *inputs: str, outputs: int | Sequence[str], **attributes: Any
    ) -> list[str]:
        """Add the node `{path}/{operator}` with several outputs; returns their names."""
        name = f"{path}/{operator}"
        names = [f"{name}_output_{at}" for at in range(outputs)] if isinstance(outputs, int) else list(outputs)
        self._nodes.append(helper.make_node(operator, list(inputs), names, name=name, **attributes))
        return names

    def linear(self, path: str, rows: str, weight: str, bias: str = "") -> str:
        """`{path}/MatMul`, and `{path}/Add` where there is a bias; the weight is [in, out]."""
        found = self.node(path, "MatMul", rows, weight)
        return self.node(path, "Add", found, bias) if bias else found

    def save(self, path: Path, external: bool = False) -> Path:
        """Check the model and put it in its place whole; with `external`, weights go to `{path}.data`.

        Raises onnx.checker.ValidationError for an invalid graph.
        """
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, list(self._weights.values()))
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", self.opset)],
            ir_version=IR_VERSIONS[self.opset],
            producer_name="benchmarks.models",
        )
        names = [node.name for node in graph.node]
        assert len(names) == len(set(names)), "two nodes of one name"
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.with_name(path.name + ".data")
        unfinished = path.with_name(path.name + ".unfinished")
        if external:
            # onnx appends to a data file that exists. Written before the model that names it: the model's file
            # is what says that both are whole.
            data.unlink(missing_ok=True)
            onnx.save_model(
                model, unfinished, save_as_external_data=True, location=data.name, size_threshold=1024
            )  # fmt: skip
            data.chmod(0o644)  # onnx makes it for the owner alone
        else:
            onnx.save_model(model, unfinished)
        onnx.checker.check_model(unfinished, full_check=True)
        os.replace(unfinished, path)
        return path
