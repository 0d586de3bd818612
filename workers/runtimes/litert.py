"""LiteRT behind the interface of `workers.runtimes.session`: `.tflite` files.

LiteRT hands what it can to a delegate, XNNPACK, and runs the rest with kernels of its own, all on the processor; the
conditions say how many operators went where.
"""

import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from app.errors import StepError
from workers.formats.tflite.inspection import unique_names
from workers.runtimes.session import Array, Optimization, Port, Profile, check_feeds, only_on_processor

XNNPACK = "xnnpack"
"""The one option: "0" leaves the delegate out."""

_DELEGATE = "DELEGATE"

# How LiteRT 2.3 words operators that it has not.
_NO_KERNEL = re.compile(
    r"Encountered unresolved custom op: (?P<custom>[^\n.]+)|(?P<flex>Select TensorFlow op\(s\)[^\n]*)"
    r"|Didn't find op for builtin opcode '(?P<builtin>\w+)'"
)


def version() -> str:
    """Which LiteRT this is."""
    return metadata.version("ai-edge-litert")


def open_session(
    path: Path,
    *,
    threads: int,
    providers: tuple[str, ...],
    session_options: dict[str, str],
    optimization: Optimization,
) -> "LiteRtSession":
    """See `workers.runtimes.session.load`. The one option is `xnnpack`, "1" or "0"."""
    only_on_processor("LiteRT", providers)
    unknown = sorted(name for name in session_options if "." not in name and name != XNNPACK)
    if unknown or session_options.get(XNNPACK, "1") not in ("0", "1") or optimization != "all":
        raise StepError(
            f"LiteRT has one option here, {XNNPACK}, which is 1 or 0; {', '.join(unknown) or 'another value'} is not.",
            code="session_option_unknown",
        )
    return LiteRtSession(path, threads=threads, session_options=session_options)


class LiteRtSession:
    """A TFLite model with its tensors allocated; they are allocated anew where a call has another size."""

    def __init__(self, path: Path, *, threads: int, session_options: dict[str, str]) -> None:
        own = {name: value for name, value in session_options.items() if name == XNNPACK}
        with_delegate = own.get(XNNPACK, "1") == "1"
        started = time.perf_counter()
        try:
            self._interpreter = Interpreter(
                model_path=str(path),
                num_threads=threads,
                experimental_op_resolver_type=OpResolverType.BUILTIN
                if with_delegate
                else OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            )
            self._interpreter.allocate_tensors()
        except MemoryError:
            raise
        except Exception as error:  # ValueError and RuntimeError
            raise _refusal(str(error), path) from error
        self.load_ms = (time.perf_counter() - started) * 1000
        inputs, outputs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
        self.inputs, self.outputs = _ports(inputs), _ports(outputs)
        self._inputs = list(zip(self.inputs, (entry["index"] for entry in inputs), strict=True))
        self._outputs = {port.name: entry["index"] for port, entry in zip(self.outputs, outputs, strict=True)}
        self._shapes = {
            port.name: tuple(map(int, entry["shape"])) for port, entry in zip(self.inputs, inputs, strict=True)
        }
        self.conditions: dict[str, Any] = {
            "runtime": "litert",
            "version": version(),
            "device": "CPU",
            "threads": threads,
            "session_options": own,
            "delegate": "XNNPACK" if with_delegate else None,
            **_placement(self._interpreter._get_ops_details()),
            "not_applicable": {name: value for name, value in session_options.items() if name not in own},
        }

    def run(self, feeds: Mapping[str, Array], wanted: Sequence[str] | None = None) -> list[Array]:
        check_feeds(self.inputs, feeds)
        try:
            if (shapes := {name: values.shape for name, values in feeds.items()}) != self._shapes:
                self._resize(shapes)
            for port, index in self._inputs:
                self._interpreter.set_tensor(index, feeds[port.name])
            self._interpreter.invoke()
            names = self._outputs if wanted is None else wanted
            return [self._interpreter.get_tensor(self._outputs[name]) for name in names]
        except (ValueError, RuntimeError) as error:
            raise StepError(f"LiteRT cannot run the model: {_plain(error)}", code="model_does_not_run") from error

    def _resize(self, shapes: dict[str, tuple[int, ...]]) -> None:
        self._shapes = {}  # none of them holds until all do
        for port, index in self._inputs:
            # Strict: a size that the file fixes is not changed, though LiteRT would try.
            self._interpreter.resize_tensor_input(index, shapes[port.name], strict=True)
        self._interpreter.allocate_tensors()
        self._shapes = shapes

    def profile(self, feeds: Sequence[Mapping[str, Array]], runs: int, scratch: Path) -> Profile:
        raise StepError(
            "LiteRT's Python interface does not tell the time of single operators.", code="profile_unavailable"
        )

    def close(self) -> None:
        del self._interpreter


def _ports(details: Sequence[Mapping[str, Any]]) -> tuple[Port, ...]:
    ports: list[Port] = []
    for name, entry in zip(unique_names([entry["name"] for entry in details]), details, strict=True):
        sizes = entry["shape_signature"] if len(entry["shape_signature"]) else entry["shape"]
        dtype = np.dtype(entry["dtype"])
        ports.append(
            Port(
                name=name,
                dtype="string" if dtype.kind in "SUO" else dtype.name,
                shape=tuple(None if size < 0 else int(size) for size in sizes),
            )
        )
    return tuple(ports)


def _placement(operators: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How many operators the delegate took, and which kinds LiteRT's own kernels run.

    A delegate's node stands for all that lies between its inputs and outputs.
    """
    makers = {
        int(tensor): operator for operator in operators if operator["op_name"] != _DELEGATE
        for tensor in operator["outputs"]
    }  # fmt: skip
    taken: set[int] = set()
    for delegate in (operator for operator in operators if operator["op_name"] == _DELEGATE):
        outside = {int(tensor) for tensor in delegate["inputs"]}
        waiting = [int(tensor) for tensor in delegate["outputs"]]
        while waiting:
            tensor = waiting.pop()
            maker = makers.get(tensor)
            if maker is None or tensor in outside or maker["index"] in taken:
                continue
            taken.add(maker["index"])
            waiting.extend(int(given) for given in maker["inputs"])
    own = [operator for operator in operators if operator["op_name"] != _DELEGATE]
    left = Counter(operator["op_name"] for operator in own if operator["index"] not in taken)
    return {"operators": len(own), "delegated": len(taken), "not_delegated": dict(sorted(left.items()))}


def _refusal(text: str, path: Path) -> StepError:
    if found := _NO_KERNEL.search(text):
        what = found["custom"] or found["builtin"] or "operators of TensorFlow itself"
        return StepError(
            f"LiteRT {version()} has no implementation of {what}, and nothing else runs in its place. Convert the "
            "model with TFLite's own operators only.",
            code="provider_unavailable",
        )
    return StepError(f"LiteRT cannot load the model: {_plain(text, path)}", code="model_does_not_load")


def _plain(error: object, path: Path | None = None) -> str:
    text = str(error)
    if path is not None:
        text = text.replace(str(path.parent) + "/", "")
    text = re.sub(r"\S+\.(?:cc|h):\d+ ", "", text)
    text = " ".join(text.split())
    return text if len(text) <= 600 else text[:599] + "…"
