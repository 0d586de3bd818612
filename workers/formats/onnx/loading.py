"""Try whether the runtime can load a model, and say in its place what it cannot."""

import re
from collections.abc import Sequence
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import ModelProto

from app.errors import RejectedInput
from workers.formats.limits import human_bytes
from workers.formats.onnx.graph import all_nodes, domain_of

LEAST_OPSET = 7
"""The oldest default operator set that onnxruntime 1.32 stands by, and the oldest that ONNX's version
converter brought up to 13 and 21 in a trial of a small convolutional net (5 and 6 failed in both)."""

Titles = dict[tuple[str, str], str]

_FATAL = 4

# How onnxruntime 1.32 words what it cannot load.
_NO_KERNEL = re.compile(
    r"Could not find an implementation for (?P<op>[\w.]+)\((?P<since>\d+)\) node with name '(?P<name>.*)'"
)
_NOT_IN_OPSET = re.compile(
    r"In Node, \(\"(?P<name>.*?)\", (?P<op>[\w.]+), \"(?P<domain>.*?)\", -?\d+\).*Error "
    r"(?:No )?Op registered for \S+ (?P<deprecated>is deprecated in|with) domain_version of (?P<opset>\d+)",
    re.DOTALL,
)
_NOT_REGISTERED = re.compile(r"Fatal error: (?P<domain>[^:]*):(?P<op>[\w.]+)\(-?\d+\) is not a registered function/op")
_IR_VERSION = re.compile(r"Unsupported model IR version: (\d+), max supported IR version: (\d+)")
_OPSET = re.compile(r"Opset (\d+) is under development|domain (?P<domain>\S+) is till opset (\d+)")
_NO_MEMORY = re.compile(r"bad_alloc|[Ff]ailed to allocate memory|requested buffer of size (\d+)")


def check_versions(model: ModelProto) -> int | None:
    """The version of the default operator set, None where nothing of it is used.

    Raises RejectedInput `ir_version_too_new`, `opset_too_old` or `opset_too_new`.
    """
    if model.ir_version > onnx.IR_VERSION:
        raise _ir_version_too_new(model.ir_version, onnx.IR_VERSION)
    opsets = {domain_of(entry.domain): entry.version for entry in model.opset_import}
    opset = opsets.get("ai.onnx")
    if opset is None:
        if (model.ir_version < 3 and not opsets) or any(not node.domain for node in model.graph.node):
            opset = 1  # the only one there was when files did not have to say
        else:
            return None
    if opset < LEAST_OPSET:
        raise RejectedInput(
            f"The model uses opset {opset}; {LEAST_OPSET} is the oldest that works. Export it again with opset 17 or "
            "later, or convert it: onnx.save(onnx.version_converter.convert_version(onnx.load('model.onnx'), 17), "
            "'converted.onnx').",
            code="opset_too_old",
        )
    if opset > onnx.defs.onnx_opset_version():
        raise _opset_too_new(opset)
    return opset


def node_titles(model: ModelProto) -> Titles:
    """How to name, by operator and domain, the first node of each kind."""
    titles: Titles = {}
    for node in all_nodes(model):
        output = node.output[0] if node.output else ""
        title = f"Node {node.name[:200]!r}" if node.name else f"The node that makes {output[:200]!r}"
        titles.setdefault((node.op_type, domain_of(node.domain)), title)
    return titles


def check_loads(path: Path, titles: Titles) -> Sequence[ort.NodeArg]:
    """Load a model twice, without and with optimization, and return its outputs as the runtime sees them.

    `titles` is what `node_titles` said of the model, which itself need not be kept in memory meanwhile.

    Without first, since constants are folded before anything else is checked, and a file of 133 bytes
    can fill the memory that way: what is wrong with the graph is then known before anything is computed.
    Nothing is run. Raises RejectedInput `unsupported_operator`, `ir_version_too_new`, `opset_too_new`,
    `model_needs_too_much_memory` or `invalid_model`.
    """
    _session(path, titles, ort.GraphOptimizationLevel.ORT_DISABLE_ALL)
    session = _session(path, titles, ort.GraphOptimizationLevel.ORT_ENABLE_ALL)
    outputs: Sequence[ort.NodeArg] = session.get_outputs()
    return outputs


def _session(path: Path, titles: Titles, level: ort.GraphOptimizationLevel) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = level
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = _FATAL  # the message of the exception says it all
    try:
        # Without its fallback, which only loads the same once more and prints.
        return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:  # onnxruntime raises some twenty classes that share no base but Exception
        raise _rejection(error, titles, path) from error


def _rejection(error: Exception, titles: Titles, path: Path) -> RejectedInput:
    text = str(error)
    if found := _IR_VERSION.search(text):
        return _ir_version_too_new(int(found[1]), int(found[2]))
    if found := _NOT_IN_OPSET.search(text):
        why = "removed from" if found["deprecated"].startswith("is") else "not part of"
        return _unsupported(
            titles,
            found["op"],
            found["domain"],
            found["name"],
            f"which is {why} version {found['opset']} of {_domain_text(found['domain'])}. Export the model again with "
            "an opset that has it, or write it with other operators",
        )
    if found := _NOT_REGISTERED.search(text):
        return _unsupported(
            titles,
            found["op"],
            found["domain"],
            "",
            f"which onnxruntime {ort.__version__} does not know. Export the model with standard operators, or bring "
            "the operator along as a local function",
        )
    if found := _NO_KERNEL.search(text):
        return _unsupported(
            titles,
            found["op"],
            "",
            found["name"],
            f"for which onnxruntime {ort.__version__} has no code on the CPU in version {found['since']} and with "
            "these element types. Export the model with a later opset, or in float32",
        )
    if found := _OPSET.search(text):
        return _opset_too_new(int(found[1] or found[3]), found["domain"])
    if found := _NO_MEMORY.search(text):
        asked = f" ({human_bytes(int(found[1]))} at once)" if found[1] else ""
        return RejectedInput(
            f"Loading the model needs more memory than a model may have here{asked}. Look for constants that it "
            "computes from huge shapes, or ask the operator for a larger limit.",
            code="model_needs_too_much_memory",
        )
    return RejectedInput(
        f"onnxruntime {ort.__version__} cannot load the model: {_plain(text, path)} Check it with "
        "onnx.checker.check_model(…, full_check=True) and export it again.",
        code="invalid_model",
    )


def _unsupported(titles: Titles, op_type: str, domain: str, name: str, why: str) -> RejectedInput:
    title = f"Node {name[:200]!r}" if name else titles.get((op_type, domain_of(domain)), "A node")
    qualified = f"{domain}:{op_type}" if domain else op_type
    return RejectedInput(f"{title} uses the operator {qualified}, {why}.", code="unsupported_operator")


def _domain_text(domain: str) -> str:
    return f"the operator set {domain!r}" if domain else "ONNX's own operator set"


def _ir_version_too_new(version: int, newest: int) -> RejectedInput:
    return RejectedInput(
        f"The file has IR version {version}, newer than the {newest} that onnxruntime {ort.__version__} reads. If it "
        f"uses no newer operators, set model.ir_version = {newest} and save it again; else export it with an older "
        "onnx package.",
        code="ir_version_too_new",
    )


def _opset_too_new(version: int, domain: str | None = None) -> RejectedInput:
    return RejectedInput(
        f"The model uses opset {version}{f' of {domain}' if domain else ''}, newer than the "
        f"{onnx.defs.onnx_opset_version()} that onnxruntime {ort.__version__} reads. Export it again with an older "
        "opset, such as 21.",
        code="opset_too_new",
    )


def _plain(text: str, path: Path) -> str:
    """The runtime's message without its source lines and our paths, as one sentence."""
    text = text.replace(str(path.parent) + "/", "")
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"Load model from \S+ failed: ?", "", text)
    text = re.sub(r"/onnxruntime_src/\S+:\d+ .*?\)(?: const)? ", "", text)
    text = " ".join(text.split()).rstrip(".")
    return (text if len(text) <= 500 else text[:499] + "…") + "."
