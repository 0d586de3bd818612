"""PyTorch behind the interface of `workers.runtimes.session`: exported programs and TorchScript, on the processor.

Both are run as they are loaded, without gradients: an exported program as the module that it becomes, with its checks
of what it is fed; TorchScript by its own executor. Neither is compiled further or frozen.
"""

import contextlib
import time
import warnings
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from app.domain.model import UNKNOWN
from app.errors import StepError
from workers.formats.torch.archive import torch_format
from workers.formats.torch.inspection import open_program
from workers.formats.torch.program import dtype_name, plain, raise_if_out_of_memory
from workers.formats.torch.trust import require_trust
from workers.runtimes.session import Array, Optimization, Port, Profile, check_feeds, numpy_dtype, only_on_processor

_WAKING_CALLS = 3
"""TorchScript's executor looks at two calls before it has made up its mind."""

# Once a process, and before anything runs.
with contextlib.suppress(RuntimeError):
    torch.set_num_interop_threads(1)

# Feeds are often read-only; what writes to its inputs is given copies.
warnings.filterwarnings("ignore", message="The given NumPy array is not writable")


def version() -> str:
    """Which torch this is."""
    return str(torch.__version__)


def open_session(
    path: Path,
    *,
    threads: int,
    providers: tuple[str, ...],
    session_options: dict[str, str],
    optimization: Optimization,
) -> "TorchSession":
    """See `workers.runtimes.session.load`. There are no options. Raises RejectedInput `torch_files_not_trusted`."""
    only_on_processor("torch", providers)
    unknown = sorted(name for name in session_options if "." not in name)
    if unknown or optimization != "all":
        raise StepError(
            f"torch has no session options here; leave {', '.join(unknown) or 'the level of optimization'} out.",
            code="session_option_unknown",
        )
    return TorchSession(path, threads=threads, session_options=session_options)


def wake(path: Path, threads: int, scratch: Path) -> None:
    """See `workers.runtimes.session.wake`: the smallest program of the same kind is loaded and run."""
    # Only who measures makes one.
    from workers.runtimes.torch_smallest import INPUT, smallest

    kind = torch_format(path)
    if kind is None:
        return
    file = scratch / "zero.pt"
    file.write_bytes(smallest(kind))
    session = TorchSession(file, threads=threads, session_options={})
    for _ in range(_WAKING_CALLS):
        session.run({INPUT: np.zeros(1, np.float32)})
    file.unlink()


class TorchSession:
    """A program of torch. What its outputs are, TorchScript tells when it was run for the first time.

    `first_run_ms` is how long that took, None before: where no data tell what TorchScript takes, whoever tries it runs
    it before anything is measured.
    """

    def __init__(self, path: Path, *, threads: int, session_options: dict[str, str]) -> None:
        kind = torch_format(path)
        if kind is None:
            raise StepError("It is no model file of torch.", code="model_does_not_load")
        require_trust(kind)
        self._threads = threads
        self._use_threads()
        started = time.perf_counter()
        self._program = open_program(path, kind)
        self._call = self._program.call
        self.load_ms = (time.perf_counter() - started) * 1000
        self.inputs = tuple(Port(spec.name, spec.dtype, spec.shape or ()) for spec in self._program.inputs)
        self.outputs = tuple(Port(spec.name, spec.dtype, spec.shape or ()) for spec in self._program.outputs)
        self._dtypes = {port.name: None if port.dtype == UNKNOWN else numpy_dtype(port) for port in self.inputs}
        self._state = {tensor.untyped_storage().data_ptr() for tensor in self._program.state()}
        self._has_run = False
        self.first_run_ms: float | None = None
        self._copies = False
        self.conditions: dict[str, Any] = {
            "runtime": "torch",
            "version": version(),
            "device": "CPU",
            "threads": threads,
            "interop_threads": torch.get_num_interop_threads(),
            "program": self._program.kind,
            "kernels": torch.backends.cpu.get_cpu_capability(),
            "float32_matmul_precision": torch.get_float32_matmul_precision(),
            "gradients": "inference_mode",
            "copies_inputs": False,
            "session_options": {},
            "not_applicable": dict(session_options),
        }

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Array]:
        # Names and types one by one, in words, only where something is wrong.
        if len(feeds) != len(self._dtypes) or any(
            name not in feeds or (dtype is not None and feeds[name].dtype != dtype)
            for name, dtype in self._dtypes.items()
        ):
            check_feeds(self.inputs, feeds)
        started = time.perf_counter()
        try:
            outputs = self._run([feeds[name] for name in self._dtypes])
        except StepError:
            raise
        except Exception as error:  # torch raises many classes that share no base but Exception
            raise_if_out_of_memory(error)
            raise StepError(f"torch cannot run the model: {plain(error)}", code="model_does_not_run") from error
        if self.first_run_ms is None:
            self.first_run_ms = (time.perf_counter() - started) * 1000
        if wanted is None:
            return outputs
        made = dict(zip((port.name for port in self.outputs), outputs, strict=True))
        return [made[name] for name in wanted]

    def _run(self, values: Sequence[Array]) -> list[Array]:
        self._use_threads()
        given = [torch.from_numpy(each) for each in values]
        if self._copies or not self._has_run:
            given = [each.clone() for each in given]
        versions = [each._version for each in given]
        with torch.inference_mode():
            made = self._call(given)
        if not self._copies and versions != [each._version for each in given]:
            self._now_copies()
        fed = [each.untyped_storage().data_ptr() for each in given]
        arrays = [_array(each, fed, self._state) for each in made]
        if not self._has_run:
            self._seen(arrays)
        return arrays

    def _now_copies(self) -> None:
        """From now on each call has inputs of its own to write to; one that wrote to its caller's has failed."""
        self._copies = self.conditions["copies_inputs"] = True
        if self._has_run:
            raise StepError(
                "The model wrote to what it was fed, in this call and not in the first one. Export it so that it "
                "writes to no input.",
                code="model_does_not_run",
            )

    def _seen(self, arrays: Sequence[Array]) -> None:
        self._has_run = True
        if self._program.kind == "torchscript":
            self.outputs = tuple(
                Port(port.name, array.dtype.name, ()) for port, array in zip(self.outputs, arrays, strict=True)
            )

    def _use_threads(self) -> None:
        # One number for the whole process, whatever session runs.
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)

    def profile(self, feeds: Sequence[Mapping[str, Array]], runs: int, scratch: Path) -> Profile:
        # Only who profiles loads the profiler.
        from workers.runtimes.torch_profile import marked, profiled

        self._call = marked(self._program.call)
        try:
            count, example = len(feeds), self._tensors(feeds[0])
            return profiled(self._program, lambda index: self.run(feeds[index % count]), example, runs)
        finally:
            self._call = self._program.call

    def _tensors(self, feed: Mapping[str, Array]) -> list[torch.Tensor]:
        check_feeds(self.inputs, feed)
        return [torch.from_numpy(feed[port.name]).clone() for port in self.inputs]

    def close(self) -> None:
        del self._program, self._call
        self._state = set()


def _array(made: object, fed: Container[int], state: Container[int]) -> Array:
    """An output as an array of its own: the next call may write where a weight or an input lies."""
    if not isinstance(made, torch.Tensor):
        raise StepError(
            f"An output of the model is {type(made).__name__} and no tensor. Export it with tensors alone.",
            code="model_does_not_run",
        )
    values: Array
    try:
        values = made.numpy()
    except (TypeError, RuntimeError) as error:
        raise StepError(
            f"An output of the model is {dtype_name(made.dtype)} ({made.layout}), which NumPy does not have.",
            code="model_does_not_run",
        ) from error
    place = made.untyped_storage().data_ptr()
    return values.copy() if place in fed or place in state else values
