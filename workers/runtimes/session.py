"""One small interface over the programs that run an artifact, and the way to open it.

A runtime never falls back: what cannot be had as asked for is an error that says so.
"""

import importlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from app.domain.measure import RUNTIMES_OF, USUAL_RUNTIME, Runtime
from app.domain.model import UNKNOWN
from app.domain.target import PROCESSOR
from app.errors import StepError
from workers.formats.signatures import model_format

Array = NDArray[Any]
Optimization = Literal["none", "basic", "extended", "all"]

CPU = PROCESSOR

RUNTIMES: tuple[Runtime, ...] = get_args(Runtime)

_MODULES: dict[Runtime, str] = {
    "onnxruntime": "workers.runtimes.onnx_runtime",
    "openvino": "workers.runtimes.openvino_runtime",
    "litert": "workers.runtimes.litert",
    "torch": "workers.runtimes.torch_runtime",
}
"""Where each runtime's `open_session` and `version` are; loaded when asked for, since a measuring child that loads no
model (the zero of peak memory) should not pay for an import."""

_PACKAGES: dict[Runtime, str] = {
    "onnxruntime": "onnxruntime",
    "openvino": "openvino, which the extra `openvino` of bitpress-service brings",
    "litert": "ai-edge-litert, which the extra `tflite` of bitpress-service brings",
    "torch": "torch, which the extra `train` of bitpress-service brings",
}


_A_MODEL = {"onnx": "an ONNX", "tflite": "a TFLite", "pt2": "a torch", "torchscript": "a TorchScript"}


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output: its name, NumPy dtype name, and shape.

    A dimension is a number, the name of a symbolic one, or None where nothing is known. `dtype` is
    "string" for text, "" for what is no tensor (sequences, maps), and "unknown", with an empty shape, where the file
    tells nothing: the data then do.
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    @property
    def is_tensor(self) -> bool:
        return self.dtype != ""


@dataclass(frozen=True, slots=True)
class Kernel:
    """One operator as the runtime ran it.

    `op_type` is the operator after the runtime's rewriting, and `kernel` the code that ran for it, as far as the
    runtime tells. `calls` are those of one inference. `ms` is its time in each profiled inference, or the one mean of
    all where the runtime tells no more, without what ran inside a nested body. `output_bytes` are those of one call,
    None where the runtime does not tell. `nodes` are the nodes of the model's file that it stands for, by name (by
    type and place where they have none): none for what the runtime added itself.
    """

    name: str
    op_type: str
    kernel: str
    provider: str
    calls: float
    ms: tuple[float, ...]
    output_bytes: int | None
    nodes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Profile:
    """Every operator in the order in which they first end, and how long each profiled inference took as a whole, in ms.

    `resolution_ms` is the step of the runtime's clock for operators: a time is cut to a multiple of it.
    """

    kernels: tuple[Kernel, ...]
    run_ms: tuple[float, ...]
    resolution_ms: float


class Session(Protocol):
    """A model that is loaded and can be run.

    `load_ms` is the wall time of loading it; `conditions` say what its numbers hold for (runtime,
    version, providers or device, threads, session options, and every hint that changes what is computed).
    """

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    load_ms: float
    conditions: dict[str, Any]

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Array]:
        """Run once; the outputs in the order of `wanted`, or all in the model's order.

        Raises StepError `model_does_not_run`.
        """
        ...

    def profile(self, feeds: Sequence[Mapping[str, Array]], runs: int, scratch: Path) -> Profile:
        """Time every operator over so many runs, which cycle through the feeds, after two that are not counted.

        In a second session, with the same options: profiling slows a session down. `scratch` is a folder for the
        runtime's own files. Raises StepError `profile_unavailable` where the runtime does not tell.
        """
        ...

    def close(self) -> None:
        """Give back what the runtime holds; nothing can be run any more."""
        ...


def available_threads() -> int:
    """Threads for work that is not timed: as many as this process has cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def load(
    path: Path,
    *,
    threads: int = 1,
    providers: Sequence[str] = (CPU,),
    session_options: Mapping[str, str] | None = None,
    optimization: Optimization = "all",
    runtime: str = "onnxruntime",
) -> Session:
    """Open a model file: ONNX on onnxruntime and OpenVINO, TFLite on LiteRT, torch's own on torch.

    `threads` are intra-op threads. `session_options` are the runtime's configuration entries by name; those that an
    artifact requires must be given here, and what of them is another runtime's stands in `conditions`. Raises
    StepError `model_does_not_load`, `provider_unavailable`, `runtime_unavailable`, `runtime_not_for_format` or
    `session_option_unknown`, and RejectedInput `torch_files_not_trusted`.
    """
    kind = _known(runtime)
    module = _module(kind)
    _check_format(path, kind)
    opened: Session = module.open_session(
        path,
        threads=threads,
        providers=tuple(providers),
        session_options=dict(session_options or {}),
        optimization=optimization,
    )
    return opened


def available_runtimes(asked: Iterable[Runtime] = RUNTIMES) -> dict[Runtime, str]:
    """The runtimes that load in this process, with their versions. Loads every one of those asked for that is there."""
    found: dict[Runtime, str] = {}
    for runtime in asked:
        try:
            found[runtime] = _module(runtime).version()
        except StepError:
            continue
    return found


def wake(path: Path, *, threads: int, runtime: Runtime, scratch: Path) -> None:
    """Do once what the first model of a process costs besides itself: imports, and threads that start.

    `path` is the model that is to come, whose format tells what it will need; it is not opened. onnxruntime and
    OpenVINO have the smallest model for that.
    """
    module = _module(runtime)
    if hasattr(module, "wake"):
        module.wake(path, threads, scratch)


def usual_runtime(path: Path) -> Runtime:
    """What runs a model file where nobody says what should."""
    return USUAL_RUNTIME[model_format(path)]


def _known(runtime: str) -> Runtime:
    if runtime not in RUNTIMES:
        raise StepError(
            f"The runtime {runtime!r} is not part of this worker; use {', '.join(RUNTIMES)}.",
            code="runtime_unavailable",
        )
    return runtime


def _module(runtime: Runtime) -> Any:
    try:
        return importlib.import_module(_MODULES[runtime])
    except (ImportError, OSError) as error:  # OSError: a shared library that the machine lacks
        raise StepError(
            f"The runtime {runtime} does not load on this worker ({error}). It needs the package {_PACKAGES[runtime]}.",
            code="runtime_unavailable",
        ) from error


def _check_format(path: Path, runtime: Runtime) -> None:
    found = model_format(path)
    if runtime not in RUNTIMES_OF[found]:
        raise StepError(
            f"The file is {_A_MODEL[found]} model, which {runtime} does not run here; use the runtime "
            f"{' or '.join(RUNTIMES_OF[found])}.",
            code="runtime_not_for_format",
        )


def only_on_processor(runtime: str, providers: Sequence[str]) -> None:
    """Refuse other providers for a runtime that has none. Raises StepError `provider_unavailable`."""
    if tuple(providers) != (CPU,):
        raise StepError(
            f"{runtime} runs on the processor here, not on {', '.join(providers)}; leave the providers out, or "
            "choose a target whose workers run on the processor.",
            code="provider_unavailable",
        )


def check_feeds(ports: Sequence[Port], feeds: Mapping[str, Array]) -> None:
    """Refuse what a runtime would quietly convert, or fill with what was fed before.

    Raises StepError `model_does_not_run`.
    """
    names = {port.name for port in ports}
    if feeds.keys() != names:
        wrong = ", ".join(repr(name) for name in sorted(feeds.keys() ^ names))
        raise StepError(f"The inputs fed are not the model's: see {wrong}.", code="model_does_not_run")
    for port in ports:
        given = feeds[port.name].dtype.name
        if given != port.dtype and port.dtype not in ("string", UNKNOWN):
            raise StepError(f"Input {port.name!r} takes {port.dtype}, and was fed {given}.", code="model_does_not_run")


def run_batches(
    session: Session, batches: Iterable[Mapping[str, Array]], wanted: Sequence[str] | None = None
) -> Iterator[dict[str, Array]]:
    """Run over batches, one at a time, so that memory holds one batch and its outputs."""
    names = tuple(wanted) if wanted is not None else tuple(port.name for port in session.outputs)
    for feeds in batches:
        yield dict(zip(names, session.run(feeds, names), strict=True))


def numpy_dtype(port: Port) -> np.dtype[Any]:
    """The NumPy dtype that an input is fed with; text as objects.

    Raises StepError `unsupported_input_type` where NumPy has no such type.
    """
    if port.dtype == "string":
        return np.dtype(object)
    try:
        return np.dtype(port.dtype)
    except TypeError:
        raise StepError(
            f"Input {port.name!r} has the type {port.dtype or 'sequence or map'}, which no dataset can hold; "
            "export the model with a float or integer tensor there.",
            code="unsupported_input_type",
        ) from None
