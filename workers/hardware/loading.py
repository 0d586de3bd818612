"""What runs here: execution providers and further runtimes, each tried instead of believed."""

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory

import onnx
import onnxruntime as ort

from app.domain.target import Installed, Provider
from app.errors import StepError
from workers.hardware.versions import FURTHER, version_of
from workers.runtimes.session import load

MODULES = {"openvino": "openvino", "litert": "ai_edge_litert.interpreter", "torch": "torch"}
"""What is imported of each further runtime."""

_SLOW = frozenset({"torch"})
"""Importing it takes longer than all the rest of the probe (1.2 s, 2.13): that it is there has to do."""

_MOST_REASON = 300


def providers() -> tuple[Provider, ...]:
    """Every execution provider that onnxruntime lists, and whether a session opens on it alone."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "identity.onnx")
        path.write_bytes(_identity())
        return tuple(_tried(path, name) for name in ort.get_available_providers())


def _tried(path: Path, name: str) -> Provider:
    try:
        load(path, providers=(name,))
    except (StepError, MemoryError) as error:
        return Provider(name=name, loads=False, reason=(str(error) or "out of memory")[:_MOST_REASON])
    return Provider(name=name, loads=True)


def installed(in_time: Callable[[], bool], names: Iterable[str] = tuple(FURTHER)) -> tuple[Installed, ...]:
    """Those of the further runtimes that are installed; one is imported only while `in_time` says so."""
    found = []
    for name in names:
        module, known = MODULES[name], version_of(FURTHER[name])
        if known is None:
            continue
        if name in _SLOW or not in_time():
            there = importlib.util.find_spec(module.partition(".")[0]) is not None
            found.append(
                Installed(
                    name=name,
                    version=known,
                    imports=None if there else False,
                    reason="It is there; importing it takes longer than a probe may." if there else "It has no module.",
                )
            )
            continue
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a foreign package raises as it loads
            reason = f"{type(error).__name__}: {error}"[:_MOST_REASON]
            found.append(Installed(name=name, version=known, imports=False, reason=reason))
        else:
            found.append(Installed(name=name, version=known, imports=True))
    return tuple(found)


def _identity() -> bytes:
    ports = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1]) for name in ("x", "y")]
    node = onnx.helper.make_node("Identity", ["x"], ["y"])
    graph = onnx.helper.make_graph([node], "identity", ports[:1], ports[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)
    return bytes(model.SerializeToString())
