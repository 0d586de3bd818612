"""The last touches on a quantized model before it becomes a file."""

from onnx import ModelProto, helper

from workers.formats.onnx.graph import graphs
from workers.quantization.graph import sort_nodes

# Marks by which onnxruntime's tools recognize their own intermediate files.
_MARKS = frozenset({"onnx.infer", "onnx.quant.pre_process"})


def finish(model: ModelProto) -> None:
    """Order the nodes, and drop marks and inferred shapes, which runtimes infer again for themselves."""
    for graph in graphs(model.graph):
        del graph.value_info[:]
    rest = {entry.key: entry.value for entry in model.metadata_props if entry.key not in _MARKS}
    del model.metadata_props[:]
    if rest:
        helper.set_model_props(model, rest)
    sort_nodes(model.graph)
    model.ir_version = max(model.ir_version, helper.find_min_ir_version_for(list(model.opset_import), True))
