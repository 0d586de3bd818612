"""Times by operator from onnxruntime's own profiler (onnxruntime 1.32, its JSON of trace events)."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto

from app.errors import StepError
from workers.formats.onnx.graph import all_graphs, all_nodes
from workers.formats.onnx.weights import dtype_name
from workers.runtimes.onnx_runtime import opened, run_natively, session_options_of
from workers.runtimes.origins import name_every_node, origins
from workers.runtimes.session import CPU, Array, Kernel, Profile

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


@dataclass(frozen=True, slots=True)
class Observed:
    """A model with the shapes that its tensors had in one run.

    `model` is the file's, with a name for every node and without external data. `shapes` and `dtypes` are
    by tensor, `calls` by node: in a loop a tensor has its last shape, and a node that did not run has no calls.
    """

    model: ModelProto
    shapes: Mapping[str, tuple[int, ...]]
    dtypes: Mapping[str, str]
    calls: Mapping[str, int]


def profiled(
    path: Path,
    options: ort.SessionOptions,
    providers: Sequence[str],
    feeds: Sequence[Mapping[str, Array]],
    runs: int,
    scratch: Path,
) -> Profile:
    """See `Session.profile`."""
    model, content = _named(path, options)
    runs = min(runs, max(1, _MOST_EVENTS // max(1, sum(1 for _ in all_nodes(model))) - _WARM_UP))
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        options.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        # Weights beside it, or a model of more than 2 GiB could not be written.
        entry = "session.optimized_model_external_initializers"
        options.add_session_config_entry(f"{entry}_file_name", "weights.bin")
        options.add_session_config_entry(f"{entry}_min_size_in_bytes", str(_STORED_APART_BYTES))
        rounds = [feeds[index % len(feeds)] for index in range(_WARM_UP + runs)]
        events = _recorded(path, content, options, providers, rounds, folder)
        rewritten = onnx.load(options.optimized_model_filepath, load_external_data=False)
    return read_events(events, model, rewritten)


def observe(
    path: Path, feed: Mapping[str, Array], scratch: Path, session_options: Mapping[str, str] | None = None
) -> Observed:
    """Run a model once as its file has it, nothing fused, and see every tensor's shape.

    `scratch` is a folder for the runtime's own files. Raises StepError `model_does_not_load` or `model_does_not_run`.
    """
    options = session_options_of(1, "none", session_options or {})
    model, content = _named(path, options)
    with tempfile.TemporaryDirectory(dir=scratch) as folder:
        events = _recorded(path, content, options, (CPU,), [feed], folder)
    shapes: dict[str, tuple[int, ...]] = {name: tuple(values.shape) for name, values in feed.items()}
    dtypes: dict[str, str] = {name: values.dtype.name for name, values in feed.items()}
    for tensor in _stored(model):
        shapes[tensor.name], dtypes[tensor.name] = tuple(tensor.dims), dtype_name(tensor.data_type)
    stored = frozenset(shapes) - set(feed)
    nodes = {node.name: node for node in all_nodes(model)}
    calls: Counter[str] = Counter()
    for event in next(_inferences(events), ([], 0.0))[0]:
        node = nodes.get(event["name"].removesuffix(_SUFFIX))
        if node is None:  # inside a local function
            continue
        calls[node.name] += 1
        # Outputs that nobody asked for have neither a name nor a shape.
        seen = list(zip(filter(None, node.output), event["args"].get("output_type_shape") or (), strict=False))
        entries = event["args"].get("input_type_shape") or ()
        given = [name for name in node.input if name]
        if len(given) > len(entries):  # weights that were packed anew are left out
            given = [name for name in given if name not in stored]
        if len(given) == len(entries):
            seen += [(name, entry) for name, entry in zip(given, entries, strict=True) if name not in shapes]
        for name, entry in seen:
            for dtype, shape in entry.items():
                shapes[name], dtypes[name] = tuple(shape), _NUMPY.get(dtype, dtype)
    return Observed(model=model, shapes=shapes, dtypes=dtypes, calls=dict(calls))


def _stored(model: ModelProto) -> Iterator[TensorProto]:
    """Every weight and constant by the name of the value that it is."""
    for graph in all_graphs(model):
        yield from graph.initializer
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.HasField("t"):
                    tensor = TensorProto()
                    tensor.CopyFrom(attribute.t)
                    tensor.name = node.output[0]
                    yield tensor


def _named(path: Path, options: ort.SessionOptions) -> tuple[ModelProto, bytes | None]:
    """The model with a name for every node, and its bytes in place of the file's where there was one without."""
    model = onnx.load(path, load_external_data=False)
    if not name_every_node(model):
        return model, None
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(path.parent))
    return model, model.SerializeToString()


def _recorded(
    path: Path,
    content: bytes | None,
    options: ort.SessionOptions,
    providers: Sequence[str],
    feeds: Iterable[Mapping[str, Array]],
    folder: str,
) -> Sequence[Mapping[str, Any]]:
    """The trace events of one run on each of the feeds."""
    options.enable_profiling = True
    options.profile_file_prefix = str(Path(folder, "profile"))
    session = opened(path, options, providers, content)
    for feed in feeds:
        run_natively(session, feed, None, path)
    written = Path(session.end_profiling())
    if written.stat().st_size > _MOST_BYTES:
        raise _incomplete()
    events: Sequence[Mapping[str, Any]] = json.loads(written.read_bytes())
    return events


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
