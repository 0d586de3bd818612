"""ONNX Runtime behind the interface of `workers.runtimes.session`."""

import re
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from app.errors import StepError
from workers.runtimes.session import CPU, Array, Optimization, Port, Profile

LEVELS = {
    "none": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}

# What onnxruntime calls the element types that NumPy calls otherwise.
_DTYPES = {"float": "float32", "double": "float64"}

_OF_ANOTHER = re.compile(r"[A-Z0-9_]+|xnnpack")
"""Options of OpenVINO and of LiteRT; onnxruntime's have a dot."""

ERROR = 3
_FATAL = 4
_SHOWN = 8


def version() -> str:
    """Which onnxruntime this is."""
    return str(ort.__version__)


def open_session(
    path: Path,
    *,
    threads: int,
    providers: tuple[str, ...],
    session_options: dict[str, str],
    optimization: Optimization,
) -> "OnnxRuntimeSession":
    """See `workers.runtimes.session.load`."""
    return OnnxRuntimeSession(
        path, threads=threads, providers=providers, session_options=session_options, optimization=optimization
    )


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
        strange = sorted(name for name in session_options if _OF_ANOTHER.fullmatch(name))
        if strange:  # onnxruntime would take and ignore them
            raise StepError(
                f"onnxruntime has no session option {strange[0]!r}; that is another runtime's.",
                code="session_option_unknown",
            )
        missing = sorted(set(providers) - set(ort.get_available_providers()))
        if missing:
            raise StepError(
                f"This worker's onnxruntime has no {', '.join(missing)}; it has "
                f"{', '.join(ort.get_available_providers())}.",
                code="provider_unavailable",
            )
        self._path, self._threads, self._providers = path, threads, providers
        self._session_options, self._optimization = session_options, optimization
        started = time.perf_counter()
        self._session = self._opened(self._options())
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
            "graph_optimization": optimization,
        }
        if providers != (CPU,):
            placed = {part: len(nodes) for part, nodes in _placement(self._session).items()}
            self.conditions["nodes"] = dict.fromkeys(providers, 0) | placed

    def _options(self, *, fallback: bool = False) -> ort.SessionOptions:
        options = session_options_of(self._threads, self._optimization, self._session_options)
        if self._providers != (CPU,):
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if CPU not in self._providers and not fallback:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        return options

    def _opened(self, options: ort.SessionOptions) -> ort.InferenceSession:
        if CPU in self._providers:
            return opened(self._path, options, self._providers)
        options.log_severity_level = _FATAL  # the error says it all
        try:
            return opened(self._path, options, self._providers)
        except StepError as error:
            if "explicitly disabled" not in error.detail:
                raise
            raise StepError(
                f"{', '.join(self._providers)} cannot run all of the model: {self._left_over()} would fall back to "
                f"{CPU}. Ask for that provider, or for both by name.",
                code="provider_unavailable",
            ) from error

    def _left_over(self) -> str:
        """The nodes that onnxruntime would run on the CPU if it were let, by name and operator."""
        options = self._options(fallback=True)
        options.graph_optimization_level = LEVELS["none"]  # or some would have other names
        nodes = _placement(opened(self._path, options, self._providers)).get(CPU, [])
        return ", ".join(nodes[:_SHOWN]) + (f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else "")

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Array]:
        return run_natively(self._session, feeds, wanted, self._path)

    def profile(self, feeds: Sequence[Mapping[str, Array]], runs: int, scratch: Path) -> Profile:
        # Only who profiles loads `onnx`.
        from workers.runtimes.onnx_profile import profiled

        return profiled(self._path, self._options(), self._providers, feeds, runs, scratch)

    def close(self) -> None:
        del self._session

    @property
    def native(self) -> ort.InferenceSession:
        """The session itself, for onnxruntime's own tools."""
        return self._session


def session_options_of(threads: int, optimization: Optimization, entries: Mapping[str, str]) -> ort.SessionOptions:
    """Options as every session has them: so many intra-op threads, operators one after the other, errors alone told."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.graph_optimization_level = LEVELS[optimization]
    options.log_severity_level = ERROR
    for name, value in entries.items():
        options.add_session_config_entry(name, value)
    return options


def opened(
    path: Path, options: ort.SessionOptions, providers: Sequence[str] = (CPU,), content: bytes | None = None
) -> ort.InferenceSession:
    """A model file, or other content in its place, as onnxruntime's own session.

    Raises StepError `model_does_not_load`, and MemoryError.
    """
    try:
        # Without its own fallback, which loads the same once more on other providers and prints.
        return ort.InferenceSession(content or str(path), options, providers=list(providers), enable_fallback=0)
    except Exception as error:  # onnxruntime raises some twenty classes that share no base but Exception
        _raise_if_out_of_memory(error)
        raise StepError(
            f"onnxruntime cannot load the model: {plain_message(error, path)}", code="model_does_not_load"
        ) from error


def _placement(session: ort.InferenceSession) -> dict[str, list[str]]:
    """The nodes that each provider runs, by name and operator; of a session that was asked to record it."""
    found: dict[str, list[str]] = defaultdict(list)
    for part in session.get_provider_graph_assignment_info():
        found[part.ep_name] += [f"{node.name!r} ({node.op_type})" for node in part.get_nodes()]
    return dict(found)


def run_natively(
    session: ort.InferenceSession, feeds: Mapping[str, Array], wanted: Sequence[str] | None, path: Path
) -> list[Array]:
    """Run onnxruntime's own session. Raises StepError `model_does_not_run`, and MemoryError."""
    try:
        outputs: list[Array] = session.run(wanted, dict(feeds))
    except Exception as error:
        _raise_if_out_of_memory(error)
        raise StepError(
            f"onnxruntime cannot run the model: {plain_message(error, path)}", code="model_does_not_run"
        ) from error
    return outputs


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
