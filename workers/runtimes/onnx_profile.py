"""Times by operator from onnxruntime's own profiler (onnxruntime 1.32, its JSON of trace events)."""

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto

from app.errors import StepError
from workers.formats.onnx.graph import all_graphs, all_nodes
from workers.formats.onnx.weights import dtype_name
from workers.runtimes.onnx_runtime import opened, run_natively
from workers.runtimes.origins import name_every_node, origins
from workers.runtimes.session import Array, Kernel, Profile

_WARM_UP = 2
_RESOLUTION_MS = 0.001

_MOST_EVENTS = 500_000
"""onnxruntime keeps a million and drops the rest."""
_MOST_BYTES = 1 << 30
_STORED_APART_BYTES = 1024

_WITH_BODIES = frozenset({"If", "Loop", "Scan"})
_SUFFIX = "_kernel_time"

# Where the second operand stands among the inputs of operators that take scales and zero points between.
_SECOND = {"QLinearConv": 3, "QLinearMatMul": 3, "QGemm": 3, "QLinearAdd": 3, "QLinearMul": 3}
_NUMPY = {"float": "float32", "double": "float64"}

_Key = tuple[str, str, str]


@dataclass(slots=True)
class _Seen:
    """One node over the counted inferences."""

    ms: list[float]
    arguments: dict[str, Any]
    calls: int = 0
    output_bytes: list[int] = field(default_factory=list)


def profiled(
    path: Path,
    options: ort.SessionOptions,
    providers: Sequence[str],
    feeds: Sequence[Mapping[str, Array]],
    runs: int,
    scratch: Path,
) -> Profile:
    """See `Session.profile`."""
    model = onnx.load(path, load_external_data=False)
    content = None
    if name_every_node(model):
        content = model.SerializeToString()
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    runs = min(runs, max(1, _MOST_EVENTS // max(1, sum(1 for _ in all_nodes(model))) - _WARM_UP))
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(folder, "profile"))
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        # Weights beside it, or a model of more than 2 GiB could not be written.
        entry = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{entry}_file_name", "weights.bin")
        options.add_session_config_entry(f"{entry}_min_size_in_bytes", str(_STORED_APART_BYTES))
        session = opened(path, options, providers, content)
        for index in range(_WARM_UP + runs):
            run_natively(session, feeds[index % len(feeds)], None, path)
        written = Path(session.end_profiling())
        if written.stat().st_size > _MOST_BYTES:
            raise _incomplete()
        events = json.loads(written.read_bytes())
        rewritten = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return read_events(events, model, rewritten)


def read_events(events: Sequence[Mapping[str, Any]], original: ModelProto, rewritten: ModelProto) -> Profile:
    """Trace events of a session as times by operator; the first two inferences are warm-up.

    Raises StepError `profile_unavailable` where no inference after them is whole.
    """
    inferences = list(islice(_inferences(events), _WARM_UP, None))
    if not inferences:
        raise _incomplete()
    seen: dict[_Key, _Seen] = {}
    for place, (nodes, _) in enumerate(inferences):
        for event, own_ms in _own_times(nodes):
            arguments = event["args"]
            name = event["name"].removesuffix(_SUFFIX)
            key = (name, arguments["op_name"], arguments.get("node_index", ""))
            entry = seen.setdefault(key, _Seen([0.0] * len(inferences), arguments))
            entry.ms[place] += own_ms
            entry.calls += 1
            entry.output_bytes.append(int(arguments.get("output_size") or 0))
    now = {node.name: node for node in all_nodes(rewritten)}
    dtypes = _dtypes(rewritten)
    nodes_of = origins(original, rewritten)
    return Profile(
        kernels=tuple(
            Kernel(
                name=name,
                op_type=op_type,
                kernel=_kernel(op_type, now.get(name), dtypes, entry.arguments),
                provider=entry.arguments.get("provider", ""),
                calls=entry.calls / len(inferences),
                ms=tuple(entry.ms),
                output_bytes=max(entry.output_bytes),
                nodes=nodes_of.get(name, ()),
            )
            for (name, op_type, _), entry in seen.items()
        ),
        run_ms=tuple(run_ms for _, run_ms in inferences),
        resolution_ms=_RESOLUTION_MS,
    )


def _inferences(events: Sequence[Mapping[str, Any]]) -> Iterator[tuple[list[Mapping[str, Any]], float]]:
    """The nodes of each inference, and its time in ms. An event is written when it ends."""
    nodes: list[Mapping[str, Any]] = []
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith(_SUFFIX):
            nodes.append(event)
        elif event.get("cat") == "Session" and event["name"] == "model_run":
            yield nodes, event["dur"] / 1000
            nodes = []


def _own_times(nodes: Sequence[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], float]]:
    """Each node with its time in ms less that of the nodes in its bodies, which have ended before it."""
    ended: list[tuple[int, int]] = []
    for event in nodes:
        inside = 0
        if event["args"]["op_name"] in _WITH_BODIES:
            while ended and ended[-1][0] >= event["ts"]:
                inside += ended.pop()[1]
        ended.append((event["ts"], event["dur"]))
        yield event, max(event["dur"] - inside, 0) / 1000


def _kernel(op_type: str, node: NodeProto | None, dtypes: Mapping[str, str], arguments: Mapping[str, Any]) -> str:
    """The operator's full name and the types of its two operands, which decide what code runs."""
    # The profiler leaves out weights that were packed anew, so the graph is asked first.
    seen = [_NUMPY.get(name, name) for entry in arguments.get("input_type_shape") or [] for name in entry]
    if node is None:
        return f"{op_type}({', '.join(seen[:1])})"
    places = [place for place in (0, _SECOND.get(op_type, 1)) if place < len(node.input)]
    found = [dtypes.get(node.input[place]) or (seen[0] if seen and place == 0 else "") for place in places]
    operands = ", ".join(name for name in found if name)
    return f"{node.domain}:{op_type}({operands})" if node.domain else f"{op_type}({operands})"


def _dtypes(model: ModelProto) -> dict[str, str]:
    found: dict[str, str] = {}
    for graph in all_graphs(model):
        for value in (*graph.value_info, *graph.input, *graph.output):
            if value.type.tensor_type.elem_type:
                found[value.name] = dtype_name(value.type.tensor_type.elem_type)
        for tensor in graph.initializer:
            found[tensor.name] = dtype_name(tensor.data_type)
    return found


def _incomplete() -> StepError:
    return StepError(
        "The model runs more operators in an inference than onnxruntime's profiler keeps; profile it with shorter "
        "sequences, or a loop with fewer turns.",
        code="profile_unavailable",
    )
