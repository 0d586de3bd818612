"""OpenVINO behind the interface of `workers.runtimes.session`: the same ONNX and QDQ files.

What OpenVINO 2026.4 would choose by the machine is pinned, so that it computes what the file says: float32 in float32
(by default bfloat16 where the processor has it), no quantization of activations on the fly (by default groups of 32),
keys and values of attention in float32 (by default 8 bits).
"""

import functools
import importlib
import re
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from app.errors import StepError
from workers.runtimes.session import Array, Kernel, Optimization, Port, Profile, check_feeds, only_on_processor


def _without_telemetry() -> Any:
    """OpenVINO without its converter, whose import sends an event home. Both are optional to it."""
    for module in ("openvino_telemetry", "openvino.tools.ovc"):
        sys.modules.setdefault(module, None)  # type: ignore[arg-type]
    return importlib.import_module("openvino")


openvino = _without_telemetry()

_DEVICE = "CPU"
_PINNED = {
    "NUM_STREAMS": "1",
    "PERFORMANCE_HINT": "LATENCY",
    "EXECUTION_MODE_HINT": "ACCURACY",
    "INFERENCE_PRECISION_HINT": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
    "KV_CACHE_PRECISION": "f32",
    "ENABLE_CPU_PINNING": "NO",
}
_WARM_UP = 2
_SHOWN = 8
_RESOLUTION_MS = 0.001

# How the frontend and the plugin word what they cannot run.
_NO_RULE = re.compile(r"No conversion rule found for operations: ([^\n]+)")
_NO_MEMORY = re.compile(r"bad_alloc|could not create a memory object|Failed to allocate \d+ bytes")
_UNKNOWN_PROPERTY = re.compile(r"(?:Unsupported property|Option not found:?) '?(\w+)")


def version() -> str:
    """Which OpenVINO this is. Raises StepError `runtime_unavailable` where it finds no processor."""
    if _DEVICE not in _core().available_devices:
        raise StepError("OpenVINO finds no CPU plugin on this worker.", code="runtime_unavailable")
    found = re.match(r"[\d.]+", openvino.__version__)
    return found.group().strip(".") if found else str(openvino.__version__)


def open_session(
    path: Path,
    *,
    threads: int,
    providers: tuple[str, ...],
    session_options: dict[str, str],
    optimization: Optimization,
) -> "OpenVinoSession":
    """See `workers.runtimes.session.load`. Options are OpenVINO's properties."""
    only_on_processor("OpenVINO", providers)
    if optimization != "all":
        raise StepError(
            "OpenVINO always optimizes a model as a whole; leave the level of optimization out.",
            code="session_option_unknown",
        )
    return OpenVinoSession(path, threads=threads, session_options=session_options)


class OpenVinoSession:
    """A model compiled by OpenVINO for the processor, run by one request at a time."""

    def __init__(self, path: Path, *, threads: int, session_options: dict[str, str]) -> None:
        # Entries of onnxruntime have a dot, OpenVINO's properties never.
        own = {name: value for name, value in session_options.items() if "." not in name}
        self._path = path
        self._properties = {**_PINNED, "INFERENCE_NUM_THREADS": str(threads), **own}
        started = time.perf_counter()
        self._compiled = _compiled(path, self._properties)
        self.load_ms = (time.perf_counter() - started) * 1000
        self._request = self._compiled.create_infer_request()
        self.inputs = tuple(_port(given, given.node.friendly_name) for given in self._compiled.inputs)
        self.outputs = tuple(_port(made, made.any_name) for made in self._compiled.outputs)
        self._places = {port.name: place for place, port in enumerate(self.outputs)}
        effective = {name: _text(self._compiled.get_property(name)) for name in sorted(self._properties)}
        self.conditions: dict[str, Any] = {
            "runtime": "openvino",
            "version": version(),
            "device": _DEVICE,
            "threads": int(effective.pop("INFERENCE_NUM_THREADS")),
            "session_options": own,
            "properties": effective,
            "call": "asynchronous, waited for",
            "not_applicable": {name: value for name, value in session_options.items() if name not in own},
        }

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Array]:
        outputs = _run(self._request, self.inputs, len(self.outputs), feeds)
        return outputs if wanted is None else [outputs[self._places[name]] for name in wanted]

    def profile(self, feeds: Sequence[Mapping[str, Array]], runs: int, scratch: Path) -> Profile:
        compiled = _compiled(self._path, {**self._properties, "PERF_COUNT": "YES"})
        request = compiled.create_infer_request()
        run_ms: list[float] = []
        warm: list[Any] = []
        for index in range(_WARM_UP + runs):
            started = time.perf_counter()
            _run(request, self.inputs, len(self.outputs), feeds[index % len(feeds)])
            run_ms.append((time.perf_counter() - started) * 1000)
            if index == _WARM_UP - 1:
                warm = request.profiling_info
        return Profile(
            kernels=_kernels(warm, request.profiling_info, runs, compiled.get_runtime_model(), self._path),
            run_ms=tuple(run_ms[_WARM_UP:]),
            resolution_ms=_RESOLUTION_MS,
        )

    def close(self) -> None:
        del self._request, self._compiled


@functools.cache
def _core() -> Any:
    return openvino.Core()


def _compiled(path: Path, properties: dict[str, str]) -> Any:
    try:
        return _core().compile_model(_core().read_model(path), _DEVICE, properties)
    except Exception as error:  # RuntimeError for nearly all of it, MemoryError seldom
        _raise_if_out_of_memory(error)
        raise _refusal(error, path) from error


def _refusal(error: Exception, path: Path) -> StepError:
    text = str(error)
    if found := _NO_RULE.search(text):
        operators = {name.strip().rsplit(".", 1)[-1].split("-")[0] for name in found[1].split(",")}
        return StepError(
            f"OpenVINO {version()} has no implementation of {', '.join(sorted(operators))}, and nothing else runs in "
            f"its place: {_nodes_of(path, operators)}. Use onnxruntime for this model.",
            code="provider_unavailable",
        )
    if found := _UNKNOWN_PROPERTY.search(text):
        return StepError(f"OpenVINO has no option {found[1]!r} on the processor.", code="session_option_unknown")
    return StepError(f"OpenVINO cannot load the model: {_plain(text, path)}", code="model_does_not_load")


def _nodes_of(path: Path, operators: set[str]) -> str:
    """The nodes with one of these operators, by name."""
    import onnx

    from workers.formats.onnx.graph import all_nodes

    model = onnx.load(path, load_external_data=False)
    nodes = [node.name or node.output[0] for node in all_nodes(model) if node.op_type in operators]
    named = ", ".join(map(repr, nodes[:_SHOWN])) or "in a node that it made itself"
    return named + (f" and {len(nodes) - _SHOWN} more" if len(nodes) > _SHOWN else "")


def _run(request: Any, ports: Sequence[Port], outputs: int, feeds: Mapping[str, Array]) -> list[Array]:
    check_feeds(ports, feeds)  # OpenVINO would convert types, and run on what was fed the last time
    try:
        for place, port in enumerate(ports):
            request.set_input_tensor(place, _tensor(feeds[port.name]))
        # The synchronous call saves 15 µs, but loses every failure, and hands out the results of the run before
        # (OpenVINO 2026.4.1: a Reshape that does not fit, or memory that is not there).
        request.start_async()
        request.wait()
        return [_values(request.get_output_tensor(place)) for place in range(outputs)]
    except Exception as error:
        _raise_if_out_of_memory(error)
        raise StepError(f"OpenVINO cannot run the model: {_plain(str(error))}", code="model_does_not_run") from error


def _values(tensor: Any) -> Array:
    if tensor.element_type == openvino.Type.string:
        return np.array(tensor.str_data, dtype=object)
    values: Array = tensor.data.copy()  # the next run writes where it lies
    return values


def _tensor(values: Array) -> Any:
    if values.dtype == object:
        return openvino.Tensor(values.astype(str))
    laid_out = np.asarray(values, order="C")
    return openvino.Tensor(laid_out, shared_memory=True)


def _raise_if_out_of_memory(error: Exception) -> None:
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        raise MemoryError("OpenVINO ran out of memory") from error


def _plain(text: str, path: Path | None = None) -> str:
    """What OpenVINO has to say, without its source lines and the file's place."""
    if path is not None:
        text = text.replace(str(path.parent) + "/", "")
    text = re.sub(r"(?:Caught exception: )?Exception from \S+:\d+:|Check '.*?' failed at \S+:\d+:", "", text)
    text = " ".join(text.split())
    return text if len(text) <= 600 else text[:599] + "…"


def _port(node: Any, name: str) -> Port:
    try:
        dtype = node.element_type.to_dtype().name
    except Exception:  # text has none
        dtype = "string" if node.element_type.get_type_name() == "string" else ""
    shape = node.partial_shape
    return Port(
        name=name,
        dtype="string" if dtype.startswith(("str", "bytes")) else dtype,
        shape=()
        if shape.rank.is_dynamic
        else tuple(None if size.is_dynamic else int(size.get_length()) for size in shape),
    )


def _text(value: Any) -> str:
    """A property as OpenVINO writes it: enumerations and types by their own names."""
    if isinstance(value, openvino.Type):
        return str(value.get_type_name())
    return str(value).rsplit(".", 1)[-1]


def _kernels(warm: Sequence[Any], last: Sequence[Any], runs: int, compiled: Any, path: Path) -> tuple[Kernel, ...]:
    """Times of the counted runs. OpenVINO tells the mean of all since the first, so that the warm-up is taken out."""
    from workers.runtimes.origins import labelled_nodes, with_what_is_read_once

    executed = [entry for entry in last if entry.status.name == "EXECUTED"]
    nodes = labelled_nodes(path)
    labels = {name: label for label, node in nodes.items() for name in (*node.output, label) if name}
    ran = {operator.get_friendly_name(): operator for operator in compiled.get_ordered_ops()}
    behind = with_what_is_read_once([_nodes(ran.get(entry.node_name), labels) for entry in executed], nodes)
    before = {entry.node_name: _mean_ms(entry) for entry in warm}
    return tuple(
        Kernel(
            name=entry.node_name,
            op_type=entry.node_type,
            kernel=entry.exec_type,
            provider=_DEVICE,
            calls=1,
            ms=(_mean_after(before.get(entry.node_name, 0.0), _mean_ms(entry), runs),),
            output_bytes=_output_bytes(ran.get(entry.node_name)),
            nodes=names,
        )
        for entry, names in zip(executed, behind, strict=True)
    )


def _mean_ms(entry: Any) -> float:
    return float(entry.real_time / timedelta(milliseconds=1))


def _mean_after(warm: float, all_runs: float, runs: int) -> float:
    return max(0.0, (all_runs * (runs + _WARM_UP) - warm * _WARM_UP) / runs)


def _output_bytes(operator: Any) -> int | None:
    """None where the shape follows from the input, and the compiled model does not say it."""
    if operator is None or any(made.partial_shape.is_dynamic for made in operator.outputs()):
        return None
    return sum(int(made.tensor.size) if hasattr(made.tensor, "size") else 0 for made in operator.outputs())


def _nodes(operator: Any, labels: Mapping[str, str]) -> tuple[str, ...]:
    """The file's nodes among the original layers; parts of a node are written as its name with a path behind."""
    if operator is None or "originalLayersNames" not in operator.rt_info:
        return ()
    found: dict[str, None] = {}
    for name in str(operator.rt_info["originalLayersNames"].value).split(","):
        while name and name not in labels:
            name = name.rpartition("/")[0]
        if name:
            found[labels[name]] = None
    return tuple(found)
