"""What onnxruntime makes of a model before it runs it. Apart, so that whoever only runs models does not load `onnx`."""

import tempfile
from collections.abc import Mapping
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import ModelProto

from workers.runtimes.onnx_runtime import ERROR, LEVELS, opened
from workers.runtimes.session import Optimization


def optimized(path: Path, optimization: Optimization, session_options: Mapping[str, str] | None = None) -> ModelProto:
    """The model as onnxruntime rewrites it for this processor, to be loaded with optimization "none".

    `session_options` are those that an artifact requires. The result is one file of less than 2 GiB. Raises StepError
    `model_does_not_load`.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.graph_optimization_level = LEVELS[optimization]
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        options.intra_op_num_threads = 1
        options.log_severity_level = ERROR
        for name, value in (session_options or {}).items():
            options.add_session_config_entry(name, value)
        opened(path, options)
        return onnx.load(options.optimized_model_filepath)
