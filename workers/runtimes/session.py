"""One small interface over the programs that run an artifact, and the way to open it.

A runtime never falls back: what cannot be had as asked for is an error that says so.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from app.errors import StepError

Array = NDArray[Any]
Optimization = Literal["none", "basic", "extended", "all"]

CPU = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True)
class Port:
    """One input or output: its name, NumPy dtype name, and shape.

    A dimension is a number, the name of a symbolic one, or None where nothing is known. `dtype` is
    "string" for text and "" for what is no tensor (sequences, maps).
    """

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]

    @property
    def is_tensor(self) -> bool:
        return self.dtype != ""


class Session(Protocol):
    """A model that is loaded and can be run.

    `load_ms` is the wall time of loading it; `conditions` say what its numbers hold for (runtime,
    version, providers, threads, session options).
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
    """Open a model file.

    `threads` are intra-op threads. `session_options` are the runtime's configuration entries by
    name; those that an artifact requires must be given here. Raises StepError
    `model_does_not_load`, `provider_unavailable` or `runtime_unavailable`.
    """
    if runtime != "onnxruntime":
        raise StepError(
            f"The runtime {runtime!r} is not part of this worker; use onnxruntime.", code="runtime_unavailable"
        )
    # A measuring child that loads no model (the zero of peak memory) should not pay for the import.
    from workers.runtimes.onnx_runtime import OnnxRuntimeSession

    return OnnxRuntimeSession(
        path,
        threads=threads,
        providers=tuple(providers),
        session_options=dict(session_options or {}),
        optimization=optimization,
    )


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
