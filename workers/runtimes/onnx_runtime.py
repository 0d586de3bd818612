"""ONNX Runtime behind the interface of `workers.runtimes.session`."""

import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from app.errors import StepError
from workers.runtimes.session import CPU, Array, Optimization, Port

LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

# What onnxruntime calls the element types that NumPy calls otherwise.
_DTYPES = {"float": "float32", "double": "float64"}

ERROR = 3


class OnnxRuntimeSession:
    """A model loaded by onnxruntime with exactly the providers and options that were asked for."""

    def __init__(
        self,
        path: Path,
        *,
        threads: int,
        providers: tuple[str, ...],
        session_options: dict[str, str],
        optimization: Optimization,
    ) -> None:
        missing = sorted(set(providers) - set(ort.get_available_providers()))
        if missing:
            raise StepError(
                f"This worker's onnxruntime has no {', '.join(missing)}; it has "
                f"{', '.join(ort.get_available_providers())}.",
                code="provider_unavailable",
            )
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.graph_optimization_level = LEVELS[optimization]
        options.log_severity_level = ERROR
        if CPU not in providers:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        for name, value in session_options.items():
            options.add_session_config_entry(name, value)
        started = time.perf_counter()
        self._session = opened(path, options, providers)
        self.load_ms = (time.perf_counter() - started) * 1000
        self._session.disable_fallback()
        if tuple(self._session.get_providers()[: len(providers)]) != providers:
            raise StepError(
                f"onnxruntime loaded the model on {', '.join(self._session.get_providers())} "
                f"instead of {', '.join(providers)}.",
                code="provider_unavailable",
            )
        self.inputs = tuple(_port(argument) for argument in self._session.get_inputs())
        self.outputs = tuple(_port(argument) for argument in self._session.get_outputs())
        self.conditions: dict[str, Any] = {
            "runtime": "onnxruntime",
            "version": ort.__version__,
            "providers": list(providers),
            "threads": threads,
            "session_options": dict(session_options),
        }
        self._path = path

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Array]:
        try:
            outputs: list[Array] = self._session.run(wanted, dict(feeds))
        except Exception as error:
            _raise_if_out_of_memory(error)
            raise StepError(
                f"onnxruntime cannot run the model: {plain_message(error, self._path)}", code="model_does_not_run"
            ) from error
        return outputs

    @property
    def native(self) -> ort.InferenceSession:
        """The session itself, for onnxruntime's own tools."""
        return self._session


def opened(path: Path, options: ort.SessionOptions, providers: Sequence[str] = (CPU,)) -> ort.InferenceSession:
    """A model file as onnxruntime's own session. Raises StepError `model_does_not_load`, and MemoryError."""
    try:
        return ort.InferenceSession(str(path), options, providers=list(providers))
    except Exception as error:  # onnxruntime raises some twenty classes that share no base but Exception
        _raise_if_out_of_memory(error)
        raise StepError(
            f"onnxruntime cannot load the model: {plain_message(error, path)}", code="model_does_not_load"
        ) from error


def _raise_if_out_of_memory(error: Exception) -> None:
    if isinstance(error, MemoryError) or "bad_alloc" in str(error) or "Failed to allocate memory" in str(error):
        raise MemoryError("onnxruntime ran out of memory") from error


def plain_message(error: Exception, path: Path) -> str:
    """What onnxruntime has to say, without its prefix, the file's place or its source lines."""
    text = str(error).replace(str(path.parent) + "/", "")
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"/[\w./-]+\.(?:cc|h|cpp):\d+ [^\n]*?\)(?: const)? ", "", text)
    text = " ".join(text.split())
    return text if len(text) <= 600 else text[:599] + "…"


def _port(argument: ort.NodeArg) -> Port:
    found = re.fullmatch(r"tensor\((\w+)\)", argument.type)
    dtype = found.group(1) if found else ""
    return Port(
        name=argument.name,
        dtype=_DTYPES.get(dtype, dtype),
        # onnxruntime gives None for an unnamed dimension, and an empty shape where the rank is unknown.
        shape=tuple(
            size if isinstance(size, int) and size >= 0 else (size if isinstance(size, str) and size else None)
            for size in argument.shape
        ),
    )
